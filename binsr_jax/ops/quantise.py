"""Rounds the floats of a network to 8 or 16 bits, with a straight-through gradient."""

from functools import partial

import jax
import jax.numpy as jnp

# How floats are stored. With "int8", kernels become int8 and all other arrays float16.
FLOATS = ("float32", "float16", "int8")

_MOST = 127  # the largest stored integer


def stored_as(shape: tuple[int, ...], floats: str) -> str:
    """The type that an array of floats is stored as: a name of ``FLOATS``.

    With "int8" it is int8 for kernels, which have an axis of output channels and others before it,
    and float16 for vectors and scalars. A vector has one number per channel, so the
    steps would take as much room as the vector itself.
    """
    return "float16" if floats == "int8" and len(shape) < 2 else floats


def quantise(w: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A kernel as integers, with a step for each output channel.

        step = max |w| / 127,    q = round(w / step),    |w - q step| <= step / 2

    Args:
        w: ``[..., O]``, float32 and finite.

    Returns:
        q, int8 ``[..., O]`` in -127..127, and the step, float32 ``[O]``, which is above 0.
    """
    largest = jnp.abs(w).max(range(w.ndim - 1))
    # The step of a channel of zeros, or of one whose step would be flushed to zero.
    step = jnp.maximum(largest / _MOST, jnp.finfo(jnp.float32).tiny)
    return jnp.clip(jnp.round(w / step), -_MOST, _MOST).astype(jnp.int8), step


def dequantise(q: jax.Array, step: jax.Array) -> jax.Array:
    """The kernel ``q step`` in float32: the inverse of ``quantise``."""
    return q.astype(jnp.float32) * step


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def rounded(x: jax.Array, floats: str) -> jax.Array:
    """An array as a model file holds it, with the gradient of the identity.

        rounded(x) = dequantise(quantise(x)) or float16(x),    d/dx = 1

    Args:
        x: float32.
        floats: A name of ``FLOATS``; "float32" changes nothing.
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
