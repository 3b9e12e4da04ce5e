"""Trainable files: a network with its latent weights, small enough to keep beside its packed form.

A packed network has only the signs of its binary weights. A trainable file stores the latent
weights as int8 with one step size per channel: ``w = step (q + 1/2)`` with q in -128..127. This is
never zero, so every sign is preserved. Everything else is float32. The file is a safetensors file:
tensors are named by the paths of the Flax variables, and the metadata holds the config and the
provenance.
"""

import json
import math
import os
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from binsr_jax import __version__, models
from binsr_jax.config import (
    LOCAL_FIELDS,
    Config,
    config_from_json,
    config_to_json,
)
from binsr_jax.data.sources import source_kinds
from binsr_jax.errors import UserError
from binsr_jax.files import expanded, open_regular, replace_bytes
from binsr_jax.models.limits import check_network, known_provenance
from binsr_jax.tasks import task_of
from binsr_jax.training.trained import load_trained

SUFFIX = ".safetensors"

_VERSION = 1
_ENTRY = "binsr_trainable"  # entry in the file's metadata
_MOST_BYTES = 1 << 28
_MOST_STEP = 1e30  # so that 128 steps are finite
_STEP = "step"  # name beside a kernel: the step size of each of its channels
_MAX_REASON = 300  # characters
_Path = tuple[str, ...]


@dataclass(frozen=True)
class Network:
    """A network that can be trained further, or packed.

    Attributes:
        config: A full config.
        variables: Those of ``models.build``: ``params``, and other collections if it has any.
        provenance: How it was trained; see ``deploy.model_file.PackedModel``.
    """

    config: Config
    variables: dict[str, Any]
    provenance: dict[str, Any]


def network_of_run(
    workdir: str | os.PathLike[str], which: Literal["best", "latest"] = "best"
) -> Network:
    """The network of a work dir.

    Args:
        workdir: The work dir of its training.
        which: The checkpoint: "best" by the first evaluation set's PSNR, or "latest".

    Raises:
        UserError: There is no checkpoint, or it is damaged.
    """
    trained = load_trained(workdir, which)
    config, score = trained.config, trained.score
    scores = {}
    if score is not None and math.isfinite(score.psnr):  # JSON has no infinity
        # Earlier versions stored no set; it was the config's first one.
        first = score.set or task_of(config).scored_sets(config.eval.sets[0])[0]
        scores[f"{first}/psnr"] = score.psnr
    provenance = {
        "steps": trained.step,
        "source": source_kinds(config),
        "data": trained.data,
        "scores": scores,
        "package": __version__,
    }
    return Network(config, trained.variables, provenance)


def read_network(path: str | os.PathLike[str]) -> Network:
    """The network of a work dir or of a trainable file.

    Raises:
        UserError: There is no such network, or it is damaged.
    """
    if Path(path).suffix == SUFFIX:
        return load_trainable(path)
    return network_of_run(path)


def quantised(network: Network) -> Network:
    """The network as its trainable file stores it; both give the same packed bits."""
    arrays = _quantise(network)
    return replace(network, variables=_dequantise(arrays, network.config))


def save_trainable(path: str | os.PathLike[str], network: Network) -> None:
    """Writes a trainable file; ``load_trainable`` returns ``quantised(network)``.

    Fields of the config that name local folders are left out.

    Raises:
        UserError: The file cannot be written, a variable is not finite, or the variables do not fit
            the network that the config describes.
    """
    path = expanded(path)
    settings = config_to_json(network.config)
    for section, _, name in (field.partition(".") for field in LOCAL_FIELDS):
        del settings[section][name]
    description = {
        "format_version": _VERSION,
        "config": settings,
        "provenance": network.provenance,
    }
    check_network(network.config)
    quantised_arrays = _quantise(network)
    _check(quantised_arrays, network.config)
    arrays = {"/".join(name): array for name, array in quantised_arrays.items()}
    content = safetensors.numpy.save(arrays, metadata={_ENTRY: json.dumps(description)})
    try:
        replace_bytes(path, content)
    except OSError as error:
        raise UserError(
            f"Cannot write the trainable file {path} ({error.strerror}): name another."
        ) from error


def load_trainable(path: str | os.PathLike[str]) -> Network:
    """Reads a trainable file, which is not trusted.

    Raises:
        UserError: The file cannot be read, or does not fit its config; the message names the
            reason.
    """
    path = expanded(path)
    try:
        with open_regular(path) as file:
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise UserError(
            f"There is no trainable file {path}: binsr pack --trainable makes one."
        ) from error
    except OSError as error:
        raise UserError(f"Cannot read the trainable file {path} ({error.strerror}).") from error
    try:
        return _read(content)
    except (UserError, RecursionError) as error:
        nested = isinstance(error, RecursionError)
        reason = "it is nested too deeply" if nested else str(error).rstrip(".")[:_MAX_REASON]
        raise UserError(f"{path} is not a usable trainable file: {reason}.") from error


