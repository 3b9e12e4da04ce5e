"""Reads PyTorch's weight files into numpy arrays, without running code from them."""

import importlib
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from binsr_jax.errors import UserError

# The names under which training code stores the weights, in order of preference. Averaged weights
# come first, because authors score those.
_WRAPPERS = (
    *("params_ema", "model_ema", "ema", "params", "state_dict", "model_state_dict", "model"),
    *("generator", "net_g", "netG", "G", "net", "network", "weights", "module"),
)
# Parts that module wrappers add to names, at any place.
_MODULE = re.compile(r"(?:(?<=\.)|^)(?:module|_orig_mod|_fsdp_wrapped_module|_forward_module)\.")
_MOST_RATIO = 64  # of the bytes of the weights, as float32, to those of their file
# Counters that other tools store beside the weights.
_COUNTERS = re.compile(r"(?:.*\.)?(?:num_batches_tracked|n_averaged|total_ops|total_params)")


def read_state(path: Path) -> dict[str, np.ndarray]:
    """The weights in a file by their PyTorch names, as float32.

    Training code wraps the weights in dictionaries such as ``params_ema`` and ``model_state_dict``,
    and adds prefixes such as ``module.`` and ``_orig_mod.`` to their names. Both are removed.

    Args:
        path: A file ``.safetensors`` or ``.npz``; any other is read as a file of ``torch.save``.

    Raises:
        UserError: There is no such file, it cannot be read without running code, it needs PyTorch
            and there is none, or it holds something else than arrays of finite numbers.
    """
    arrays = _arrays(
        path,
        {
            name: value
            for name, value in _unwrapped(_content(path), path).items()
            if not (isinstance(name, str) and _COUNTERS.fullmatch(name))
        },
    )
    names = _bare(arrays)
    if len(set(names)) < len(arrays):
        raise UserError(f"{path} holds several weights of one name: save one network alone.")
    return dict(zip(names, arrays.values(), strict=True))


def read_nested(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file of dictionaries in dictionaries, by names such as ``256.mouth``.

    Raises:
        UserError: See ``read_state``.
    """
    values: dict[str, Any] = {}

    def collect(content: Any, prefix: str) -> None:
        for name, value in content.items():
            if isinstance(value, Mapping):
                collect(value, f"{prefix}{name}.")
            else:
                values[f"{prefix}{name}"] = value

    content = _content(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds no arrays by name: save a dictionary in it.")
    collect(content, "")
    return _arrays(path, values)


def _content(path: Path) -> Any:
    """The content of a file; see ``read_state``."""
    if not path.is_file():
        raise UserError(f"There is no file {path}: name one of weights.")
    readers = {".safetensors": safetensors.numpy.load_file, ".npz": _read_npz}
    try:
        return readers.get(path.suffix.lower(), _read_torch)(path)
    except UserError:
        raise
    except Exception as error:  # the unpickler raises many types on a damaged file
        raise UserError(
            f"{path} cannot be read as weights alone ({type(error).__name__}): it is damaged, or "
            "holds Python objects, which are not run; save its state_dict with torch.save."
        ) from error


def _arrays(path: Path, values: Mapping[Any, Any]) -> dict[Any, np.ndarray]:
    """The values of a file as arrays of float32."""
    _require_held(path, 4 * sum(map(_count, values.values())))
    return {name: _array(path, name, value) for name, value in values.items()}


def _require_held(path: Path, needed: int) -> None:
    """Raises UserError if a file cannot hold the weights that it claims."""
    if needed > _MOST_RATIO * path.stat().st_size + 2**20:
        raise UserError(f"{path} claims {needed:,} bytes of weights, more than it can hold.")


def _count(value: Any) -> int:
    """The numbers in a value of a file, if it is an array."""
    if hasattr(value, "detach"):
        return value.numel()
    return value.size if isinstance(value, np.ndarray) else 0


def _array(path: Path, name: Any, value: Any) -> np.ndarray:
    """A value of a file as an array of float32."""
    if hasattr(value, "detach"):
        value = _of_torch(value)
    array = _finite(value)
    if not isinstance(name, str) or array is None:
        raise UserError(f"{path} holds {name!r}, which is no array of finite numbers.")
    return array


def _of_torch(tensor: Any) -> np.ndarray | None:
    """A tensor as an array of float32; None if it is complex, sparse, quantised or without data."""
    try:
        return None if tensor.is_complex() else tensor.detach().cpu().float().numpy()
    except (RuntimeError, TypeError):  # NotImplementedError is a RuntimeError
        return None


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        # A compressed one could become thousands of times larger.
        _require_held(path, sum(member.file_size for member in arrays.zip.infolist()))
        return dict(arrays)


def _read_torch(path: Path) -> Any:
    """The content of a file of ``torch.save``, limited to tensors and plain containers."""
    try:
        torch: Any = importlib.import_module("torch")
    except ModuleNotFoundError as error:
        raise UserError(
            f"PyTorch, which reads {path}, is not installed: pip install 'binsr-jax[torch]', or "
            "convert the file to .safetensors on a machine that has PyTorch."
        ) from error
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as members:
            _require_held(path, sum(member.file_size for member in members.infolist()))
    return torch.load(path, map_location="cpu", weights_only=True)


def _unwrapped(content: Any, path: Path) -> Mapping[Any, Any]:
    """The dictionary of weights, without the dictionaries around it."""
    while isinstance(content, Mapping) and content:
        inner = [name for name, value in content.items() if isinstance(value, Mapping) and value]
        known = [name for name in _WRAPPERS if name in inner]
        if not known and not inner:
            return content
        if not known and len(inner) > 1:
            raise UserError(
                f"{path} holds {', '.join(map(repr, inner[:8]))}, and it is not known which of "
                "them are the weights: save that one alone."
            )
        content = content[known[0] if known else inner[0]]
    raise UserError(f"{path} holds no weights by name: save a state_dict in it.")


def _finite(array: Any) -> np.ndarray | None:
    """The array as float32, or None if it is not an array of finite numbers."""
    dtype = getattr(array, "dtype", None)
    if dtype is None or (dtype.kind not in "fiu" and dtype != jnp.bfloat16):
        return None
    with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite
        values = np.asarray(array).astype(np.float32)
    return values if np.isfinite(values).all() else None


def _bare(names: Iterable[str]) -> list[str]:
    """The names in order, without the prefixes that wrappers add."""
    bare = [_MODULE.sub("", name) for name in names]
    # The attribute of a wrapper that is the network. Before a number it is a list of layers.
    for wrapper in _WRAPPERS:
        if bare and all(re.match(rf"{wrapper}\.(?!\d)", name) for name in bare):
            return _bare(name.removeprefix(f"{wrapper}.") for name in bare)
    return bare
