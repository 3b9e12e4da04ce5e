"""Images as arrays: MATLAB's bicubic resizing, luma, bilinear upsampling and pixel shuffle.

Resizing and luma serve scores and training data. They take numpy arrays ``[H, W, C]`` and compute
in float64. Upsampling and shuffle are parts of networks, and take arrays of numpy or of JAX; the
parts for JAX alone are in ``ops.upsampling``. This module does not import JAX.
"""

import functools
import math
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

if TYPE_CHECKING:
    import jax

Edge = Literal["mirror", "clamp"]
Array = TypeVar("Array", np.ndarray, "jax.Array")

# The weights of R, G and B in luma, times 255 (ITU-R BT.601, studio range).
LUMA_WEIGHTS = (65.481, 128.553, 24.966)

# The weights of R, G and B in perceived brightness (ITU-R BT.601, full range, as in JPEG files and
# in Pillow's "L").
_GREY_WEIGHTS = tuple(np.float32(weight) for weight in (0.299, 0.587, 0.114))

# Output rows that are resized together, so that the running sum stays in the processor's cache.
_BLOCK_ROWS = 16


def imresize(
    image: np.ndarray, scale: float, *, edge: Edge = "mirror", antialias: bool = True
) -> np.ndarray:
    """Image resized as by MATLAB's ``imresize(image, scale, "bicubic")``.

    Args:
        image: Float ``[H, W, C]``, any range.
        scale: Output size / input size, for example 0.5 or 2.
        edge: What lies outside the image. ``"mirror"`` is the mirror image, edge pixel included
            (MATLAB today); ``"clamp"`` is the edge pixel (older MATLAB, many published LR files).
        antialias: Whether the kernel is widened by ``1 / scale`` when the image shrinks.

    Returns:
        ``[ceil(H scale), ceil(W scale), C]`` of the image's dtype, in its range but not clipped.

    Raises:
        TypeError: The image does not have a float dtype.
        ValueError: The image is empty or not ``[H, W, C]``, the scale is not positive, or the edge
            is unknown.
    """
    if not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"imresize takes a float image, not {image.dtype}; see imresize_uint8")
    _check_resize(image, scale, edge)
    rows = _resize_axis(image.astype(np.float64), 0, scale, edge, antialias)
    return _resize_axis(rows, 1, scale, edge, antialias).astype(image.dtype)


