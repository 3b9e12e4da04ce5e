"""One training step: the loss, its gradients, and the update, compiled for all devices at once."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from binsr_jax import models
from binsr_jax.config import Config
from binsr_jax.nn.fence import UNIT_INPUT
from binsr_jax.training.devices import AXIS
from binsr_jax.training.losses import make_loss
from binsr_jax.training.state import TrainState, learning_rate

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Collections = dict[str, Any]
Gradient = Callable[[TrainState, Batch], tuple[jax.Array, Collections, Any]]
TrainingLoss = Callable[[Any, Collections, Batch, jax.Array], tuple[jax.Array, Collections]]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def _average(old: Any, new: Any, step: jax.Array, decay: float) -> Any:
    """``d * old + (1 - d) * new``, with d at most ``decay`` and small in the first steps.

    With ``d = min(decay, (1 + t) / (10 + t))`` the average forgets the random start quickly.
    """
    t = step.astype(jnp.float32)
    d = jnp.minimum(jnp.float32(decay), (1.0 + t) / (10.0 + t))
    return optax.incremental_update(new, old, 1.0 - d)


def _clip(params: Any, names: frozenset[tuple[str, ...]]) -> Any:
    """The parameters with those of these names clipped to -1..1.

    Beyond, the gradient of a binary weight is 0: it would never come back.
    """
    flat: dict[tuple[str, ...], Any] = flatten_dict(params)
    project = optax.projections.projection_box
    clipped = {name: project(flat[name], -1.0, 1.0) for name in names & flat.keys()}
    return unflatten_dict({**flat, **clipped})


def _parts(array: jax.Array, count: int) -> jax.Array:
    """``[B, ...] -> [count, B / count, ...]``: every part has as much of each device's share."""
    return array.reshape(-1, count, *array.shape[1:]).swapaxes(0, 1)


def make_training_loss(config: Config, model: nn.Module) -> TrainingLoss:
    """The loss of a batch, and the network's other variables after it.

    Args:
        config: The run.
        model: As ``make_step`` wants it; with ``train.scan`` it has an attribute ``scan``.

    Returns:
        ``(params, collections, batch, progress) -> (loss, collections)``. With ``train.remat`` its
        gradient keeps the inputs of the units alone.
    """
    loss_of = make_loss(config.train)
    if config.train.scan:
        model = model.clone(scan=True)

    def loss_and_collections(
        params: Any, collections: Collections, batch: Batch, progress: jax.Array
    ) -> tuple[jax.Array, Collections]:
        variables = {"params": params, **collections}
        output, updated = model.apply(
            variables, batch["lq"], train=True, progress=progress, mutable=list(collections)
        )
        loss = loss_of(output, batch["hq"])
        if "teacher" in batch:
            loss += config.train.teacher_weight * loss_of(output, batch["teacher"])
        return loss, dict(updated)

    if not config.train.remat:
        return loss_and_collections
    keep = jax.checkpoint_policies.save_only_these_names(UNIT_INPUT)
    return jax.checkpoint(loss_and_collections, policy=keep)


def make_gradient(config: Config, model: nn.Module) -> Gradient:
    """The mean loss of a batch, the network's other variables after it, and the mean gradient.

    With ``train.accumulate`` the batch is worked in parts, one after the other. Losses are means,
    so the mean over the parts is that over the batch; other variables, such as statistics of
    batches, go from part to part. With ``train.remat`` and ``train.scan`` the program is another
    and its values the same; with ``train.compute`` "bfloat16" the factors in convolutions are
    rounded.

    Args:
        config: The run.
        model: As ``make_step`` wants it; with ``train.scan`` it has an attribute ``scan``.
    """
    parts = config.train.accumulate
    differentiate = jax.value_and_grad(make_training_loss(config, model), has_aux=True)

    def of_part(state: TrainState, collections: Collections, batch: Batch):
        progress = state.step.astype(jnp.float32) / config.train.steps
        (loss, collections), gradient = differentiate(state.params, collections, batch, progress)
        return loss, collections, gradient

    def in_parts(state: TrainState, batch: Batch):
        def add(sums: Any, part: Batch) -> tuple[Any, None]:
            total, collections, total_gradient = sums
            loss, collections, gradient = of_part(state, collections, part)
            return (total + loss, collections, optax.tree.add(total_gradient, gradient)), None

        start = jnp.zeros((), jnp.float32), state.collections, optax.tree.zeros_like(state.params)
        split = {name: _parts(array, parts) for name, array in batch.items()}
        (total, collections, total_gradient), _ = jax.lax.scan(add, start, split)
        return total / parts, collections, jax.tree.map(lambda g: g / parts, total_gradient)

    def gradient_of(state: TrainState, batch: Batch):
        with jax.default_matmul_precision(config.train.compute):
            if parts > 1:
                return in_parts(state, batch)
            return of_part(state, state.collections, batch)

    return gradient_of


def make_step(
    config: Config, model: nn.Module, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Step:
    """Compiles one update: ``state, metrics = step(state, batch)``.

    The same function runs in both forms of data parallelism. With ``config.parallel`` "mesh" it is
    jitted on global arrays, batch split and state replicated over the mesh, and XLA adds the sums
    over devices. With "pmap" each device runs it on its part, and gradients, metrics and other
    variables are averaged by hand.

    Args:
        config: The run.
        model: Called as ``model.apply(variables, lq, train=True, progress=step / steps)``.
        optimizer: From ``make_optimizer``.
        mesh: From ``make_mesh``.

    Returns:
        A function of a state and a batch ``{"lq": f32[B, h, w, C], "hq": f32[B, s*h, s*w, C]}``,
        placed by ``place_state`` and ``place_batch``. A teacher's output beside them, ``teacher``
        like ``hq``, adds ``train.teacher_weight`` times the loss against it. The step
        donates the state, and returns the new one with float32 scalars ``loss``, ``gradient_norm``
        and ``learning_rate``, all of them as before the update.
    """
    gradient_of = make_gradient(config, model)
    schedule = learning_rate(config.train)
    latent: frozenset[tuple[str, ...]] = frozenset()
    if config.train.clip_weights:
        latent = models.binary_kernels(config)
    by_hand = config.parallel == "pmap"

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        loss, collections, gradients = gradient_of(state, batch)
        if by_hand:
            loss, collections, gradients = jax.lax.pmean((loss, collections, gradients), AXIS)

        with jax.numpy_dtype_promotion("standard"):  # Optax mixes integers and floats
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
            rate = jnp.asarray(schedule(state.step), jnp.float32)
        params = optax.apply_updates(state.params, updates)
        if latent:
            params = _clip(params, latent)
        ema = state.ema
        if ema is not None:
            ema = _average(ema, params, state.step, config.train.ema)
        metrics = {
            "loss": loss,
            "gradient_norm": optax.tree.norm(gradients),
            "learning_rate": rate,
        }
        return TrainState(state.step + 1, params, collections, opt_state, ema), metrics

    if by_hand:
        devices = list(mesh.devices.flat)
        return jax.pmap(
            step, AXIS, in_axes=(None, 0), out_axes=None, donate_argnums=0, devices=devices
        )
    replicated = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.jit(
        step, donate_argnums=0, in_shardings=(replicated, split), out_shardings=replicated
    )
