"""Images as arrays: MATLAB's bicubic resizing, luma, and the upsampling steps of networks.

Resizing and luma work on numpy arrays ``[H, W, C]`` in float64, since scores and training data are
made from them; pixel shuffle and the upsamplings are differentiable JAX functions of
``[B, H, W, C]``.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

Edge = Literal["mirror", "clamp"]

# Of R, G and B in 0..255, times 255 (ITU-R BT.601, studio range).
LUMA_WEIGHTS = (65.481, 128.553, 24.966)

# Output rows resized at a time, so that the running sum stays in the processor's cache.
_BLOCK_ROWS = 16


def imresize(
    image: np.ndarray, scale: float, *, edge: Edge = "mirror", antialias: bool = True
) -> np.ndarray:
    """Resizes an image by MATLAB's ``imresize(image, scale, "bicubic")``.

    Args:
      image: float ``[H, W, C]``, any range.
      scale: output size / input size, for example 0.5 or 2.
      edge: what lies outside the image: "mirror" repeats it backwards, the edge pixel included
        (MATLAB today), "clamp" repeats the edge pixel (older MATLAB; many published LR files).
      antialias: whether the kernel widens by 1/scale when the image shrinks.

    Returns:
      float ``[ceil(H scale), ceil(W scale), C]`` of the image's type, not clipped.

    Raises:
      TypeError: the image is not of a float type.
      ValueError: the image is not ``[H, W, C]`` or is empty, the scale is not positive, or the
        edge is unknown.
    """
    if not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"imresize takes a float image, not {image.dtype}; see imresize_uint8")
    _check_resize(image, scale, edge)
    rows = _resize_axis(image.astype(np.float64), 0, scale, edge, antialias)
    return _resize_axis(rows, 1, scale, edge, antialias).astype(image.dtype)


def imresize_uint8(image: np.ndarray, scale: float, *, edge: Edge = "mirror") -> np.ndarray:
    """Resizes an 8-bit image as MATLAB does, bit for bit: rounded after each pass, rows first.

    Args:
      image: uint8 ``[H, W, C]``.
      scale: output size / input size.
      edge: see :func:`imresize`.

    Returns:
      uint8 ``[ceil(H scale), ceil(W scale), C]``.

    Raises:
      TypeError: the image is not uint8.
      ValueError: as :func:`imresize`.
    """
    if image.dtype != np.uint8:
        raise TypeError(f"imresize_uint8 takes a uint8 image, not {image.dtype}; see imresize")
    _check_resize(image, scale, edge)
    for axis in (0, 1):
        image = to_uint8(_resize_axis(image.astype(np.float64), axis, scale, edge, antialias=True))
    return image


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Rounds values in 0..255 half up and clips them to uint8."""
    return np.clip(np.floor(image + 0.5), 0, 255).astype(np.uint8)


def rgb_to_y(image: np.ndarray) -> np.ndarray:
    """Luma of an RGB image: Y = (65.481 R + 128.553 G + 24.966 B) / 255 + 16 (ITU-R BT.601).

    Args:
      image: ``[..., 3]``, R, G and B in 0..255, of any type.

    Returns:
      float64 ``[...]`` in 16..235, not rounded.

    Raises:
      ValueError: the last axis does not hold three channels.
    """
    if image.ndim == 0 or image.shape[-1] != 3:
        raise ValueError(f"rgb_to_y takes an image [..., 3], not one of shape {image.shape}")
    return image.astype(np.float64) @ (np.array(LUMA_WEIGHTS) / 255) + 16


def luma_uint8(image: np.ndarray) -> np.ndarray:
    """Luma as an 8-bit image, as the papers on JPEG artifacts take it: :func:`rgb_to_y`, rounded.

    Halves are rounded to even numbers (KAIR's ``rgb2ycbcr``; MATLAB rounds them up, which makes a
    difference in a hundred colours of 2^24).

    Args:
      image: uint8 ``[..., 3]``, R, G and B.

    Returns:
      uint8 ``[...]`` in 16..235.

    Raises:
      TypeError: the image is not uint8.
      ValueError: the last axis does not hold three channels.
    """
    if image.dtype != np.uint8:
        raise TypeError(f"luma_uint8 takes a uint8 image, not {image.dtype}; see rgb_to_y")
    if image.ndim == 0 or image.shape[-1] != 3:
        raise ValueError(f"luma_uint8 takes an image [..., 3], not one of shape {image.shape}")
    # Divided after the sum, as in KAIR: it decides on which side of one half a value lies.
    return np.rint(image.astype(np.float64) @ np.array(LUMA_WEIGHTS) / 255 + 16).astype(np.uint8)