def imresize_uint8(image: np.ndarray, scale: float, *, edge: Edge = "mirror") -> np.ndarray:
    """8-bit image resized as by MATLAB, bit for bit: rounded after each pass, rows first.

    Args:
        image: uint8 ``[H, W, C]``.
        scale: Output size / input size.
        edge: See ``imresize``.

    Returns:
        uint8 ``[ceil(H scale), ceil(W scale), C]``.

    Raises:
        TypeError: The image is not uint8.
        ValueError: See ``imresize``.
    """
    if image.dtype != np.uint8:
        raise TypeError(f"imresize_uint8 takes a uint8 image, not {image.dtype}; see imresize")
    _check_resize(image, scale, edge)
    for axis in (0, 1):
        image = to_uint8(_resize_axis(image.astype(np.float64), axis, scale, edge, antialias=True))
    return image


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Values in 0..255 as uint8: halves are rounded up, and values outside are clipped."""
    return np.clip(np.floor(image + 0.5), 0, 255).astype(np.uint8)


def rgb_to_y(image: np.ndarray) -> np.ndarray:
    """Luma of an RGB image (ITU-R BT.601, studio range).

        Y = (65.481 R + 128.553 G + 24.966 B) / 255 + 16

    Args:
        image: ``[..., 3]``, R, G and B in 0..255, any dtype.

    Returns:
        float64 ``[...]`` in 16..235, not rounded.

    Raises:
        ValueError: The last axis does not have three channels.
    """
    if image.ndim == 0 or image.shape[-1] != 3:
        raise ValueError(f"rgb_to_y takes an image [..., 3], not one of shape {image.shape}")
    return image.astype(np.float64) @ (np.array(LUMA_WEIGHTS) / 255) + 16


def grey_of_rgb(x: Array) -> Array:
    """Grey ``[..., 1]`` of RGB ``[..., 3]`` in the same range: equal channels give their value.

    So a colour network's output for a grey image becomes grey again. It is luma in full range, and
    not the studio range of :func:``rgb_to_y``, from which scores of colour images are taken.

    Args:
      x: float32, any range.
    """
    red, green, blue = _GREY_WEIGHTS
    return red * x[..., :1] + green * x[..., 1:2] + blue * x[..., 2:]


def luma_uint8(image: np.ndarray) -> np.ndarray:
    """Luma as an 8-bit image: ``rgb_to_y``, rounded.

    The papers on JPEG artifacts use it. Halves are rounded to even, as in KAIR's ``rgb2ycbcr``.
    MATLAB rounds them up, which differs for about a hundred of the 2^24 colours.

    Args:
        image: uint8 ``[..., 3]``, R, G and B.

    Returns:
        uint8 ``[...]`` in 16..235.

    Raises:
        TypeError: The image is not uint8.
        ValueError: The last axis does not have three channels.
    """
    if image.dtype != np.uint8:
        raise TypeError(f"luma_uint8 takes a uint8 image, not {image.dtype}; see rgb_to_y")
    if image.ndim == 0 or image.shape[-1] != 3:
        raise ValueError(f"luma_uint8 takes an image [..., 3], not one of shape {image.shape}")
    # The division follows the sum, as in KAIR: the order decides on which side of 1/2 a value lies.
    return np.rint(image.astype(np.float64) @ np.array(LUMA_WEIGHTS) / 255 + 16).astype(np.uint8)


def product(factor: float, x: Array) -> Array:
    """``factor * x``, rounded to 23 of float32's 24 bits before it enters a sum.

    Without the rounding, XLA on CPU contracts the product and the sum to a fused multiply-add in
    some loops and not in others. A pixel's last bit would then depend on the size of the image, and
    tiles would not equal the whole image to the last bit.

    Args:
        factor: any number.
        x: float32.
    """
    y = factor * x
    if isinstance(y, np.ndarray):
        return reduced_precision(y)
    from jax import lax  # here, so that users of numpy alone need not wait for JAX

    return lax.reduce_precision(y, exponent_bits=8, mantissa_bits=22)


def reduced_precision(x: np.ndarray) -> np.ndarray:
    """``lax.reduce_precision(x, 8, 22)`` of float32: without the last bit, halves to even."""
    bits = x.view(np.uint32)
    return ((bits + ((bits >> 1) & 1)) & ~np.uint32(1)).view(np.float32)


def upsample_bilinear(x: Array, factor: int) -> Array:
    """Bilinear upsampling with the edge pixel repeated outside.

        y[h r + i] = (1 - |d|) x[h] + |d| x[h + sign(d)],    d = (i + 1/2) / r - 1/2

    along the height, then the same along the width. ``h + d`` is the position of output pixel
    ``h r + i`` in the input, as in PyTorch with ``align_corners=False``.

    Args:
        x: Float ``[B, H, W, C]``.
        factor: The factor r.

    Returns:
        ``[B, H r, W r, C]``, in the range of ``x``.

    Raises:
        ValueError: ``x`` does not have four axes, or the factor is less than 1.
    """
    check_batch(x, factor)
    xp = x.__array_namespace__()
    for axis in (1, 2):
        # The r phases are weighted sums of shifted images, which are interleaved afterwards. XLA
        # compiles this to one loop; indexing by position would be a slow gather on CPU.
        size = x.shape[axis]
        along = (slice(None),) * axis
        # Few weights occur, each several times. A product is the same before and after the shift.
        weighted = functools.cache(functools.partial(product, x=x))
        phases = []
        for i in range(factor):
            offset = (i + 0.5) / factor - 0.5
            far = weighted(abs(offset))
            before, after = (slice(1), slice(-1)), (slice(1, None), slice(-1, None))
            shifted = [far[*along, part] for part in (before if offset < 0 else after)]
            phases.append(weighted(1 - abs(offset)) + xp.concat(shifted, axis=axis))
        shape = (*x.shape[:axis], size * factor, *x.shape[axis + 1 :])
        x = xp.stack(phases, axis=axis + 1).reshape(shape)
    return x


def pixel_shuffle(x: Array, factor: int) -> Array:
    """Pixel shuffle: moves channels into space, in PyTorch's order of channels.

        y[b, h r + i, w r + j, c] = x[b, h, w, c r^2 + i r + j]

    Shi et al. 2016, arXiv:1609.05158, equation 4 of their paper.

    Args:
        x: ``[B, H, W, C r^2]``.
        factor: The factor r.

    Returns:
        ``[B, H r, W r, C]``, in the range of ``x``.

    Raises:
        ValueError: ``x`` does not have four axes, or its channels are not a multiple of r^2.
    """
    from einops import rearrange  # here, since few networks need it at the start

    check_shuffle(x, factor)
    return rearrange(x, "b h w (c i j) -> b (h i) (w j) c", i=factor, j=factor)


def check_shuffle(x: Array, factor: int) -> None:
    """Checks that x is a batch ``[B, H, W, C factor^2]``, whose channels can move into space."""
    channels = check_batch(x, factor)[-1]
    if channels % factor**2:
        raise ValueError(f"{channels} channels of {x.shape} are no multiple of {factor}^2")


def check_batch(x: Array, factor: int) -> tuple[int, int, int, int]:
    """The shape of images ``[B, H, W, C]`` that can be enlarged by a factor.

    Raises:
        ValueError: ``x`` does not have four axes, or the factor is less than 1.
    """
    if x.ndim != 4:
        raise ValueError(f"upsampling takes images [B, H, W, C], not an array of shape {x.shape}")
    if factor < 1:
        raise ValueError(f"upsampling takes a factor of at least 1, not {factor}")
    B, H, W, C = x.shape
    return B, H, W, C


def _check_resize(image: np.ndarray, scale: float, edge: str) -> None:
    if image.ndim != 3 or 0 in image.shape:
        raise ValueError(f"resizing takes an image [H, W, C], not one of shape {image.shape}")
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"resizing takes a positive scale, not {scale}")
    if edge not in ("mirror", "clamp"):
        raise ValueError(f"resizing knows the edges 'mirror' and 'clamp', not {edge!r}")


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic kernel with a = -1/2 (Keys 1981, equation 15), zero beyond |x| = 2."""
    x = np.abs(x)
    inner = 1.5 * x**3 - 2.5 * x**2 + 1
    outer = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, inner, np.where(x <= 2, outer, 0.0))


