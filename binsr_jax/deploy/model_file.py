"""Model files: a packed network in safetensors, with all that is needed to rebuild it.

``docs/model-format.md`` describes the format. A file is not trusted: its header is bounded, and
compared with the network that its config describes and with the file's size, before any tensor is
read.
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

from binsr_jax import __version__, models
from binsr_jax.config import Config, config_from_json, config_to_json
from binsr_jax.cost import stored_bytes
from binsr_jax.errors import UserError
from binsr_jax.files import replace_bytes
from binsr_jax.nn.packed import SignConv
from binsr_jax.ops.packed import pack_weights, unpack_weights
from binsr_jax.tasks import Task, task_of

FORMAT_VERSION = 1

# The fields that a file of version 1 must have; the rest of its config may be left out.
NETWORK_FIELDS = (
    "task",
    "scale",
    "model.name",
    "model.unit",
    "model.features",
    "model.blocks",
    "model.residual_attention",
    "model.binary_attention",
    "model.attention_hidden",
    "model.surrogate",
    "model.weight_scale",
    "model.head_activation",
    "model.body_end",
    "model.upsampler",
    "model.amplification",
    "model.residual_scale",
    "model.image_skip",
)

_MAX_HEADER = 1 << 19
_MAX_FIELDS = {"features": 4096, "blocks": 64, "attention_hidden": 4096}
_MAX_NUMBER = 10**6  # of settings and scores
_MAX_REASON = 300  # characters
_FLOATS = {"float32": "F32", "float16": "F16"}  # to the names of safetensors
_PROVENANCE = {"steps": int, "source": str, "data": str, "scores": dict, "package": str}


@dataclass(frozen=True)
class PackedModel:
    """A packed network.

    Attributes:
        config: The full config; its ``model``, ``scale`` and ``task`` say what the network is.
        params: Of ``models.build(config.model, config.scale, channels, conv=PackedConv)``.
        provenance: How it was trained: ``steps``, ``source`` (the kinds of data), ``data`` (a
            fingerprint of the training data), ``scores`` (name to number) and ``package`` (the
            version of binsr-jax that packed it); all of them may be missing.
        floats: How floats are stored, ``"float32"`` or ``"float16"``.
    """

    config: Config
    params: dict[str, Any]
    provenance: dict[str, Any]
    floats: str = "float32"

    @property
    def task(self) -> Task:
        """What the network restores."""
        return task_of(self.config)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a model file.

    Attributes:
        dtype: Its name in safetensors.
        shape: Its shape.
        size: Its bytes.
        kernel: The shape of the binary kernel whose signs it holds, or None.
    """

    dtype: str
    shape: tuple[int, ...]
    size: int
    kernel: tuple[int, ...] | None = None


def stored_tensors(config: Config, floats: str = "float32") -> dict[str, StoredTensor]:
    """The tensors of the model file of a network, by name.

    Args:
        config: a full config.
        floats: ``"float32"`` or ``"float16"``.

    Raises:
        UserError: the config describes no network.
    """
    channels = task_of(config).channels
    network = models.build(config.model, config.scale, channels, conv=SignConv)
    image = jax.ShapeDtypeStruct((1, 1, 1, channels), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), image)["params"]
    leaves: dict[str, Any] = flatten_dict(shapes, sep="/")
    tensors = {}
    for name, leaf in leaves.items():
        size = stored_bytes(leaf, half=floats == "float16")
        if leaf.dtype == jnp.int8:
            tensors[name] = StoredTensor("U8", (size,), size, leaf.shape)
        else:
            tensors[name] = StoredTensor(_FLOATS[floats], leaf.shape, size)
    return tensors


