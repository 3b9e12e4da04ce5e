"""Chooses the native form for a convolution when it is traced.

The environment variable BINSR_KERNEL names a form, or ``xla`` to use none.
"""

import contextlib
import contextvars
import ctypes
import functools
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from binsr_jax.ops.native import build

if TYPE_CHECKING:  # jax takes half a second, and native code can be called without it
    import jax


@dataclass(frozen=True)
class _Form:
    struct: str  # its name in ``kernels``
    macro: str | None  # defined by the compiler if the CPU can run it
    allowed: Callable[[], bool] = lambda: True  # whether the system lets this process use it


def _may_use_amx() -> bool:
    """Whether Linux lets this process use the CPU's matrix unit, as ``amx_tiles.h`` asks it to."""
    if sys.platform != "linux":
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18
    return ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0


# The fastest first. The last one is a reference for tests.
_FORMS = {
    "amx": _Form("Amx", "__AMX_INT8__", _may_use_amx),
    "avx512": _Form("Avx512", "__AVX512VPOPCNTDQ__"),
    "avx2": _Form("Avx2", "__AVX2__"),
    "neon": _Form("Neon", "__aarch64__"),
    "portable": _Form("Portable", None),
}
_KERNELS = (
    "packed_conv",
    "packed_branch",
    "packed_upsample",
    "packed_chain",
    "float_conv",
    "float_layer",
    "image_skip",
)
_ATTENDED = ("packed_attended",)
_TRAINING = ("kernel_gradients", "bf16_conv", "bf16_kernel_gradients")
_FEW_OUTPUTS, _FEW_INPUTS = 3, 8  # as in float_conv.h
_LANES = 16  # most floats in a vector
_TRACED_FOR: contextvars.ContextVar[Literal["here", "elsewhere", "steps"]]
_TRACED_FOR = contextvars.ContextVar("traced_for", default="here")
_AMX_CHANNELS = 32  # kBlock of amx.h
_UNMADE = "which cannot be made because"
_LOCK = threading.RLock()  # a library is compiled once, though several threads ask for it


def forms() -> tuple[str, ...]:
    """The native forms that this machine can compile and run, the fastest first."""
    try:
        defined = build.macros()
    except build.BuildError:
        return ()
    return tuple(
        name for name, form in _FORMS.items() if form.macro in {None, *defined} and form.allowed()
    )


@functools.cache
def chosen_form() -> str:
    """The form for tracing convolutions: one of ``forms``, or ``"xla"``.

    If a CPU cannot have any native form, one log line says so.

    Raises:
        ValueError: BINSR_KERNEL names an unknown form, or one that cannot be compiled or run.
    """
    wanted = os.environ.get("BINSR_KERNEL", "")
    if wanted:
        return _explicit(wanted)
    try:
        build.macros()
        form = _fastest()
        if form != "xla":
            library(form)
        return form
    except build.BuildError as error:
        import jax

        if jax.default_backend() == "cpu":
            _warn(error)
        return "xla"


def _explicit(wanted: str) -> str:
    if wanted == "xla":
        return wanted
    choice = f"BINSR_KERNEL is {wanted!r}"
    if wanted not in _FORMS:
        raise ValueError(f"{choice}: choose from {', '.join((*forms(), 'xla'))}")
    try:
        build.macros()
        if wanted not in forms():
            can = ", ".join((*forms(), "xla"))
            raise ValueError(f"{choice}, which this CPU cannot run: choose from {can}")
        library(wanted)
    except build.BuildError as error:
        raise ValueError(f"{choice}, {_UNMADE} {error}") from error
    return wanted


def begin() -> None:
    """Starts to compile the form that ``chosen_form`` chooses, which then waits for the rest."""
    threading.Thread(target=_try, name="compiler").start()


def _try() -> None:
    wanted = os.environ.get("BINSR_KERNEL", "")
    form = wanted or _fastest()
    # Whatever fails is raised where the form is chosen.
    with contextlib.suppress(build.BuildError):
        if form in forms():
            library(form)


def _fastest() -> str:
    return next((form for form in forms() if form != "portable"), "xla")


def library(form: str) -> ctypes.CDLL:
    """The library of a form's kernels; compiles it if necessary.

    Raises:
        build.BuildError: It cannot be compiled.
    """
    with _LOCK:
        return _library(form, "kernels", (*_KERNELS, "call"))


def library_for_xla(form: str) -> ctypes.CDLL:
    """The library of a form's handlers for XLA, with the kernels for training; see ``library``."""
    names = [f"xla_{name}" for name in (*_KERNELS, *_ATTENDED, *_TRAINING)]
    with _LOCK:
        library(form)  # an unusable one is discarded
        return _library(form, "xla", (*names, *_TRAINING))


def _library_of(form: str, kernel: str) -> ctypes.CDLL:
    if kernel in _TRAINING:
        return library_for_xla(form)
    if kernel not in _ATTENDED:
        return library(form)
    with _LOCK:
        library(form)
        return _library(form, "attended", _ATTENDED)