def _taps(size: int, scale: float, edge: Edge, antialias: bool) -> tuple[np.ndarray, np.ndarray]:
    """The input positions and the weights of each output position, both ``[output, taps]``."""
    # The centre of output pixel i is input position (i + 1/2) / scale - 1/2, both counted from 0.
    centre = (np.arange(math.ceil(size * scale)) + 0.5) / scale - 0.5
    stretch = min(scale, 1.0) if antialias else 1.0
    reach = 2 / stretch
    first = np.ceil(centre - reach).astype(np.int64)
    positions = first[:, None] + np.arange(math.floor(2 * reach) + 1)
    weights = _cubic((centre[:, None] - positions) * stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    if edge == "clamp":
        return np.clip(positions, 0, size - 1), weights
    # The image followed by its mirror image has the period 2 * size.
    positions %= 2 * size
    return np.minimum(positions, 2 * size - 1 - positions), weights


def _resize_axis(
    image: np.ndarray, axis: int, scale: float, edge: Edge, antialias: bool
) -> np.ndarray:
    """Resizes one axis of a float64 image ``[H, W, C]``, summing from the first tap to the last."""
    positions, weights = _taps(image.shape[axis], scale, edge, antialias)
    lines = np.ascontiguousarray(np.moveaxis(image, axis, 0))
    flat = lines.reshape(len(lines), -1)
    result = np.zeros((len(positions), flat.shape[1]))
    for start in range(0, len(positions), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        for tap in range(positions.shape[1]):
            result[block] += weights[block, tap, None] * flat[positions[block, tap]]
    return np.moveaxis(result.reshape(-1, *lines.shape[1:]), 0, axis)
