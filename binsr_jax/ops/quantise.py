"""Rounding of what is float in a network, to 8 or 16 bits, with a straight-through gradient."""

from functools import partial

import jax
import jax.numpy as jnp

# How floats are stored: with "int8" kernels are, and all other arrays become float16.
FLOATS = ("float32", "float16", "int8")

_MOST = 127  # of the whole numbers, on both sides of 0


def stored_as(shape: tuple[int, ...], floats: str) -> str:
    """The type that an array of floats is stored as: a name of ``FLOATS``.

    With "int8" it is int8 for kernels, which have an axis of output channels and others before it,
    and float16 for vectors and scalars. A vector has one number a channel, so a step a channel
    would be as large as what it quantises.
    """
    return "float16" if floats == "int8" and len(shape) < 2 else floats


def quantise(w: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A kernel in whole numbers, with a step for each output channel.

        step = max |w| / 127,    q = round(w / step),    |w - q step| <= step / 2

    Args:
        w: ``[..., O]``, float32 and finite.

    Returns:
        q, int8 ``[..., O]`` in -127..127, and the step, float32 ``[O]``, which is above 0.
    """
    largest = jnp.abs(w).max(range(w.ndim - 1))
    # Of a channel of zeros, and of one so small that its step would be flushed to zero.
    step = jnp.maximum(largest / _MOST, jnp.finfo(jnp.float32).tiny)
    return jnp.clip(jnp.round(w / step), -_MOST, _MOST).astype(jnp.int8), step


def dequantise(q: jax.Array, step: jax.Array) -> jax.Array:
    """``q step``, float32, of ``quantise``."""
    return q.astype(jnp.float32) * step


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def rounded(x: jax.Array, floats: str) -> jax.Array:
    """An array as a model file holds it, with the gradient of the identity.

        rounded(x) = dequantise(quantise(x)) or float16(x),    d/dx = 1

    Args:
        x: float32.
        floats: a name of ``FLOATS``; "float32" changes nothing.
    """
    form = stored_as(x.shape, floats)
    if form == "int8":
        return dequantise(*quantise(x))
    return x.astype(form).astype(x.dtype)


def _rounded_forward(x: jax.Array, floats: str) -> tuple[jax.Array, None]:
    return rounded(x, floats), None


def _rounded_backward(floats: str, saved: None, gradient: jax.Array) -> tuple[jax.Array]:
    del floats, saved
    return (gradient,)


rounded.defvjp(_rounded_forward, _rounded_backward)