@functools.cache
def _library(form: str, part: str, names: tuple[str, ...]) -> ctypes.CDLL:
    file = build.library(_FORMS[form].struct, part)
    try:
        loaded = ctypes.CDLL(str(file))
        for name in names:
            getattr(loaded, f"binsr_{name}")
    except (OSError, AttributeError) as error:
        build.discard(file)
        raise build.BuildError(f"{file} cannot be loaded: {error}") from error
    return loaded


def address(form: str, kernel: str) -> int | None:
    """Where a kernel is in memory.

    Raises:
        build.BuildError: Its library cannot be compiled.
    """
    function = getattr(_library_of(form, kernel), f"binsr_{kernel}")
    return ctypes.cast(function, ctypes.c_void_p).value


def load(form: str) -> None:
    """Makes a form known to XLA; compiles it if necessary.

    A trace for ``steps`` is carried out without XLA and needs no more than the names.

    Raises:
        build.BuildError: It cannot be compiled.
    """
    if _TRACED_FOR.get() != "steps":
        _register(form)


@functools.cache
def _register(form: str) -> None:
    import jax

    handlers = library_for_xla(form)
    for name in (*_KERNELS, *_ATTENDED, *_TRAINING):
        handler = jax.ffi.pycapsule(getattr(handlers, f"binsr_xla_{name}"))
        jax.ffi.register_ffi_target(f"binsr_{form}_{name}", handler, platform="cpu")


@functools.cache
def has_handlers(form: str) -> bool:
    """Whether a form can be called by XLA; if its handlers cannot be compiled, a line says why."""
    try:
        _register(form)
        return True
    except build.BuildError as error:
        if os.environ.get("BINSR_KERNEL"):
            raise ValueError(f"BINSR_KERNEL is {form!r}, {_UNMADE} {error}") from error
        _warn(error)
        return False


def _warn(error: build.BuildError) -> None:
    logging.getLogger("binsr_jax").warning(
        "XLA's convolutions are used, which are slower than native ones, because %s", error
    )


@contextlib.contextmanager
def without_native() -> Iterator[None]:
    """In its block everything is traced without native code, for programs that run elsewhere.

    JAX keeps traces by the shapes of arrays: a program for shapes that are also run natively must
    not be traced in here.
    """
    with _traced_for("elsewhere"):
        yield


@contextlib.contextmanager
def for_steps() -> Iterator[None]:
    """In its block everything is traced for steps that are carried out without XLA.

    Who then runs an equal trace with XLA calls ``load`` before.
    """
    with _traced_for("steps"):
        yield


@contextlib.contextmanager
def _traced_for(whom: Literal["elsewhere", "steps"]) -> Iterator[None]:
    token = _TRACED_FOR.set(whom)
    try:
        yield
    finally:
        _TRACED_FOR.reset(token)


def has_amx(form: str) -> bool:
    """Whether a form can round factors to bfloat16: this needs the CPU's matrix unit (AMX)."""
    return form != "xla" and bool(library_for_xla(form).binsr_has_amx())


def _form() -> str:
    whom = _TRACED_FOR.get()
    form = "xla" if whom == "elsewhere" else chosen_form()
    return form if form == "xla" or whom == "steps" or has_handlers(form) else "xla"


def form_for_packed(x: "jax.Array", w_bits: "jax.Array") -> str:
    """``chosen_form``, or ``"xla"`` for a convolution whose results exceed 16 bits."""
    kh, kw, words, _ = w_bits.shape
    fits = 0 not in x.shape and 0 not in w_bits.shape and 32 * kh * kw * words < 1 << 15
    return _form() if fits else "xla"


def form_for_conv(x: "jax.Array | jax.ShapeDtypeStruct", kernel: "jax.Array") -> str:
    """``chosen_form``, or ``"xla"`` for a convolution that ``call.conv`` lacks."""
    inputs, outputs = kernel.shape[2:]
    fits = outputs > _FEW_OUTPUTS or inputs % _FEW_INPUTS == 0
    return _form_for_floats(x, kernel, fits)


def form_for_gradient(x: "jax.Array", kernel: "jax.Array") -> str:
    """``chosen_form``, or ``"xla"`` for a convolution that ``call.conv_gradient`` lacks."""
    inputs, outputs = kernel.shape[2:]
    return _form_for_floats(x, kernel, inputs % _LANES == outputs % _LANES == 0)


def _form_for_floats(
    x: "jax.Array | jax.ShapeDtypeStruct", kernel: "jax.Array", float32_fits: bool
) -> str:
    """The form for factors of the dtype of x, which ``call`` rounds the arrays to."""
    if 0 in (*x.shape, *kernel.shape):
        return "xla"
    if x.dtype == "float32":
        return _form() if float32_fits else "xla"
    fits = all(channels % _AMX_CHANNELS == 0 for channels in kernel.shape[2:])
    return _form() if fits and has_amx(_form()) else "xla"
