"""Pixel shuffle and upsampling in networks: differentiable functions of ``[B, H, W, C]``.

They are jitted so that a trace names them: see ``deploy.tracing`` and ``deploy.export.onnx_graph``.
"""

import functools

import jax
import jax.numpy as jnp
from einops import rearrange

from binsr_jax.ops import image


@functools.partial(jax.jit, static_argnames="factor")
def upsample_bilinear(x: jax.Array, factor: int) -> jax.Array:
    """``ops.image.upsample_bilinear``."""
    return image.upsample_bilinear(x, factor)


@functools.partial(jax.jit, static_argnames="factor")
def pixel_shuffle(x: jax.Array, factor: int) -> jax.Array:
    """``ops.image.pixel_shuffle``."""
    return image.pixel_shuffle(x, factor)


@functools.partial(jax.jit, static_argnames="factor")
def pixel_unshuffle(x: jax.Array, factor: int) -> jax.Array:
    """Moves space into channels: the inverse of ``pixel_shuffle``.

        y[b, h, w, c r^2 + i r + j] = x[b, h r + i, w r + j, c]

    Args:
        x: ``[B, H r, W r, C]``.
        factor: The factor r.

    Returns:
        ``[B, H, W, C r^2]``, in the range of ``x``.

    Raises:
        ValueError: ``x`` does not have four axes, or its sides are not multiples of r.
    """
    _, H, W, _ = image.check_batch(x, factor)
    if H % factor or W % factor:
        raise ValueError(f"the sides of {x.shape} are no multiples of {factor}")
    return rearrange(x, "b (h i) (w j) c -> b h w (c i j)", i=factor, j=factor)


@functools.partial(jax.jit, static_argnames="factor")
def depth_to_space(x: jax.Array, factor: int) -> jax.Array:
    """Pixel shuffle in TensorFlow's order of channels, which moves runs of C channels as a whole.

        y[b, h r + i, w r + j, c] = x[b, h, w, (i r + j) C + c]

    Args:
        x: ``[B, H, W, C r^2]``.
        factor: The factor r.

    Returns:
        ``[B, H r, W r, C]``, in the range of ``x``.

    Raises:
        ValueError: ``x`` does not have four axes, or its channels are not a multiple of r^2.
    """
    image.check_shuffle(x, factor)
    return rearrange(x, "b h w (i j c) -> b (h i) (w j) c", i=factor, j=factor)


@functools.partial(jax.jit, static_argnames="factor")
def upsample_nearest(x: jax.Array, factor: int) -> jax.Array:
    """Nearest-neighbour upsampling: repeats every pixel.

        y[b, i, j, c] = x[b, i // r, j // r, c]

    Args:
        x: ``[B, H, W, C]``.
        factor: The factor r.

    Returns:
        ``[B, H r, W r, C]``, in the range of ``x``.

    Raises:
        ValueError: ``x`` does not have four axes, or the factor is less than 1.
    """
    B, H, W, C = image.check_batch(x, factor)
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (B, H, factor, W, factor, C))
    return x.reshape(B, H * factor, W * factor, C)
