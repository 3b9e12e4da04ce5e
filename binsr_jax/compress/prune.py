"""A smaller network of a binary one: units and channels are taken out, and the rest is kept."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from binsr_jax import models
from binsr_jax.compress.importance import (
    Flat,
    explicit_scales,
    feature_axes,
    importance,
    unit_names,
)
from binsr_jax.config import Config, copy_of
from binsr_jax.data.pipeline import training_batches
from binsr_jax.errors import UserError
from binsr_jax.models.watching import watch
from binsr_jax.training.trainable import Network

_SIDE, _PATCHES = 48, 16  # of the pictures by which importance is measured


class Pruned(NamedTuple):
    """A smaller network.

    Attributes:
        network: to be trained on, or packed.
        units: the numbers of the units that were kept, in their order.
        channels: those of the channels.
    """

    network: Network
    units: list[int]
    channels: list[int]


def prune(
    network: Network,
    blocks: int | None = None,
    features: int | None = None,
    method: str = "taylor",
    images: str = "",
) -> Pruned:
    """The network with fewer blocks or channels: those that matter most, by one measure.

    Units are taken out first, and the channels are then measured in what is left. Steps stay in the
    provenance; scores, which are of the whole network, do not.

    Args:
        network: of units with one binary branch each.
        blocks: that are kept; None keeps all. Any units may be: they need not lie in one block.
        features: channels that are kept; None keeps all.
        method: a name of ``importance.METHODS``.
        images: a folder of pictures to measure with; "" takes the packaged samples.

    Raises:
        UserError: there are not so many, the network has other units, or there are no pictures.
    """
    config, variables = network.config, network.variables
    explicit_scales(config, variables)  # refuses other networks
    for field, number in (("blocks", blocks), ("features", features)):
        if number is not None and not 1 <= number <= config.model[field]:
            raise UserError(
                f"The network has {config.model[field]} {field}, of which 1 to that many can be "
                f"kept, not {number}."
            )
    batch = calibration_batch(config, images)
    kept = list(range(len(unit_names(config))))
    if blocks is not None and blocks < config.model.blocks:
        count = blocks * len(kept) // config.model.blocks
        kept = _largest(importance(config, variables, batch, method).units, count)
        config, variables = without_units(config, variables, kept)
    channels = list(range(config.model.features))
    if features is not None and features < len(channels):
        channels = _largest(importance(config, variables, batch, method).channels, features)
        config, variables = without_channels(config, variables, channels, batch["lq"])
    provenance = {name: v for name, v in network.provenance.items() if name != "scores"}
    return Pruned(Network(config, variables, provenance), kept, channels)


def calibration_batch(config: Config, images: str = "") -> dict[str, np.ndarray]:
    """Sixteen training pairs of a config's task, always the same.

    Args:
        config: says the task, its degradation and the seed.
        images: a folder of pictures; "" takes the packaged samples.
    """
    own = copy_of(config)
    own.data.update({"sources": (), "taught": 0, "workers": 0, "patch": _SIDE})
    own.data.update({"source": "folder" if images else "samples", "dir": images})
    own.train.batch = _PATCHES
    with training_batches(own.lock()) as batches:
        return next(batches)


def without_units(
    config: Config, variables: dict[str, Any], kept: Sequence[int]
) -> tuple[Config, dict[str, Any]]:
    """The network of some of its units alone.

    Its output is that of the whole network where the others return their input.

    Args:
        config: of the whole network.
        variables: of the whole network.
        kept: numbers of units, in growing order; whole blocks of them.
    """
    units, smaller = unit_names(config), copy_of(config)
    smaller.model.blocks = config.model.blocks * len(kept) // len(units)
    names = {units[number]: f"body_{i}" for i, number in enumerate(kept)}
    flat: Flat = flatten_dict(variables)
    chosen: Flat = {}
    for (part, first, *rest), value in flat.items():
        if first not in units or first in names:
            chosen[part, names.get(first, first), *rest] = value
    return smaller.lock(), unflatten_dict(chosen)


def without_channels(
    config: Config, variables: dict[str, Any], kept: Sequence[int], lq: np.ndarray
) -> tuple[Config, dict[str, Any]]:
    """The network of some of its channels alone.

    A channel that is left out is no zero to a binary convolution: its sign is +1 or -1. Its mean,
    times the weights, goes into the shift before the next activation. So where the sign of a
    channel is the same everywhere, the smaller network gives the same, but near the border, where
    the padding has no sign. Weight scales stay what they are.

    Args:
        config: of the whole network.
        variables: of the whole network.
        kept: numbers of channels, in growing order.
        lq: a batch of inputs, ``[B, h, w, C]``, by which mean signs are measured.
    """
    smaller, axes = copy_of(config), feature_axes(config)
    smaller.model.features = len(kept)
    explicit, scaled = explicit_scales(config, variables)
    shifts = _shifts(explicit, scaled, kept, lq)
    flat: Flat = flatten_dict(variables["params"])
    kernels, chosen = models.binary_kernels(config), {}
    for path, value in flat.items():
        array = np.asarray(value)
        if path in shifts:
            array = array + shifts[path]
        part = _of_channels(array, axes[path], kept)
        if path in kernels:
            part = _with_scale(part, _of_channels(_size(array), axes[path][-1:], kept))
        chosen[path] = part
    return smaller.lock(), {"params": unflatten_dict(chosen)}


def _shifts(explicit: Config, params: Flat, kept: Sequence[int], lq: np.ndarray) -> Flat:
    """How shifts change, by path, for what the channels that are left out add on average."""
    seen = watch(explicit, {"params": unflatten_dict(params)}, lq)
    dropped = np.ones(explicit.model.features, bool)
    dropped[list(kept)] = False
    shifts: Flat = {}
    for place, x in seen.entering.items():
        kernel, threshold = (*place, "conv", "kernel"), (*place, "rsign", "threshold")
        shift = (*place, "rprelu", "shift_in")
        if kernel not in params or shift not in params:
            continue
        signs = np.where(x > np.asarray(params.get(threshold, 0.0)), 1.0, -1.0).mean((0, 1, 2))
        signs = np.where(dropped, signs, 0.0)
        weights = np.asarray(params[kernel]) * np.asarray(params[*place, "conv", "scale"])
        factor = np.asarray(params.get((*place, "scale"), 1.0))
        added = factor * np.einsum("hwio,i->o", weights, signs)
        shifts[shift] = -added.astype(np.float32)  # which is taken off before the activation
    return shifts


def _of_channels(array: np.ndarray, axes: Sequence[int], kept: Sequence[int]) -> np.ndarray:
    """The part of an array that belongs to some channels; see ``importance.feature_axes``."""
    for axis, repeats in enumerate(axes):
        if repeats:
            indices = [channel * repeats + i for channel in kept for i in range(repeats)]
            array = np.take(array, indices, axis)
    return array


def _with_scale(kernel: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Latent weights whose mean size a channel is ``size``, with the same signs."""
    own = _size(kernel)
    return kernel * np.where(own > 0, size / np.where(own > 0, own, 1), 1).astype(kernel.dtype)


def _size(kernel: np.ndarray) -> np.ndarray:
    return np.abs(kernel).mean((0, 1, 2))


def _largest(values: np.ndarray, count: int) -> list[int]:
    """The places of the largest values, in growing order; of equal ones the first."""
    return sorted(np.argsort(-values, kind="stable")[:count].tolist())