def pixel_shuffle(x: jax.Array, factor: int) -> jax.Array:
    """Moves channels into space (Shi et al. 2016, arXiv:1609.05158, equation 4).

    ``y[b, h r + i, w r + j, c] = x[b, h, w, c r^2 + i r + j]`` with ``r = factor``, which is
    torch's order of channels.

    Args:
      x: ``[B, H, W, C r^2]``.
      factor: r.

    Returns:
      ``[B, H r, W r, C]``.

    Raises:
      ValueError: x has not four axes, or its channels are no multiple of r^2.
    """
    B, H, W, C = _check_shuffle(x, factor)
    x = x.reshape(B, H, W, C, factor, factor)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(B, H * factor, W * factor, C)


def pixel_unshuffle(x: jax.Array, factor: int) -> jax.Array:
    """Moves space into channels, which `pixel_shuffle` undoes.

    ``y[b, h, w, c r^2 + i r + j] = x[b, h r + i, w r + j, c]`` with ``r = factor``.

    Args:
      x: ``[B, H r, W r, C]``.
      factor: r.

    Returns:
      ``[B, H, W, C r^2]``.

    Raises:
      ValueError: x has not four axes, or its sides are no multiples of r.
    """
    B, H, W, C = _check_batch(x, factor)
    if H % factor or W % factor:
        raise ValueError(f"the sides of {x.shape} are no multiples of {factor}")
    x = x.reshape(B, H // factor, factor, W // factor, factor, C)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(B, H // factor, W // factor, C * factor**2)


def depth_to_space(x: jax.Array, factor: int) -> jax.Array:
    """`pixel_shuffle` with TensorFlow's order of channels, where runs of C of them stay together.

    ``y[b, h r + i, w r + j, c] = x[b, h, w, (i r + j) C + c]`` with ``r = factor``.

    Args:
      x: ``[B, H, W, C r^2]``.
      factor: r.

    Returns:
      ``[B, H r, W r, C]``.

    Raises:
      ValueError: x has not four axes, or its channels are no multiple of r^2.
    """
    B, H, W, C = _check_shuffle(x, factor)
    x = x.reshape(B, H, W, factor, factor, C)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(B, H * factor, W * factor, C)


def upsample_nearest(x: jax.Array, factor: int) -> jax.Array:
    """Repeats every pixel: ``y[b, i, j, c] = x[b, i // r, j // r, c]`` with ``r = factor``.

    Args:
      x: ``[B, H, W, C]``.
      factor: r.

    Returns:
      ``[B, H r, W r, C]``.

    Raises:
      ValueError: x has not four axes, or the factor is less than 1.
    """
    B, H, W, C = _check_batch(x, factor)
    x = jnp.broadcast_to(x[:, :, None, :, None, :], (B, H, factor, W, factor, C))
    return x.reshape(B, H * factor, W * factor, C)


def product(factor: float, x: jax.Array) -> jax.Array:
    """``factor * x`` in 23 of float32's 24 bits, rounded before it is added to anything.

    Otherwise XLA fuses it on CPU with a sum in some loops and not in others, and a pixel's last bit
    depends on the size of the image: tiles would not be the whole to the bit.
    """
    return jax.lax.reduce_precision(factor * x, exponent_bits=8, mantissa_bits=22)


def upsample_bilinear(x: jax.Array, factor: int) -> jax.Array:
    """Bilinear upsampling with the edge pixel repeated (torch's ``align_corners=False``).

    Output pixel ``h r + i`` lies at ``h + d`` of the input, ``d = (i + 1/2) / r - 1/2``, and is
    ``(1 - |d|) x[h] + |d| x[h + sign(d)]``; the same along the width.

    Args:
      x: float ``[B, H, W, C]``.
      factor: r.

    Returns:
      ``[B, H r, W r, C]``.

    Raises:
      ValueError: x has not four axes, or the factor is less than 1.
    """
    _check_batch(x, factor)
    for axis in (1, 2):
        # The r phases are weighted sums of shifted images, interleaved afterwards: XLA makes this
        # one loop, while indexing by position would be a slow gather on CPU.
        size = x.shape[axis]
        first, last = (
            jax.lax.slice_in_dim(x, 0, 1, axis=axis),
            jax.lax.slice_in_dim(x, size - 1, size, axis=axis),
        )
        before = jnp.concatenate([first, jax.lax.slice_in_dim(x, 0, size - 1, axis=axis)], axis)
        after = jnp.concatenate([jax.lax.slice_in_dim(x, 1, size, axis=axis), last], axis)
        phases = []
        for i in range(factor):
            offset = (i + 0.5) / factor - 0.5
            other = before if offset < 0 else after
            phases.append(product(1 - abs(offset), x) + product(abs(offset), other))
        shape = (*x.shape[:axis], size * factor, *x.shape[axis + 1 :])
        x = jnp.stack(phases, axis + 1).reshape(shape)
    return x


def _check_resize(image: np.ndarray, scale: float, edge: str) -> None:
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"resizing takes an image [H, W, C], not one of shape {image.shape}")
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"resizing takes a positive scale, not {scale}")
    if edge not in ("mirror", "clamp"):
        raise ValueError(f"resizing knows the edges 'mirror' and 'clamp', not {edge!r}")


