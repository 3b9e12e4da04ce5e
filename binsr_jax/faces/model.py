"""The file of DFDNet's weights and dictionaries, and the network that is loaded from it.

It is a safetensors file of float32: ``params/...``, the parameters of ``models.dfdnet.DFDNet`` by
their paths, and ``dictionary/LEVEL/PART``, entries ``[n, side, side, C]``.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from binsr_jax.errors import UserError
from binsr_jax.faces.restoring import FaceNetwork
from binsr_jax.files import expanded, replace_bytes
from binsr_jax.models.dfdnet import LEVELS, PARTS, WINDOWS, DFDNet, entry_shape
from binsr_jax.models.dfdnet_weights import dfdnet_shapes

Dictionary = Mapping[int, Mapping[str, np.ndarray]]

_METADATA = {"format": "binsr-dfdnet", "version": "1"}


def usual_file() -> Path:
    """The default file of the weights: ``~/.local/share/binsr-jax/dfdnet.safetensors``."""
    data = os.environ.get("XDG_DATA_HOME") or expanded("~/.local/share")
    return Path(data) / "binsr-jax" / "dfdnet.safetensors"


def save_face_model(file: Path, params: Mapping[str, Any], dictionary: Dictionary) -> None:
    """Writes weights and dictionaries, as ``models.dfdnet_weights`` makes them.

    Raises:
        UserError: The file cannot be written.
    """
    leaves: dict[str, Any] = flatten_dict(params, sep="/")
    arrays = {f"params/{path}": leaf for path, leaf in leaves.items()}
    for level in LEVELS:
        arrays |= {f"dictionary/{level}/{part}": dictionary[level][part] for part in PARTS}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # safetensors writes the memory of an array, in whatever order its axes lie there.
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        replace_bytes(file, safetensors.numpy.save(arrays, _METADATA))
    except OSError as error:
        raise UserError(f"Cannot write {file} ({error.strerror or error}).") from error


def load_face_network(file: Path) -> FaceNetwork:
    """The network in a file of ``save_face_model``.

    Raises:
        UserError: There is no such file, or it is another one; the message says how to get it.
    """
    if not file.is_file():
        raise UserError(
            f"There are no weights of DFDNet in {file}: get DFDNet_official.pth and "
            "DFDNet_dict_512.pth, which BasicSR's model zoo links to, and make that file by binsr "
            "import-torch DFDNet_official.pth --arch dfdnet --dictionary DFDNet_dict_512.pth "
            f"-o {file}."
        )
    arrays = _read(file)
    params = unflatten_dict(
        {n.removeprefix("params/"): a for n, a in arrays.items() if n.startswith("params/")},
        sep="/",
    )
    dictionary = {
        level: {part: arrays[f"dictionary/{level}/{part}"] for part in PARTS} for level in LEVELS
    }
    apply = jax.jit(DFDNet().apply, static_argnames="window")

    def network(face: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        x = jnp.asarray(2 * face - 1, jnp.float32)
        side = (boxes[:, 2:] - boxes[:, :2]).max()
        window = next(window for window in WINDOWS if window >= side)
        y = apply({"params": params}, x, jnp.asarray(boxes), dictionary, window=window)
        return (np.asarray(y) + 1) / 2

    return network


def _read(file: Path) -> dict[str, jax.Array]:
    """The arrays of a file, after their names and shapes are compared with DFDNet's."""
    params: dict[str, Any] = flatten_dict(dfdnet_shapes(), sep="/")
    shapes = {f"params/{path}": leaf.shape for path, leaf in params.items()}
    entries = {
        f"dictionary/{level}/{part}": entry_shape(level, part) for level in LEVELS for part in PARTS
    }
    arrays = {}
    try:
        with safetensors.safe_open(file, "numpy") as content:
            if (content.metadata() or {}).get("format") != _METADATA["format"]:
                raise UserError(f"{file} is no file of DFDNet: make one by binsr import-torch.")
            names = list(content.keys())
            if set(names) != shapes.keys() | entries.keys():
                raise UserError(f"{file} does not hold the arrays of DFDNet: make it again.")
            for name in names:
                part = content.get_slice(name)
                count, *rest = part.get_shape()
                wanted = shapes.get(name) or (max(count, 1), *entries[name])
                if (count, *rest) != wanted or part.get_dtype() != "F32":
                    raise UserError(f"{file} has another {name} than DFDNet: make it again.")
            for name in names:
                arrays[name] = jnp.asarray(content.get_tensor(name))
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{file} cannot be read as a file of DFDNet ({error}).") from error
    return arrays
