"""The official weights of DFDNet and its dictionaries, in our names and layouts."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from binsr_jax.errors import UserError
from binsr_jax.files import open_regular
from binsr_jax.models import vgg
from binsr_jax.models.dfdnet import LEVELS, PARTS, SIDE, DFDNet, entry_shape

# The name of a convolution: the official one's pattern, and ours.
_CONVOLUTIONS: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"vgg_extractor\.vgg_net\.(conv\d_\d)", lambda m: f"vgg/{m[1]}"),
    (r"attn_blocks\.(\w+)\.([02])", lambda m: f"attention_{m[1]}/{_of_pair(m[2])}"),
    (
        r"multi_scale_dilation\.conv_blocks\.(\d)\.([02])",
        lambda m: f"dilation/branch_{m[1]}/{_of_pair(m[2])}",
    ),
    (r"multi_scale_dilation\.conv_fusion", lambda m: "dilation/fusion"),
    (r"upsample([0-3])\.conv1\.1", lambda m: f"upsample_{m[1]}/conv"),
    (r"upsample([0-3])\.convup\.1", lambda m: f"upsample_{m[1]}/up"),
    (
        r"upsample([0-3])\.(scale|shift)_block\.([02])",
        lambda m: f"upsample_{m[1]}/{m[2]}/{_of_pair(m[3])}",
    ),
    (r"upsample4\.0", lambda m: "fusion"),
    (r"upsample4\.([23])\.body\.([02])", lambda m: f"residual_{int(m[1]) - 2}/{_of_pair(m[2])}"),
    (r"upsample4\.4", lambda m: "tail"),
)

# Our name of a convolution's array; empty for arrays that are folded into the kernel.
_ARRAYS = {"weight": "kernel", "weight_orig": "kernel", "bias": "bias"}
_ARRAYS |= {"weight_u": "", "weight_v": ""}


def _of_pair(place: str) -> str:
    """Our name of a convolution of two with an activation between them."""
    return f"conv_{int(place) // 2}"


def dfdnet_shapes() -> dict[str, Any]:
    """The parameters of DFDNet, as shapes."""
    dictionary = {
        level: {
            part: jax.ShapeDtypeStruct((1, *entry_shape(level, part)), jnp.float32)
            for part in PARTS
        }
        for level in LEVELS
    }
    face = jax.ShapeDtypeStruct((SIDE, SIDE, 3), jnp.float32)
    boxes = jax.ShapeDtypeStruct((len(PARTS), 4), jnp.int32)
    return jax.eval_shape(DFDNet().init, jax.random.key(0), face, boxes, dictionary)["params"]


def dfdnet_params(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The parameters of ``DFDNet`` from the official weights, with spectral norms folded.

    Args:
        state: Arrays under their PyTorch names.

    Raises:
        UserError: Names or shapes are not those of DFDNet.
    """
    places: dict[str, str] = {}  # our paths, and the official names of their arrays
    unknown = []
    for name, array in state.items():
        if name in ("vgg_extractor.mean", "vgg_extractor.std"):
            expected = vgg.MEAN if name.endswith("mean") else vgg.STD
            if not np.allclose(array.ravel(), expected, atol=1e-6):
                raise UserError(f"{name} is not that of ImageNet, which the features are made for")
            continue
        convolution, _, kind = name.rpartition(".")
        place = _translate(convolution)
        if place is None or kind not in _ARRAYS:
            unknown.append(name)
        elif _ARRAYS[kind]:
            places[f"{place}/{_ARRAYS[kind]}"] = name
    leaves: dict[str, Any] = flatten_dict(dfdnet_shapes(), sep="/")
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    missing = shapes.keys() - places.keys()
    wrong = [
        name
        for path, name in places.items()
        if path not in shapes or _shape_here(state[name]) != shapes[path]
    ]
    faults = {"no place for": unknown, "no value for": missing, "another shape of": wrong}
    for fault, names in faults.items():
        if names:
            listed = ", ".join(sorted(names)[:4])
            raise UserError(f"these are not the weights of DFDNet: {fault} {listed}")
    ours = {}
    for path, name in places.items():
        array = state[name]
        if name.endswith("_orig"):
            array = array / _spectral_norm(state, name.rpartition(".")[0])
        ours[path] = (array.transpose(2, 3, 1, 0) if array.ndim == 4 else array).astype(np.float32)
    return unflatten_dict(ours, sep="/")