def _check_shuffle(x: jax.Array, factor: int) -> tuple[int, int, int, int]:
    """B, H, W and C of a batch ``[B, H, W, C factor^2]`` whose channels move into space."""
    B, H, W, channels = _check_batch(x, factor)
    if channels % factor**2:
        raise ValueError(f"{channels} channels of {x.shape} are no multiple of {factor}^2")
    return B, H, W, channels // factor**2


def _check_batch(x: jax.Array, factor: int) -> tuple[int, int, int, int]:
    if x.ndim != 4:
        raise ValueError(f"upsampling takes images [B, H, W, C], not an array of shape {x.shape}")
    if factor < 1:
        raise ValueError(f"upsampling takes a factor of at least 1, not {factor}")
    B, H, W, C = x.shape
    return B, H, W, C


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic kernel with a = -1/2 (Keys 1981, equation 15), zero beyond |x| = 2."""
    x = np.abs(x)
    inner = 1.5 * x**3 - 2.5 * x**2 + 1
    outer = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, inner, np.where(x <= 2, outer, 0.0))


def _taps(size: int, scale: float, edge: Edge, antialias: bool) -> tuple[np.ndarray, np.ndarray]:
    """For each output position the input positions and their weights, both ``[output, taps]``."""
    # Output pixel i covers input position (i + 1/2) / scale - 1/2, both counted from 0.
    centre = (np.arange(math.ceil(size * scale)) + 0.5) / scale - 0.5
    stretch = min(scale, 1.0) if antialias else 1.0
    reach = 2 / stretch
    first = np.ceil(centre - reach).astype(np.int64)
    positions = first[:, None] + np.arange(math.floor(2 * reach) + 1)
    weights = _cubic((centre[:, None] - positions) * stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    if edge == "clamp":
        return np.clip(positions, 0, size - 1), weights
    # The image and its mirror image together repeat with period 2 * size.
    positions %= 2 * size
    return np.minimum(positions, 2 * size - 1 - positions), weights


def _resize_axis(
    image: np.ndarray, axis: int, scale: float, edge: Edge, antialias: bool
) -> np.ndarray:
    """Resizes one axis of a float64 image ``[H, W, C]``, adding from the first tap to the last."""
    positions, weights = _taps(image.shape[axis], scale, edge, antialias)
    lines = np.ascontiguousarray(np.moveaxis(image, axis, 0))
    flat = lines.reshape(len(lines), -1)
    result = np.zeros((len(positions), flat.shape[1]))
    for start in range(0, len(positions), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        for tap in range(positions.shape[1]):
            result[block] += weights[block, tap, None] * flat[positions[block, tap]]
    return np.moveaxis(result.reshape(-1, *lines.shape[1:]), 0, axis)
