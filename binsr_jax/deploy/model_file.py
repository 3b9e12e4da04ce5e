"""Model files: a packed network in safetensors, with everything needed to rebuild it.

``docs/model-format.md`` describes the format. A file is not trusted. Its header is bounded, and
compared with the network in its config and with the file's size before any tensor is read.
"""

import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from binsr_jax import models
from binsr_jax.config import Config
from binsr_jax.cost import stored_bytes
from binsr_jax.deploy.description import (
    Description,
    describe,
    read_description,
    without_training,
)
from binsr_jax.deploy.signs import Kernel, bits_of, words_of
from binsr_jax.errors import UserError
from binsr_jax.files import expanded, open_regular, replace_bytes
from binsr_jax.nn.packed import SignConv
from binsr_jax.ops.quantise import dequantise, quantise, stored_as
from binsr_jax.tasks import Task, task_of

_MAX_HEADER = 1 << 19
_MAX_REASON = 300  # characters
_DTYPES = {"float32": "F32", "float16": "F16", "int8": "I8"}  # names in safetensors
_READ = {"F32": "<f4", "F16": "<f2", "I8": "i1"}  # names in safetensors to names in numpy
_STEP = "/step"  # follows the name of a quantised kernel: its steps


@dataclass(frozen=True)
class PackedModel:
    """A packed network.

    Attributes:
        config: The full config; its ``model``, ``scale`` and ``task`` define the network. The rest
            describes its training, if the file has it and this version knows it.
        params: The parameters of ``models.build(config, conv=PackedConv)``.
        provenance: How it was trained: ``steps``, ``source`` (the kinds of data), ``data`` (a
            fingerprint of the training data), ``scores`` (name to number), ``package`` (the version
            of binsr-jax that packed it), ``name`` and ``terms`` (of the weights, which follow from
            the training images). Each may be missing.
        floats: How floats are stored, a name of ``ops.quantise.FLOATS``.
    """

    config: Config
    params: dict[str, Any]
    provenance: dict[str, Any]
    floats: str = "float32"

    @property
    def task(self) -> Task:
        """The task of the network."""
        return task_of(self.config)