def save_model(path: str | os.PathLike[str], model: PackedModel) -> None:
    """Writes a model file beside its name, and moves it there when it is complete.

    Raises:
        UserError: the file cannot be written, or what it would hold could not be read again: a
            parameter that is not finite, or a wrong provenance.
    """
    path = Path(path).expanduser()
    _check_provenance(model.provenance)
    tensors = stored_tensors(model.config, model.floats)
    params: dict[str, Any] = flatten_dict(model.params, sep="/")
    arrays = {}
    for name, tensor in tensors.items():
        if tensor.kernel is not None:
            w_bits = jnp.asarray(params[_w_bits(name)])
            positive = np.asarray(_unpack_weights(w_bits, tensor.kernel[2])) > 0
            arrays[name] = np.packbits(positive, bitorder="little")
        else:
            with np.errstate(over="ignore"):  # what is too large for float16 is refused below
                arrays[name] = np.asarray(params[name]).astype(model.floats).reshape(tensor.shape)
            if not np.isfinite(arrays[name]).all():
                raise UserError(
                    f"The parameter {name} is not finite in {model.floats}: "
                    "train with a lower learning rate, or pack without --half."
                )
    description = {
        "format_version": FORMAT_VERSION,
        "task": model.task.name,
        "floats": model.floats,
        "kernels": {name: list(t.kernel) for name, t in tensors.items() if t.kernel},
        "config": config_to_json(model.config),
        "provenance": model.provenance,
    }
    content = safetensors.numpy.save(arrays, metadata={"binsr": json.dumps(description)})
    _write(path, content)


def load_model_file(path: str | os.PathLike[str]) -> PackedModel:
    """Reads a model file.

    Raises:
        UserError: it cannot be read, or is not exactly a model file of a network that this version
            builds; the sentence says what is wrong.
    """
    path = Path(path).expanduser()
    if not path.is_file():  # nor a device or a pipe, which would have no end
        raise UserError(f"There is no model file {path}: binsr pack makes one.")
    try:
        with path.open("rb") as file:
            return _read(file)
    except OSError as error:
        raise UserError(f"Cannot read the model file {path} ({error.strerror}).") from error
    except (UserError, RecursionError) as error:
        nested = isinstance(error, RecursionError)
        reason = "it is nested too deeply" if nested else str(error).rstrip(".")[:_MAX_REASON]
        raise UserError(f"{path} is no model file that can be used: {reason}.") from error


def _read(file: BinaryIO) -> PackedModel:
    size = os.fstat(file.fileno()).st_size
    length = struct.unpack("<Q", _bytes(file, 8))[0]
    if length > min(_MAX_HEADER, size - 8):
        raise UserError("it is cut off, or not in the safetensors format")
    header = _json_object(_bytes(file, length), "its header")
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not isinstance(metadata.get("binsr"), str):
        raise UserError("its metadata has no entry binsr, so another program wrote it")
    description = _json_object(metadata["binsr"].encode(errors="replace"), "its description")
    config, tensors = _described(description, len(header))
    offsets = _offsets(header, tensors, size - 8 - length)
    params = {}
    for name in sorted(offsets, key=offsets.__getitem__):
        data, tensor = _bytes(file, tensors[name].size), tensors[name]
        if tensor.kernel is not None:
            params[_w_bits(name)] = _unpack_signs(name, data, tensor.kernel)
        else:
            array = np.frombuffer(data, "<f2" if tensor.dtype == "F16" else "<f4")
            if not np.isfinite(array).all():
                raise UserError(f"the tensor {name} has values that are not finite")
            params[name] = jnp.asarray(array.astype(np.float32).reshape(tensor.shape))
    return PackedModel(
        config, unflatten_dict(params, sep="/"), description["provenance"], description["floats"]
    )


