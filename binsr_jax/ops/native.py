"""Convolutions in native code, where the machine can make and run it.

XLA's programs for CPUs count bits well where there is an instruction for it, and slowly elsewhere;
and they write features to memory where one pass would do. ``native.cc`` has forms of the packed
convolution for x86-64 with AVX2 and with AVX-512, a convolution of floats to few outputs, and the
gradient of one between many. It is compiled once for the CPU at hand, by the machine's C++ compiler
and with the headers that come with jaxlib, into ``~/.cache/binsr-jax``. Without a compiler, and on
other CPUs, XLA's form is used: the integers are the same.

The environment variable BINSR_KERNEL names a form, or ``xla`` for none of them.
"""

import ctypes
import functools
import hashlib
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from binsr_jax.files import replace_bytes

_SOURCE = Path(__file__).with_name("native.cc")
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared")
_SECONDS = 120  # for the compiler
_FEW_OUTPUTS = 3
_LANES = 16  # of a vector, at most
_FUNCTIONS = (
    "packed_conv",
    "packed_branch",
    "float_conv",
    "kernel_gradients",
)
# The forms of native.cc, the fastest first, and what the compiler defines where the CPU can
# run them. The last is for tests to compare with.
_FORMS = {
    "population": "__AVX512VPOPCNTDQ__",
    "table": "__AVX2__",
    "portable": "__x86_64__",
}


def forms() -> tuple[str, ...]:
    """The native forms that this machine can make and run, the fastest first."""
    defined = _compiler()[1].split()
    return tuple(form for form, macro in _FORMS.items() if macro in defined)


@functools.cache
def chosen_form() -> str:
    """The form that convolutions are traced with: of `forms`, or ``"xla"``.

    Raises:
        ValueError: BINSR_KERNEL names none that there is.
    """
    wanted = os.environ.get("BINSR_KERNEL", "")
    if wanted and wanted not in (*forms(), "xla"):
        raise ValueError(f"BINSR_KERNEL is {wanted!r}: choose from {', '.join((*forms(), 'xla'))}")
    form = wanted or next((form for form in forms() if form != "portable"), "xla")
    return form if form != "xla" and load(form) else "xla"


def form_for(x: jax.Array, w_bits: jax.Array) -> str:
    """`chosen_form`, or ``"xla"`` for a convolution whose result 16 bits do not hold."""
    kh, kw, words, _ = w_bits.shape
    fits = 0 not in x.shape and 0 not in w_bits.shape and 32 * kh * kw * words < 1 << 15
    return chosen_form() if fits else "xla"


def packed_conv(x_bits: jax.Array, w_bits: jax.Array, in_channels: int, form: str) -> jax.Array:
    """``ops.packed.packed_conv`` in a native form: int16, of the same values. For CPU alone."""
    return _conv(x_bits, w_bits, in_channels, form)


def packed_branch(
    x: jax.Array,
    threshold: jax.Array,
    w_bits: jax.Array,
    epilogue: jax.Array,
    residual: jax.Array,
    shuffle: int,
    form: str,
) -> jax.Array:
    """``ops.packed.packed_branch`` in a native form, equal but for rounding. For CPU alone.

    Args:
        x, threshold, w_bits, shuffle: as there.
        epilogue: f32 ``[5, O]``: the scale, what is added after it, the slope, what is added after
            that, and the factor.
        residual: as there, or f32 ``[0]`` for none.
        form: of `forms`.
    """
    return _branch(x, threshold, w_bits, epilogue, residual, shuffle, form)


def form_for_conv(x: jax.Array, kernel: jax.Array) -> str:
    """`chosen_form`, or ``"xla"`` for a convolution that `conv` does not take."""
    inputs, outputs = kernel.shape[2:]
    few = inputs % 8 == 0 and outputs <= _FEW_OUTPUTS
    many = outputs % _LANES == 0
    fits = 0 not in (*x.shape, *kernel.shape) and (few or many)
    return chosen_form() if fits and x.dtype == jnp.float32 else "xla"


def conv(x: jax.Array, kernel: jax.Array, form: str) -> jax.Array:
    """``ops.conv.conv2d`` to up to 3 outputs, of a multiple of 8 channels, or to a multiple of 16.

    For CPU alone.
    """
    return _float_conv(x, kernel, form)


def form_for_gradient(x: jax.Array, kernel: jax.Array) -> str:
    """`chosen_form`, or ``"xla"`` for a convolution whose gradient is not worked here."""
    inputs, outputs = kernel.shape[2:]
    fits = 0 not in (*x.shape, *kernel.shape) and inputs % _LANES == outputs % _LANES == 0
    return chosen_form() if fits and x.dtype == jnp.float32 else "xla"


def conv_gradient(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, form: str
) -> tuple[jax.Array, jax.Array]:
    """The gradients of ``ops.conv.conv2d`` by x and by kernel. For CPU alone.

    The kernel's is summed over each image, and then over the images.
    """
    kh, kw, _, _ = kernel.shape
    dx = _float_conv(dy, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), form)
    images = _kernel_gradients(x, dy, kh, kw, form).reshape(len(x), -1)
    # As a product: XLA's sum over the first axis takes 25 times as long.
    return dx, (jnp.ones(len(x)) @ images).reshape(kernel.shape)