def fingerprint(model: PackedModel) -> str:
    """A hash of a packed network's settings and weights; notes on its training do not change it."""
    # Here, since this imports all of training, which takes longer than reading a model.
    from binsr_jax.training import transfer
    from binsr_jax.training.trainable import Network

    config = without_training(model.config)
    return transfer.fingerprint(Network(config, {"params": model.params}, {}))


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a model file.

    Attributes:
        dtype: Its name in safetensors.
        shape: Its shape.
        size: Its size in bytes.
        kernel: The shape of the binary kernel whose signs it holds, or None.
    """

    dtype: str
    shape: tuple[int, ...]
    size: int
    kernel: Kernel | None = None


def stored_tensors(config: Config, floats: str = "float32") -> dict[str, StoredTensor]:
    """The tensors in the model file of a network, by name.

    Args:
        config: A full config.
        floats: A name of ``ops.quantise.FLOATS``.

    Raises:
        UserError: The config describes no network.
    """
    leaves: dict[str, Any] = flatten_dict(models.shapes(config, SignConv)["params"], sep="/")
    tensors = {}
    for name, leaf in leaves.items():
        size = stored_bytes(leaf, floats)
        if leaf.dtype == jnp.int8:
            tensors[name] = StoredTensor("U8", (size,), size, leaf.shape)
            continue
        form = stored_as(leaf.shape, floats)
        if form == "int8":
            steps = leaf.shape[-1:]
            tensors[name + _STEP] = StoredTensor("F32", steps, 4 * steps[0])
            size -= 4 * steps[0]
        tensors[name] = StoredTensor(_DTYPES[form], leaf.shape, size)
    return tensors


def save_model(path: str | os.PathLike[str], model: PackedModel) -> None:
    """Writes a model file to a temporary file, then renames it.

    Raises:
        UserError: The file cannot be written or could not be read again: a parameter is not finite,
            or the network is beyond the limits of the format.
    """
    path = expanded(path)
    tensors = stored_tensors(model.config, model.floats)
    kernels = {name: list(t.kernel) for name, t in tensors.items() if t.kernel}
    try:
        description = describe(model.config, model.floats, kernels, model.provenance)
    except UserError as error:
        raise UserError(f"The network cannot be packed: {error}.") from error
    params: dict[str, Any] = flatten_dict(model.params, sep="/")
    arrays = {}
    for name, tensor in tensors.items():
        if tensor.kernel is not None:
            arrays[name] = bits_of(np.asarray(params[_w_bits(name)]), tensor.kernel)
        elif name in params:
            arrays |= _stored(name, np.asarray(params[name]), tensor)
    content = safetensors.numpy.save(arrays, metadata={"binsr": json.dumps(description)})
    _write(path, content)


def _stored(name: str, array: np.ndarray, tensor: StoredTensor) -> dict[str, np.ndarray]:
    """What a file holds of a parameter: the array itself, or whole numbers and steps."""
    with np.errstate(over="ignore"):  # what is too large for float16 is refused below
        kept = array.astype("<f2" if tensor.dtype == "F16" else "<f4").reshape(tensor.shape)
    if not np.isfinite(kept).all():
        raise UserError(
            f"The parameter {name} is not finite in {kept.dtype.name}: "
            "train with a lower learning rate, or pack with --floats float32."
        )
    if tensor.dtype != "I8":
        return {name: kept}
    q, step = map(np.asarray, quantise(jnp.asarray(kept)))
    return {name: q, name + _STEP: step}


def load_model_file(path: str | os.PathLike[str]) -> PackedModel:
    """Reads a model file.

    Raises:
        UserError: It cannot be read, or is no valid model file of a network that this version
            builds; the message names the reason.
    """
    path = expanded(path)
    try:
        with open_regular(path) as file:  # a device or a pipe might never end
            return _read(file)
    except FileNotFoundError as error:
        raise UserError(f"There is no model file {path}: binsr pack makes one.") from error
    except OSError as error:
        raise UserError(f"Cannot read the model file {path} ({error.strerror}).") from error
    except (UserError, RecursionError) as error:
        nested = isinstance(error, RecursionError)
        reason = "it is nested too deeply" if nested else str(error).rstrip(".")[:_MAX_REASON]
        raise UserError(f"{path} is not a usable model file: {reason}.") from error


def _read(file: BinaryIO) -> PackedModel:
    size = os.fstat(file.fileno()).st_size
    length = struct.unpack("<Q", _bytes(file, 8))[0]
    if length > min(_MAX_HEADER, size - 8):
        raise UserError("it is truncated, or not in the safetensors format")
    header = _json_object(_bytes(file, length), "its header")
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not isinstance(metadata.get("binsr"), str):
        raise UserError("its metadata has no entry binsr, so another program wrote it")
    description = read_description(
        _json_object(metadata["binsr"].encode(errors="replace"), "its description")
    )
    tensors = _described_tensors(description, len(header))
    offsets = _offsets(header, tensors, size - 8 - length)
    params, arrays = {}, {}
    for name in sorted(offsets, key=offsets.__getitem__):
        data, tensor = _bytes(file, tensors[name].size), tensors[name]
        if tensor.kernel is not None:
            params[_w_bits(name)] = _w_bits_of(name, data, tensor.kernel)
        else:
            array = np.frombuffer(data, _READ[tensor.dtype]).reshape(tensor.shape)
            if not np.isfinite(array).all():
                raise UserError(f"the tensor {name} has values that are not finite")
            arrays[name] = array
    quantised = [name for name, tensor in tensors.items() if tensor.dtype == "I8"]
    steps = {name: _step_of(name, arrays.pop(name + _STEP)) for name in quantised}
    for name, array in arrays.items():
        value = jnp.asarray(array)
        floats = value.astype(jnp.float32)
        params[name] = dequantise(value, steps[name]) if name in steps else floats
    return PackedModel(
        description.config,
        unflatten_dict(params, sep="/"),
        description.provenance,
        description.floats,
    )


def _described_tensors(description: Description, count: int) -> dict[str, StoredTensor]:
    """The tensors that the file of a network must have.

    Args:
        description: The file's description.
        count: The number of tensors in the file, which bounds the work of building the network.
    """
    if description.config.model.blocks > count:
        raise UserError(f"it has {count} tensors, too few for its config.model.blocks")
    tensors = stored_tensors(description.config, description.floats)
    kernels = {name: list(t.kernel) for name, t in tensors.items() if t.kernel}
    if not _same(description.kernels, kernels):
        raise UserError("its kernels are not those of the network that its description names")
    return tensors


def _offsets(header: dict[str, Any], tensors: dict[str, StoredTensor], size: int) -> dict[str, int]:
    """The start of each tensor in the data of ``size`` bytes; no byte may be unused."""
    missing, extra = tensors.keys() - header.keys(), header.keys() - tensors.keys()
    if missing or extra:
        raise UserError(
            f"it has no tensor {min(missing)}, which its network needs"
            if missing
            else f"its network has no tensor {min(extra)[:80]!r}"
        )
    starts = {}
    for name, tensor in tensors.items():
        entry = header[name]
        wanted = {"dtype": tensor.dtype, "shape": list(tensor.shape)}
        if not isinstance(entry, dict) or not _same(
            entry, wanted | {"data_offsets": entry.get("data_offsets")}
        ):
            raise UserError(f"its tensor {name} is not {tensor.dtype} {list(tensor.shape)}")
        match entry["data_offsets"]:
            case [start, end] if type(start) is type(end) is int and end - start == tensor.size:
                starts[name] = start
            case _:
                raise UserError(f"the offsets of its tensor {name} are wrong")
    position = 0
    for name in sorted(starts, key=starts.__getitem__):
        if starts[name] != position:
            raise UserError("its tensors overlap or leave gaps")
        position += tensors[name].size
    if position != size:
        raise UserError(f"it has {size} bytes of tensors, but its network needs {position}")
    return starts


def _w_bits_of(name: str, data: bytes, kernel: Kernel) -> jax.Array:
    """The packed kernel from its string of signs."""
    used = math.prod(kernel) % 8  # used bits of the last byte; 0 means all
    if used and data[-1] >> used:
        raise UserError(f"the tensor {name} has bits behind its last sign")
    return jnp.asarray(words_of(np.frombuffer(data, np.uint8), kernel))


def _step_of(name: str, step: np.ndarray) -> jax.Array:
    """The steps of a quantised kernel."""
    if not (step > 0).all():
        raise UserError(f"the tensor {name}{_STEP} has values that are not above 0")
    return jnp.asarray(step)


def _w_bits(signs: str) -> str:
    """The name of the parameter for the kernel whose signs have this name."""
    return signs.removesuffix("signs") + "w_bits"


def _same(value: Any, wanted: Any) -> bool:
    """Whether two JSON values are equal and of the same types: 1, 1.0 and true differ."""
    return json.dumps(value, sort_keys=True) == json.dumps(wanted, sort_keys=True)


def _json_object(text: bytes, what: str) -> dict[str, Any]:
    """Parses JSON; names must be unique and numbers finite."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    def finite(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise ValueError(f"{text} is too large")
        return value

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            raise ValueError("a name is repeated")
        return values

    try:
        values = json.loads(
            text.decode(), parse_constant=refuse, parse_float=finite, object_pairs_hook=unique
        )
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} is not valid JSON") from error
    if not isinstance(values, dict):
        raise UserError(f"{what} is not a JSON object")
    return values


def _bytes(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise UserError("it is truncated")
    return data


def _write(path: Path, content: bytes) -> None:
    """Writes a temporary file and renames it, so that no file is ever half written."""
    try:
        replace_bytes(path, content)
    except OSError as error:
        raise UserError(
            f"Cannot write the model file {path} ({error.strerror}): name another with -o."
        ) from error
