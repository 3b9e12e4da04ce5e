"""The memory that a training step needs, estimated before it is allocated."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import Mesh

from binsr_jax.config import Config
from binsr_jax.errors import UserError
from binsr_jax.memory import available_memory
from binsr_jax.tasks import task_of
from binsr_jax.training.perceptual import vgg_shapes
from binsr_jax.training.state import TrainState
from binsr_jax.training.step import make_training_loss

# Copies of a batch, counted as floats: four prepared ahead as bytes, one taken, two on the device.
_COPIES = 4
_WORTH_A_LOOK = 2**24  # bytes of a batch from which the step is examined
_WORTH_A_LINE = 2**31  # bytes of a step from which its memory is logged


def check_memory(
    config: Config, model: nn.Module, initial: Callable[[], TrainState], mesh: Mesh
) -> None:
    """Logs the memory of a step with a large batch, and refuses a step that cannot fit.

    Args:
        config: The run.
        model: Its network.
        initial: Makes its first state; it is only traced.
        mesh: The devices that share a batch.

    Raises:
        UserError: The memory of the machine, or of a device, is too small for a step.
    """
    processes, train = jax.process_count(), config.train
    batches = _COPIES * train.batch * patch_bytes(config) // processes
    device = mesh.local_devices[0]
    accelerated = device.platform != "cpu"
    kept = 0
    if train.batch * patch_bytes(config) > _WORTH_A_LOOK:
        of_patch = kept_bytes(config, model, jax.eval_shape(initial))
        kept = train.batch * of_patch // train.accumulate // processes
    needs = [("machine", batches + (0 if accelerated else kept), available_memory())]
    if accelerated:
        share = (batches + kept) // len(mesh.local_devices)
        needs.append(("device", share, (device.memory_stats() or {}).get("bytes_limit")))
    for place, needed, available in needs:
        if available is not None and needed > available:
            fitting = max(1, int(train.batch * available / needed))
            hint = f"at most about {_rounded(fitting):,} fit"
            if batches < available:
                hint += ", or split it into parts (config.train.accumulate)"
            raise UserError(
                f"config.train.batch is {train.batch:,}, and a step with it needs at least "
                f"{_size(needed)} of memory, but the {place} has {_size(available)} left: {hint}."
            )
        if needed > _WORTH_A_LINE:
            logging.info("A step needs at least %s of memory of the %s.", _size(needed), place)


def patch_bytes(config: Config) -> int:
    """Bytes of a pair of patches in float32."""
    side = config.data.patch
    return 4 * task_of(config).channels * (side**2 + (side // config.scale) ** 2)


def kept_bytes(config: Config, model: nn.Module, state: TrainState) -> int:
    """Bytes per patch that the forward pass saves for the backward pass."""
    side, channels = config.data.patch, task_of(config).channels
    low = side // config.scale
    batch = {
        "lq": jax.ShapeDtypeStruct((1, low, low, channels), jnp.float32),
        "hq": jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32),
    }
    loss = make_training_loss(config, model)
    fixed = {"vgg": vgg_shapes(config.train)} if config.train.perceptual_weight else {}

    def backward(params: Any, *others: Any) -> Any:
        return jax.vjp(lambda params: loss(params, *others)[0], params)[1]

    # The backward pass is a tree whose leaves are the saved arrays.
    others = (state.collections, batch, jax.ShapeDtypeStruct((), jnp.float32), state.adversary)
    kept = jax.eval_shape(backward, state.params, *others, fixed)
    total = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))
    networks = jax.tree.leaves((state.params, fixed, state.adversary and state.adversary.params))
    weights = sum(leaf.size * leaf.dtype.itemsize for leaf in networks)
    return max(0, total - weights)


def _rounded(number: int) -> int:
    """The number with two digits, rounded down."""
    unit = 10 ** max(0, len(str(number)) - 2)
    return number // unit * unit


def _size(amount: float) -> str:
    return f"{amount / 1e9:,.2g} GB" if amount < 1e11 else f"{amount / 1e9:,.0f} GB"