def _described(description: dict[str, Any], count: int) -> tuple[Config, dict[str, StoredTensor]]:
    """The config of a file's description, and the tensors that the file must have then.

    Args:
        description: not yet checked.
        count: how many tensors the file has: a bound on the work of building the network.
    """
    version = description.get("format_version")
    if type(version) is not int or version < 1:
        raise UserError("its description has no format_version")
    if version > FORMAT_VERSION:
        raise UserError(
            f"it is of format version {str(version)[:9]}, but binsr-jax {__version__} reads only "
            f"version {FORMAT_VERSION}; upgrade binsr-jax"
        )
    kinds = {"task": str, "floats": str, "kernels": dict, "config": dict, "provenance": dict}
    _require_fields("its description", description, {"format_version": int, **kinds}, kinds)
    if description["floats"] not in _FLOATS:
        raise UserError("its description's floats are neither float32 nor float16")
    _check_provenance(description["provenance"])
    stored = flatten_dict(description["config"], sep=".")
    missing = [name for name in NETWORK_FIELDS if name not in stored]
    if missing:
        raise UserError(f"its config has no field {missing[0]}")
    config = config_from_json(description["config"])
    for field, limit in _MAX_FIELDS.items():
        if config.model[field] > limit:
            raise UserError(f"its config.model.{field} is above {limit}")
    for field, value in config.model.items():
        if isinstance(value, float) and not abs(value) < _MAX_NUMBER:
            raise UserError(f"its config.model.{field} is not within +-{_MAX_NUMBER}")
    if config.model.blocks > count:
        raise UserError(f"it has {count} tensors, too few for its config.model.blocks")
    if description["task"] != task_of(config).name:
        raise UserError(f"its task is not {task_of(config).name}, as its config says")
    tensors = stored_tensors(config, description["floats"])
    if description["kernels"] != {n: list(t.kernel) for n, t in tensors.items() if t.kernel}:
        raise UserError("its kernels are not those of the network that its config describes")
    return config, tensors


def _check_provenance(provenance: dict[str, Any]) -> None:
    """Refuses what could not be shown: huge numbers, and texts that steer a terminal."""
    _require_fields("its provenance", provenance, _PROVENANCE, ())
    scores = provenance.get("scores", {})
    if not 0 <= provenance.get("steps", 0) < 1 << 53:
        raise UserError("its provenance has an impossible number of steps")
    for score in scores.values():
        if type(score) not in (int, float) or not abs(score) < _MAX_NUMBER:
            raise UserError("its provenance has a score that is not a finite number")
    for text in (*scores, *(text for text in provenance.values() if isinstance(text, str))):
        if not text.isprintable():
            raise UserError("its provenance has a text that cannot be printed")


def _offsets(header: dict[str, Any], tensors: dict[str, StoredTensor], size: int) -> dict[str, int]:
    """Where each tensor starts in the data, which is ``size`` bytes; no byte is spare."""
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
        if not isinstance(entry, dict) or entry != wanted | {
            "data_offsets": entry.get("data_offsets")
        }:
            raise UserError(f"its tensor {name} is not {tensor.dtype} {list(tensor.shape)}")
        match entry["data_offsets"]:
            case [int(start), int(end)] if end - start == tensor.size:
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


def _unpack_signs(name: str, data: bytes, kernel: tuple[int, ...]) -> jax.Array:
    """The bits of ``pack_weights`` of a string of bits."""
    count = math.prod(kernel)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    if bits[count:].any():
        raise UserError(f"the tensor {name} has bits behind its last sign")
    signs = bits[:count].reshape(kernel).astype(np.float32)
    return _pack_weights(signs)


_pack_weights = jax.jit(pack_weights)
_unpack_weights = jax.jit(unpack_weights, static_argnums=1)


def _w_bits(signs: str) -> str:
    """The name of the parameter that holds the kernel whose signs have this name."""
    return signs.removesuffix("signs") + "w_bits"


def _require_fields(
    what: str, values: dict[str, Any], kinds: dict[str, type], required: Any
) -> None:
    for name, value in values.items():
        if name not in kinds:
            raise UserError(f"{what} has a field {name[:80]!r}, unknown in this version")
        if type(value) is not kinds[name]:
            raise UserError(f"{what} has a {name} of a wrong type")
    for name in required:
        if name not in values:
            raise UserError(f"{what} has no {name}")


def _json_object(text: bytes, what: str) -> dict[str, Any]:
    """Parses JSON; names may not be repeated, and numbers must be finite."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            raise ValueError("a name is repeated")
        return values

    try:
        values = json.loads(text.decode(), parse_constant=refuse, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{what} is not valid JSON") from error
    if not isinstance(values, dict):
        raise UserError(f"{what} is not a JSON object")
    return values


def _bytes(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) < count:
        raise UserError("it is cut off")
    return data


def _write(path: Path, content: bytes) -> None:
    """Writes a file beside its final name and renames it, so that it is never half written."""
    try:
        replace_bytes(path, content)
    except OSError as error:
        raise UserError(
            f"Cannot write the model file {path} ({error.strerror}): name another with -o."
        ) from error