def _shape_here(array: np.ndarray) -> tuple[int, ...]:
    """The shape of an array in our layout: kernels ``[kh, kw, I, O]`` of ``[O, I, kh, kw]``."""
    shape = array.shape
    return (*shape[2:], shape[1], shape[0]) if len(shape) == 4 else shape


def dfdnet_dictionary(arrays: Mapping[str, np.ndarray]) -> dict[int, dict[str, np.ndarray]]:
    """The dictionaries from arrays called by level and part, such as ``256.left_eye``.

    Args:
        arrays: ``[n, C, side, side]``, or of as many numbers without these axes.

    Raises:
        UserError: One is missing, or has entries of another size.
    """
    dictionary: dict[int, dict[str, np.ndarray]] = {}
    for level in LEVELS:
        dictionary[level] = {}
        for part in PARTS:
            array = arrays.get(f"{level}.{part}")
            if array is None:
                raise UserError(f"the dictionary has no {part} of level {level}")
            height, width, channels = entry_shape(level, part)
            if array.ndim < 2 or not len(array) or array[0].size != height * width * channels:
                raise UserError(
                    f"the dictionary's {part} of level {level} has shape {list(array.shape)}, but "
                    f"its entries have {[channels, height, width]}"
                )
            entries = array.reshape(-1, channels, height, width).astype(np.float32)
            dictionary[level][part] = np.ascontiguousarray(entries.transpose(0, 2, 3, 1))
    return dictionary


def read_dictionary_folder(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a folder of files such as ``left_eye_256_center.npy``, for the above.

    Raises:
        UserError: A file is missing, damaged, or holds pickled objects, which are not loaded.
    """
    arrays = {}
    for level in LEVELS:
        for part in PARTS:
            files = sorted(folder.glob(f"{part}_{level}*.npy"))
            if not files:
                raise UserError(f"There is no file {part}_{level}_center.npy in {folder}.")
            try:
                with open_regular(files[0]) as file:
                    array = np.load(file, allow_pickle=False)
            except (ValueError, OSError, EOFError, MemoryError) as error:
                raise UserError(
                    f"{files[0]} cannot be read as numbers alone: it is damaged, or holds pickled "
                    "objects, which are not loaded; if you trust it, save it anew with "
                    "numpy.save(file, numpy.array(numpy.load(file, allow_pickle=True).tolist(), "
                    "'float32'))."
                ) from error
            if array.dtype.kind != "f" or not np.isfinite(array).all():
                raise UserError(f"{files[0]} holds no finite floats.")
            arrays[f"{level}.{part}"] = array
    return arrays


def _translate(convolution: str) -> str | None:
    for pattern, ours in _CONVOLUTIONS:
        if match := re.fullmatch(pattern, convolution):
            return ours(match)
    return None


def _spectral_norm(state: Mapping[str, np.ndarray], convolution: str) -> np.float32:
    """``u . W v``, with W as ``[O, rest]``: what PyTorch divides a kernel by."""
    kernel = state[f"{convolution}.weight_orig"]
    try:
        u, v = (state[f"{convolution}.weight_{side}"] for side in "uv")
        norm = np.float32(u @ (kernel.reshape(len(kernel), -1) @ v))
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{convolution} has a weight_orig, but no weight_u and weight_v to divide it by"
        ) from error
    if not norm:
        raise UserError(f"the spectral norm of {convolution} is 0")
    return norm