def _by_batch(rule: str, operands: int) -> Callable[..., Any]:
    """A decorator of a foreign call: each device works its part of the batch with all the rest.

    Args:
        rule: the axes of operands and result; "b" is the batch, and first where it is.
        operands: how many of the function's arguments are arrays; the rest is static.
    """

    def decorate(f: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        def partition(*arguments: Any):
            *static, mesh, _, result = arguments
            batch = NamedSharding(mesh, PartitionSpec(*result.sharding.spec[:1]))
            whole = NamedSharding(mesh, PartitionSpec())
            places = tuple(batch if axes.split()[0] == "b" else whole for axes in axes_of_operands)
            return mesh, lambda *arrays: f(*arrays, *static), batch, places

        axes_of_operands = rule.split("->")[0].split(",")
        count = len(inspect.signature(f).parameters)
        call = custom_partitioning(f, static_argnums=tuple(range(operands, count)))
        axes = dict.fromkeys(rule.replace(",", " ").replace("->", " ").split())
        call.def_partition(
            partition=partition,
            sharding_rule=rule,
            need_replication_factors=tuple(axis for axis in axes if axis != "b"),
        )

        def one_by_one(*arguments: Any) -> jax.Array:
            """The call, which ``jax.vmap`` works in a loop."""
            arrays, static = arguments[:operands], arguments[operands:]
            each = jax.custom_batching.custom_vmap(lambda *arrays: call(*arrays, *static))

            @each.def_vmap
            def _(size: int, mapped: Sequence[bool], *arrays: jax.Array):
                whole = [
                    a if m else jnp.broadcast_to(a, (size, *a.shape))
                    for a, m in zip(arrays, mapped, strict=True)
                ]
                return lax.map(lambda one: call(*one, *static), tuple(whole)), True

            return each(*arrays)

        return one_by_one

    return decorate


@_by_batch("b h w c, i j c o -> b h w o", operands=2)
def _conv(x_bits: jax.Array, w_bits: jax.Array, in_channels: int, form: str) -> jax.Array:
    y = jax.ShapeDtypeStruct((*x_bits.shape[:3], w_bits.shape[3]), jnp.int16)
    call = jax.ffi.ffi_call(f"binsr_{form}_packed_conv", y)
    return call(x_bits, w_bits, channels=np.int64(in_channels))


@_by_batch("b h w c, i j c o -> b h w o", operands=2)
def _float_conv(x: jax.Array, kernel: jax.Array, form: str) -> jax.Array:
    y = jax.ShapeDtypeStruct((*x.shape[:3], kernel.shape[3]), jnp.float32)
    return jax.ffi.ffi_call(f"binsr_{form}_float_conv", y)(x, kernel)


@_by_batch("b h w c, b h w o -> b i j c o", operands=2)
def _kernel_gradients(x: jax.Array, dy: jax.Array, kh: int, kw: int, form: str) -> jax.Array:
    """For each image: ``[B, H, W, I], [B, H, W, O] -> [B, kh, kw, I, O]``."""
    y = jax.ShapeDtypeStruct((x.shape[0], kh, kw, x.shape[3], dy.shape[3]), jnp.float32)
    return jax.ffi.ffi_call(f"binsr_{form}_kernel_gradients", y)(x, dy)


@_by_batch("b h w c, c, i j k o, e o, r -> b y x f", operands=5)
def _branch(
    x: jax.Array,
    threshold: jax.Array,
    w_bits: jax.Array,
    epilogue: jax.Array,
    residual: jax.Array,
    shuffle: int,
    form: str,
) -> jax.Array:
    batch, height, width, _ = x.shape
    shape = (batch, height * shuffle, width * shuffle, w_bits.shape[3] // shuffle**2)
    y = jax.ShapeDtypeStruct(shape, jnp.float32)
    call = jax.ffi.ffi_call(f"binsr_{form}_packed_branch", y)
    return call(x, threshold, w_bits, epilogue, residual, shuffle=np.int64(shuffle))


@functools.cache
def load(form: str) -> bool:
    """Compiles a form if that was not done before, and makes it known to XLA; whether it could."""
    try:
        library = ctypes.CDLL(str(_compiled(form)))
    except (OSError, subprocess.SubprocessError):
        return False
    for name in _FUNCTIONS:
        handler = jax.ffi.pycapsule(getattr(library, f"binsr_{name}"))
        jax.ffi.register_ffi_target(f"binsr_{form}_{name}", handler, platform="cpu")
    return True


@functools.cache
def _compiler() -> tuple[str, str]:
    """The C++ compiler and all that it defines for this CPU, or two empty texts."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or ""
    command = [compiler, *_FLAGS[:3], "-dM", "-E", "-x", "c++", os.devnull]
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=_SECONDS, text=True)
    except (OSError, subprocess.SubprocessError):
        return "", ""
    return compiler, done.stdout


def _compiled(form: str) -> Path:
    """The shared library of this source, these headers, this compiler and this CPU."""
    compiler, defined = _compiler()
    headers = jax.ffi.include_dir()
    parts = (_SOURCE.read_text(), defined, " ".join(_FLAGS), headers, jax.lib.__version__)
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    folder = Path.home() / ".cache" / "binsr-jax" / "native"
    library = folder / f"{form}-{key}.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        options = [*_FLAGS, f"-DFORM={form.capitalize()}", "-isystem", headers]
        if sys.stderr.isatty():  # somebody waits
            print(
                "Compiling the convolutions for this CPU, once, in some seconds.", file=sys.stderr
            )
        with tempfile.TemporaryDirectory() as private:
            made = Path(private) / library.name
            command = [compiler, *options, str(_SOURCE), "-o", str(made)]
            subprocess.run(command, capture_output=True, check=True, timeout=_SECONDS)
            replace_bytes(library, made.read_bytes())
    return library
