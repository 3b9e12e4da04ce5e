"""Calls the native kernels without XLA: on numpy arrays of any shape, with nothing to compile."""

import ctypes
import functools
import os
from collections.abc import Mapping, Sequence

import numpy as np

from binsr_jax.ops.native import choose

_TYPES = {"float32": 11, "uint32": 8, "int16": 3}  # Type of call.h
_BOOL, _INTEGER = 1, 5
_ERROR_BYTES = 1000


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int64),
        ("rank", ctypes.c_int64),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
        ("data", ctypes.c_void_p),
    )


class _Attribute(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("text", ctypes.c_char_p),
        ("type", ctypes.c_int64),
        ("number", ctypes.c_int64),
    )


def thread_count() -> int:
    """How many threads work: as many as this process may use CPUs."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def call(
    form: str,
    name: str,
    inputs: Sequence[np.ndarray],
    attributes: Mapping[str, int | bool | str],
    *results: np.ndarray,
) -> None:
    """Calls a kernel, which writes ``results``.

    Args:
        form: of ``choose.forms``.
        name: of the kernel, such as ``"packed_chain"``.
        inputs: the arrays that it takes: see ``ops.native.call``.
        attributes: its attributes.
        results: what it writes, of the right shapes and types.

    Raises:
        ValueError: something does not fit; the kernel says what.
        build.BuildError: the form cannot be made.
    """
    if not all(result.flags.c_contiguous and result.flags.writeable for result in results):
        raise ValueError(f"{name}: the result must be contiguous and writeable")
    arrays = [*(np.ascontiguousarray(array) for array in inputs), *results]
    buffers = (_Buffer * len(arrays))(*map(_buffer, arrays))
    pairs = sorted(attributes.items())
    described = (_Attribute * len(pairs))(*(_attribute(*pair) for pair in pairs))
    error = ctypes.create_string_buffer(_ERROR_BYTES)
    counts = (thread_count(), len(inputs), len(results))
    rest = (buffers, len(pairs), described, error, len(error))
    if _entry(form)(_address(form, name), *counts, *rest):
        raise ValueError(error.value.decode())


def _buffer(array: np.ndarray) -> _Buffer:
    if (name := array.dtype.name) not in _TYPES:
        raise ValueError(f"kernels take {', '.join(_TYPES)}, not {name}")
    dims = (ctypes.c_int64 * array.ndim)(*array.shape)
    return _Buffer(_TYPES[name], array.ndim, dims, array.ctypes.data)


def _attribute(name: str, value: int | bool | str) -> _Attribute:
    if isinstance(value, str):
        return _Attribute(name.encode(), value.encode(), 0, 0)
    kind = _BOOL if isinstance(value, bool) else _INTEGER
    return _Attribute(name.encode(), None, kind, value)


@functools.cache
def _entry(form: str):
    entry = choose.library(form).binsr_call
    size = ctypes.c_int64
    entry.argtypes = (
        ctypes.c_void_p,
        size,
        size,
        size,
        ctypes.POINTER(_Buffer),
        size,
        ctypes.POINTER(_Attribute),
        ctypes.c_char_p,
        size,
    )
    return entry


@functools.cache
def _address(form: str, name: str) -> int | None:
    return choose.address(form, name)
