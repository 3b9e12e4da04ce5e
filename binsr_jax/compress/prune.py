"""Prunes a binary network: removes units and channels, and keeps the rest."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from binsr_jax import models
from binsr_jax.compress.importance import (
    Flat,
    explicit_weight_scales,
    feature_axes,
    importance,
    unit_names,
)
from binsr_jax.config import Config, copy_of
from binsr_jax.data.pipeline import training_batches
from binsr_jax.errors import UserError
from binsr_jax.models.watching import watch
from binsr_jax.training.trainable import Network

_SIDE, _PATCHES = 48, 16  # of the patches by which importance is measured


class Pruned(NamedTuple):
    """A smaller network.

    Attributes:
        network: The smaller network, to train or to pack.
        units: The numbers of the kept units, in their order.
        channels: The numbers of the kept channels, in their order.
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
    """The network reduced to its most important blocks and channels.

    Units are removed first; the channels are then measured in the remaining network. The number of
    steps stays in the provenance. Scores do not, since they belong to the whole network.

    Args:
        network: A network whose units have one binary branch each.
        blocks: The number of blocks to keep; None keeps all. The units of a kept block may come
            from different blocks.
        features: The number of channels to keep; None keeps all.
        method: A name of ``importance.METHODS``.
        images: A folder of pictures to measure with; "" uses the packaged samples.

    Raises:
        UserError: The network has fewer blocks or channels, or other units; or the folder has no
            pictures.
    """
    config, variables = network.config, network.variables
    explicit_weight_scales(config, variables)  # refuses other networks
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
        config: The config, with the task, its degradation and the seed.
        images: A folder of pictures; "" uses the packaged samples.
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
    """The network with only some of its units.

    The units that are left out act as if they returned their input unchanged.

    Args:
        config: The config of the whole network.
        variables: The variables of the whole network.
        kept: The numbers of the units to keep, ascending; as many as whole blocks have.
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
    """The network with only some of its channels.

    To a binary convolution, a removed channel is not zero: its sign is +1 or -1. The mean sign
    times the weights is therefore added to the shift before the next activation. If the sign of a
    removed channel is the same everywhere, the output does not change, except near the border,
    where the padding has no sign. Weight scales keep their values.

    Args:
        config: The config of the whole network.
        variables: The variables of the whole network.
        kept: The numbers of the channels to keep, ascending.
        lq: A batch of inputs, ``[B, h, w, C]``, by which mean signs are measured.
    """
    smaller, axes = copy_of(config), feature_axes(config)
    smaller.model.features = len(kept)
    explicit, scaled = explicit_weight_scales(config, variables)
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
    """The changes of shifts, by path, that replace the mean contribution of removed channels."""
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
        shifts[shift] = -added.astype(np.float32)  # which is subtracted before the activation
    return shifts


def _of_channels(array: np.ndarray, axes: Sequence[int], kept: Sequence[int]) -> np.ndarray:
    """The part of an array that belongs to some channels; see ``importance.feature_axes``."""
    for axis, repeats in enumerate(axes):
        if repeats:
            indices = [channel * repeats + i for channel in kept for i in range(repeats)]
            array = np.take(array, indices, axis)
    return array


def _with_scale(kernel: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Latent weights with the same signs, and a mean size of ``size`` in each channel."""
    own = _size(kernel)
    return kernel * np.where(own > 0, size / np.where(own > 0, own, 1), 1).astype(kernel.dtype)


def _size(kernel: np.ndarray) -> np.ndarray:
    return np.abs(kernel).mean((0, 1, 2))


def _largest(values: np.ndarray, count: int) -> list[int]:
    """The indices of the largest values, ascending; the first ones of equal values."""
    return sorted(np.argsort(-values, kind="stable")[:count].tolist())