def _read(content: bytes) -> Network:
    if len(content) > _MOST_BYTES:
        raise UserError(f"it has more than {_MOST_BYTES >> 20} MiB")
    description = _description(content)
    config = config_from_json(description["config"])
    check_network(config)
    try:
        arrays = safetensors.numpy.load(content)
    except Exception as error:  # an untrusted file may raise anything
        raise UserError("its tensors are damaged") from error
    if config.model.blocks > len(arrays):
        raise UserError(f"it has {len(arrays)} tensors, too few for its config.model.blocks")
    named = {tuple(name.split("/")): array for name, array in arrays.items()}
    _check(named, config)
    return Network(config, _dequantise(named, config), known_provenance(description["provenance"]))


def _description(content: bytes) -> dict[str, Any]:
    """The metadata's entry, with checked version, config and provenance."""
    length = struct.unpack("<Q", content[:8])[0] if len(content) >= 8 else len(content)
    try:
        header = json.loads(content[8 : 8 + length]) if length <= len(content) - 8 else None
        entry = header["__metadata__"][_ENTRY] if isinstance(header, dict) else None
        description = json.loads(entry) if isinstance(entry, str) else None
    except (ValueError, KeyError, TypeError):
        description = None
    if not isinstance(description, dict):
        raise UserError("binsr pack --trainable did not write it, or it is truncated")
    if description.get("format_version") != _VERSION:
        raise UserError(f"binsr-jax {__version__} reads only version {_VERSION} of the format")
    for name in ("config", "provenance"):
        if not isinstance(description.get(name), dict):
            raise UserError(f"its description has no {name}")
    return description


def _variables(config: Config) -> dict[_Path, Any]:
    """The shapes of a network's variables, by path."""
    shapes: dict[_Path, Any] = flatten_dict(models.shapes(config))
    return shapes


def _kernels(config: Config) -> set[_Path]:
    """The paths of the latent weights of binary convolutions."""
    return {("params", *path) for path in models.binary_kernels(config)}


def _check(arrays: dict[_Path, np.ndarray], config: Config) -> None:
    kernels = _kernels(config)
    wanted: dict[_Path, tuple[tuple[int, ...], type]] = {}
    for name, leaf in _variables(config).items():
        wanted[name] = (leaf.shape, np.int8 if name in kernels else np.float32)
        if name in kernels:
            wanted[*name, _STEP] = ((leaf.shape[-1],), np.float32)
    for name in sorted(wanted.keys() | arrays.keys()):
        text = "/".join(name)[:80]
        if name not in arrays:
            raise UserError(f"it has no tensor {text}, which its network needs")
        if name not in wanted:
            raise UserError(f"its network has no tensor {text!r}")
        shape, kind = wanted[name]
        if (arrays[name].shape, arrays[name].dtype) != (shape, kind):
            raise UserError(f"its tensor {text} is not {np.dtype(kind)} {list(shape)}")
        if not np.isfinite(arrays[name]).all():
            raise UserError(f"its tensor {text} has values that are not finite")
        if name[:-1] in kernels and not ((arrays[name] > 0) & (arrays[name] < _MOST_STEP)).all():
            raise UserError(f"its tensor {text} is not above 0, or too large")


def _quantise(network: Network) -> dict[_Path, np.ndarray]:
    """All variables as the file stores them."""
    kernels, arrays = _kernels(network.config), {}
    given: dict[_Path, Any] = flatten_dict(network.variables)
    for name, value in given.items():
        array = np.asarray(value, np.float32)
        if not np.isfinite(array).all():
            raise UserError(
                f"The variable {'/'.join(name)} is not finite: train with a lower learning rate."
            )
        if name not in kernels:
            arrays[name] = array
            continue
        w = array.astype(np.float64)
        step = np.abs(w).max(axis=(0, 1, 2)) / 127.5
        # Half a step must be a normal float32, even for a channel of zeros.
        step = np.maximum(step, 4 * np.finfo(np.float32).tiny).astype(np.float32)
        # Zero becomes -step / 2, because its sign is negative.
        q = np.clip(np.ceil(w / step.astype(np.float64)) - 1, -128, 127)
        arrays[name], arrays[*name, _STEP] = q.astype(np.int8), step
    return arrays


def _dequantise(arrays: dict[_Path, np.ndarray], config: Config) -> dict[str, Any]:
    """The variables from the stored arrays."""
    kernels, variables = _kernels(config), {}
    for name, array in arrays.items():
        if name in kernels:
            array = (array.astype(np.float32) + np.float32(0.5)) * arrays[*name, _STEP]
        elif name[:-1] in kernels:
            continue
        variables[name] = jnp.asarray(array)
    return unflatten_dict(variables)
