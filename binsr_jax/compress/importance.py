"""Scores of the units and the channels of a binary network, by their importance.

A gate multiplies the output of a unit's binary branch, or all that layers write into a channel of
the features. A gate of 1 changes nothing; a gate of 0 removes the branch or the channel.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from binsr_jax import models
from binsr_jax.config import Config, copy_of
from binsr_jax.deploy.pack import pack_params
from binsr_jax.errors import UserError
from binsr_jax.ops.packed import unpack_weights

Path = tuple[str, ...]
Flat = dict[Path, Any]

METHODS = ("scale", "taylor", "loss")
_NEUTRAL = 40.0  # a bias with which a sigmoid is exactly 1 in float32


class Importance(NamedTuple):
    """Scores of at least 0; a larger one means more importance.

    Attributes:
        units: The score of each unit of the body.
        channels: The score of each channel of the features.
    """

    units: np.ndarray
    channels: np.ndarray


def importance(
    config: Config, variables: dict[str, Any], batch: Mapping[str, np.ndarray], method: str
) -> Importance:
    """The importance of units and channels, by one of three measures.

        "scale"    |branch factor| mean weight scale of a unit; of a channel, the sum over the units
                   of |branch factor| weight scale
        "taylor"   |d loss / d gate| at 1: the first-order Taylor expansion of the change of the
                   loss (Molchanov et al., "Importance Estimation for Neural Network Pruning")
        "loss"     the increase of the loss without the unit, or with the channel's gate at 0; 0
                   if the loss decreases

    The loss is the mean absolute error.

    Args:
        config: The config of the network.
        variables: The variables of ``models.build(config)``.
        batch: ``lq`` and ``hq`` of training pairs; "scale" does not use them.
        method: A name of ``METHODS``.

    Raises:
        UserError: The units of the network do not have one binary branch each.
    """
    explicit, params = explicit_weight_scales(config, variables)
    units, channels = unit_names(config), config.model.features
    if method == "scale":
        sizes = np.stack(
            [np.abs(_factor(params, u) * params[u, "conv", "scale"]) for u in units]
        ).reshape(len(units), channels)
        return Importance(sizes.mean(1), sizes.sum(0))
    model, writes = models.build(explicit), _writes(explicit)
    lq, hq = jnp.asarray(batch["lq"]), jnp.asarray(batch["hq"])

    @jax.jit
    def loss(params: Flat, unit_gates: jax.Array, channel_gates: jax.Array) -> jax.Array:
        gated = dict(params)
        for path, repeats in writes.items():
            gated[path] *= jnp.repeat(channel_gates, repeats)
            if path[0] in units:
                gated[path] *= unit_gates[units.index(path[0])]
        output = model.apply({"params": unflatten_dict(gated)}, lq, train=False)
        assert isinstance(output, jax.Array)
        return jnp.abs(output - hq).mean()

    ones = jnp.ones(len(units)), jnp.ones(channels)
    if method == "taylor":
        slopes = jax.jit(jax.grad(loss, (1, 2)))(params, *ones)
        return Importance(*(np.abs(np.asarray(slope)) for slope in slopes))
    start = float(loss(params, *ones))
    without = [loss({**params, **neutral(params, unit)}, *ones) for unit in units]
    closed = [loss(params, ones[0], ones[1].at[c].set(0.0)) for c in range(channels)]
    return Importance(*(np.maximum(np.asarray(v) - start, 0) for v in (without, closed)))


def unit_names(config: Config) -> list[str]:
    """The names of the body's units, in their order."""
    names = {path[0] for path in flatten_dict(models.shapes(config)["params"])}
    numbers = [int(n[5:]) for n in names if n.startswith("body_") and n[5:].isdecimal()]
    return [f"body_{i}" for i in sorted(numbers)]


def feature_axes(config: Config) -> dict[Path, tuple[int, ...]]:
    """For each axis of each parameter, how many of its indices belong to a channel (0: none)."""
    wider = copy_of(config)
    wider.model.features += 1
    shapes: Flat = flatten_dict(models.shapes(config)["params"])
    others: Flat = flatten_dict(models.shapes(wider)["params"])
    return {
        path: tuple(b - a for a, b in zip(leaf.shape, others[path].shape, strict=True))
        for path, leaf in shapes.items()
    }


def explicit_weight_scales(config: Config, variables: dict[str, Any]) -> tuple[Config, Flat]:
    """The same network with its weight scales as parameters.

    Returns:
        Its config, and its parameters by path; kernels of binary convolutions are +1 and -1.

    Raises:
        UserError: The units of the network do not have one binary branch each.
    """
    kernels, units = models.binary_kernels(config), unit_names(config)
    if variables.keys() != {"params"} or not all((u, "conv", "kernel") in kernels for u in units):
        raise UserError(
            f"Networks of the unit {config.model.unit} cannot be pruned: this needs units with one "
            "binary convolution and without batch normalisation, such as attention and bbcu."
        )
    packed: Flat = flatten_dict(pack_params(config, variables))
    shapes: Flat = flatten_dict(models.shapes(config)["params"])
    explicit = copy_of(config)
    explicit.model.weight_scale = "learnable"
    params: Flat = {path: v for path, v in packed.items() if path[-1] != "w_bits"}
    for path in kernels:
        bits = jnp.asarray(packed[*path[:-1], "w_bits"])
        params[path] = unpack_weights(bits, shapes[path].shape[2])
    return explicit.lock(), {path: jnp.asarray(v) for path, v in params.items()}


def neutral(params: Flat, unit: str) -> Flat:
    """The changed parameters with which a unit returns its input."""
    changed = {}
    for path, value in params.items():
        if path[0] != unit:
            continue
        if path[-1] == "residual_scale":
            changed[path] = jnp.ones_like(value)
        elif path[1] == "residual_attention":
            changed[path] = jnp.full_like(value, _NEUTRAL if path[-1] == "bias" else 0)
        elif path[-1] == "binary_scale" or path[1:] in _OUTPUTS:
            changed[path] = jnp.zeros_like(value)
    return changed


# The parameters in which a unit's binary branch is linear, apart from its branch factor.
_OUTPUTS: set[Path] = {
    ("conv", "scale"),
    ("conv", "bias"),
    ("shift",),
    ("rprelu", "shift_in"),
    ("rprelu", "shift_out"),
}


def _writes(config: Config) -> dict[Path, int]:
    """The parameters by which layers write into the features, and how many belong to a channel.

    A factor on all of them scales what the layers write, since a PReLU passes a factor above 0.
    """
    binary = {path[:-1] for path in models.binary_kernels(config)}
    found = {}
    for path, repeats in feature_axes(config).items():
        if not (repeats and repeats[-1]) or any(name.endswith("_attention") for name in path):
            continue
        of_float = path[-1] in ("kernel", "bias") and path[:-1] not in binary
        if of_float or path[-2:] in _OUTPUTS or path[1:] in _OUTPUTS:
            found[path] = repeats[-1]
    return found


def _factor(params: Flat, unit: str) -> jax.Array:
    """The factor of a unit's convolution: its branch factor, or a scale for each channel."""
    return params.get((unit, "binary_scale"), params.get((unit, "scale"), jnp.ones(())))
