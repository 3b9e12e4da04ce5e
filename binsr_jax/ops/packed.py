"""Convolution of signs on packed bits.

A sign is one bit: 1 for +1, 0 for -1. The product of two signs is +1 where their bits agree, so the
dot product of ``n`` signs is

    dot = n - 2 * popcount(x ^ w)

and one operation on a word of 32 bits replaces 32 multiplications. A tap outside the image
contributes 0, because zero padding comes after the sign. A bit cannot hold this third value, so the
word is masked there and ``n`` counts only the taps inside the image:

    dot = channels * valid_taps - 2 * sum over taps and words of popcount((x ^ w) & mask).

Results are integers. Every function here equals the float convolution of the signs to the last bit.

Order of the bits: with ``words = ceil(channels / 32)`` a pixel has ``n = 4 * words`` bytes. Bit
``k`` of byte ``j`` is channel ``k * n + j``, with the bytes of a word in little-endian order. So
packing shifts and adds eight contiguous runs of channels, which vectorises. Neighbouring channels
in neighbouring bits would need a reduction over the minor axis, which is slow on a CPU. Bits past
the last channel are 0 in both operands and cancel.
"""

import functools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from binsr_jax.ops.native import call, choose

WORD_BITS = 32
_BYTE_BITS = 8
_WORD_BYTES = WORD_BITS // _BYTE_BITS
_ALL_ONES = np.uint32(0xFFFFFFFF)


def word_count(channels: int) -> int:
    """Number of words for one bit per channel: ``ceil(channels / 32)``."""
    return -(-channels // WORD_BITS)


def pack_activations(x: jax.Array) -> jax.Array:
    """The signs of activations, packed along the channels: a bit is 1 where ``x > 0``.

    Args:
        x: Float ``[B, H, W, C]``. Zero and NaN count as negative, as in ``ops.binarize``.

    Returns:
        uint32 ``[B, H, W, ceil(C / 32)]``, in the module's order of bits.

    Raises:
        ValueError: ``x`` is not four-dimensional or has no channels.
        TypeError: ``x`` is not a floating-point array.
    """
    _check_floats("pack_activations", "x", x, "[B, H, W, C]")
    return pack_signs(x > 0)


def pack_weights(w: jax.Array) -> jax.Array:
    """The signs of a kernel, packed along its input channels: a bit is 1 where ``w > 0``.

    Args:
        w: Float ``[kh, kw, I, O]``.

    Returns:
        uint32 ``[kh, kw, ceil(I / 32), O]``, in the order of bits of ``pack_activations``.

    Raises:
        ValueError: ``w`` is not four-dimensional or has no input channels.
        TypeError: ``w`` is not a floating-point array.
    """
    _check_floats("pack_weights", "w", w, "[kh, kw, I, O]")
    return jnp.swapaxes(pack_signs(jnp.swapaxes(w, 2, 3) > 0), 2, 3)


def unpack_weights(w_bits: jax.Array, in_channels: int) -> jax.Array:
    """The signs that ``pack_weights`` packed.

    Args:
        w_bits: uint32 ``[kh, kw, words, O]``.
        in_channels: The number of channels in the words.

    Returns:
        float32 ``[kh, kw, in_channels, O]``, each -1 or +1.

    Raises:
        ValueError: ``w_bits`` is not four-dimensional, or its words do not fit ``in_channels``.
        TypeError: ``w_bits`` is not uint32.
    """
    if w_bits.ndim != 4 or in_channels < 1 or w_bits.shape[2] != word_count(in_channels):
        raise ValueError(
            "unpack_weights: w_bits must be [kh, kw, words, O] with the words of "
            f"{in_channels} channels, got shape {w_bits.shape}"
        )
    if w_bits.dtype != jnp.uint32:
        raise TypeError(f"unpack_weights: w_bits must be uint32, got {w_bits.dtype}")
    signs = _unpack_last(jnp.swapaxes(w_bits, 2, 3), in_channels)
    return jnp.swapaxes(signs, 2, 3).astype(jnp.float32)


def packed_conv(x_bits: jax.Array, w_bits: jax.Array, in_channels: int) -> jax.Array:
    """Convolution of signs with signs by XNOR and popcount: stride 1, zero padding.

    On CPU it is native code where that is available (``ops.native``), with the same result.

    Args:
        x_bits: uint32 ``[B, H, W, words]`` from ``pack_activations``.
        w_bits: uint32 ``[kh, kw, words, O]`` from ``pack_weights``, ``kh`` and ``kw`` odd.
        in_channels: The number of channels in the words.

    Returns:
        int32 ``[B, H, W, O]``, each in ``-kh*kw*in_channels .. kh*kw*in_channels``.

    Raises:
        ValueError: The shapes do not fit each other or ``in_channels``, or the kernel has an even
            side.
        TypeError: An operand is not uint32.
    """
    _check_packed(x_bits, w_bits, in_channels)
    by_xla = partial(_packed_conv, in_channels=in_channels)
    form = choose.form_for_packed(x_bits, w_bits)
    if form == "xla":
        return by_xla(x_bits, w_bits)

    def natively(x_bits: jax.Array, w_bits: jax.Array) -> jax.Array:
        return call.packed_conv(x_bits, w_bits, in_channels, form).astype(jnp.int32)

    return lax.platform_dependent(x_bits, w_bits, cpu=natively, default=by_xla)


def _packed_conv(x_bits: jax.Array, w_bits: jax.Array, in_channels: int) -> jax.Array:
    """``packed_conv`` in JAX operations."""
    _, H, W, words = x_bits.shape
    kh, kw = w_bits.shape[:2]
    x_bits = jnp.pad(x_bits, ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
    rows, columns = _inside(H, kh), _inside(W, kw)
    row_masks, column_masks = (
        jnp.where(inside, _ALL_ONES, np.uint32(0)) for inside in (rows, columns)
    )
    # Taps and words are unrolled. XLA then makes one loop over pixels, with the output channels
    # innermost and the count in a register, which is far faster than a reduction axis.
    count = jnp.zeros((), jnp.uint32)
    for i in range(kh):
        for j in range(kw):
            mask = row_masks[i, :, None, None] & column_masks[j, :, None]
            for word in range(words):
                x = x_bits[:, i : i + H, j : j + W, word, None]
                count += lax.population_count((x ^ w_bits[i, j, word]) & mask)
    valid_rows, valid_columns = (inside.sum(0, dtype=jnp.int32) for inside in (rows, columns))
    valid_taps = valid_rows[:, None, None] * valid_columns[:, None]
    return in_channels * valid_taps - 2 * count.astype(jnp.int32)


def packed_conv_reference(x_bits: np.ndarray, w_bits: np.ndarray, in_channels: int) -> np.ndarray:
    """``packed_conv`` in numpy, slow and readable: unpacks the signs and sums tap by tap.

    Args:
        x_bits: uint32 ``[B, H, W, words]``.
        w_bits: uint32 ``[kh, kw, words, O]``.
        in_channels: The number of channels in the words.

    Returns:
        int32 ``[B, H, W, O]``.

    Raises:
        ValueError: See ``packed_conv``.
        TypeError: See ``packed_conv``.
    """
    _check_packed(x_bits, w_bits, in_channels)
    x = _unpack_last(np.asarray(x_bits), in_channels)
    w_bits = np.swapaxes(np.asarray(w_bits), 2, 3)
    w = np.swapaxes(_unpack_last(w_bits, in_channels), 2, 3)
    B, H, W, _ = x.shape
    kh, kw, _, outputs = w.shape
    y = np.zeros((B, H, W, outputs), np.int32)
    for row in range(H):
        for column in range(W):
            for i in range(kh):
                for j in range(kw):
                    source_row, source_column = row + i - kh // 2, column + j - kw // 2
                    if 0 <= source_row < H and 0 <= source_column < W:
                        y[:, row, column] += x[:, source_row, source_column] @ w[i, j]
    return y


def int8_conv(x: jax.Array, w: jax.Array) -> jax.Array:
    """Convolution of the signs of ``x`` and ``w`` as int8 numbers -1 and +1, for GPU and TPU.

    It equals ``packed_conv(pack_activations(x), pack_weights(w), C)``. The matrix units of a GPU or
    TPU multiply int8 faster than it processes bits. On a CPU, XLA's int8 convolution is far slower
    than bits.

    Args:
        x: Float ``[B, H, W, C]``.
        w: Float ``[kh, kw, C, O]``, ``kh`` and ``kw`` odd.

    Returns:
        int32 ``[B, H, W, O]``.

    Raises:
        ValueError: The shapes do not fit each other, or the kernel has an even side.
        TypeError: An operand is not a floating-point array.
    """
    _check_floats("int8_conv", "x", x, "[B, H, W, C]")
    _check_floats("int8_conv", "w", w, "[kh, kw, C, O]")
    _check_odd("int8_conv", w)
    if x.shape[-1] != w.shape[2]:
        raise ValueError(
            f"int8_conv: x {x.shape} has {x.shape[-1]} channels, w {w.shape} takes {w.shape[2]}"
        )
    x_signs, w_signs = (jnp.where(v > 0, jnp.int8(1), jnp.int8(-1)) for v in (x, w))
    return lax.conv_general_dilated(
        x_signs,
        w_signs,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=jnp.int32,
    )


def pack_signs(bits: jax.Array) -> jax.Array:
    """Packs booleans ``[..., C]`` to uint32 ``[..., ceil(C / 32)]``, ordered as the module says."""
    *outer, channels = bits.shape
    words = word_count(channels)
    n = words * _WORD_BYTES
    padding = [(0, 0)] * len(outer) + [(0, words * WORD_BITS - channels)]
    bits = jnp.pad(bits, padding).reshape(*outer, _BYTE_BITS, n).astype(jnp.uint8)
    places = jnp.arange(_BYTE_BITS, dtype=jnp.uint8)[:, None]
    octets = jnp.sum(bits << places, axis=-2, dtype=jnp.uint8).astype(jnp.uint32)
    octets = octets.reshape(*outer, words, _WORD_BYTES)
    # A bitcast would do the same, but not for images of any size in an exported program.
    shifted = (octets[..., i] << np.uint32(i * _BYTE_BITS) for i in range(_WORD_BYTES))
    return functools.reduce(jnp.bitwise_or, shifted)


def _unpack_last(words: Any, channels: int) -> Any:
    """int32 signs ``[..., channels]`` of uint32 words ``[..., words]``, in numpy or JAX."""
    n = words.shape[-1] * _WORD_BYTES
    channel = np.arange(channels)
    octet, bit = channel % n, channel // n
    shift = (octet % _WORD_BYTES * _BYTE_BITS + bit).astype(np.uint32)
    bits = words[..., octet // _WORD_BYTES] >> shift & np.uint32(1)
    return np.int32(2) * bits.astype(np.int32) - np.int32(1)


def _inside(size: int, kernel: int) -> jax.Array:
    """Whether each tap of an odd kernel lies in the image, per position: ``[kernel, size]``."""
    position = jnp.arange(size) + jnp.arange(kernel)[:, None] - kernel // 2
    return (position >= 0) & (position < size)


def _check_floats(function: str, name: str, array: jax.Array, axes: str) -> None:
    if array.ndim != 4 or array.shape[-1 if name == "x" else 2] == 0:
        raise ValueError(
            f"{function}: {name} must be {axes} with channels, got shape {array.shape}"
        )
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{function}: {name} must be of floats, got {array.dtype}")


def _check_odd(function: str, w: jax.Array | np.ndarray) -> None:
    if w.shape[0] % 2 == 0 or w.shape[1] % 2 == 0:
        raise ValueError(f"{function}: the kernel of w {w.shape} must have odd sides")


def _check_packed(
    x_bits: jax.Array | np.ndarray, w_bits: jax.Array | np.ndarray, in_channels: int
) -> None:
    if x_bits.ndim != 4 or w_bits.ndim != 4:
        raise ValueError(
            "packed_conv: x_bits must be [B, H, W, words] and w_bits [kh, kw, words, O], "
            f"got shapes {x_bits.shape} and {w_bits.shape}"
        )
    if x_bits.dtype != jnp.uint32 or w_bits.dtype != jnp.uint32:
        raise TypeError(
            f"packed_conv: x_bits and w_bits must be uint32, got {x_bits.dtype} and {w_bits.dtype}"
        )
    words = word_count(in_channels)
    if in_channels < 1 or x_bits.shape[-1] != words or w_bits.shape[2] != words:
        raise ValueError(
            f"packed_conv: {in_channels} channels are {words} words, "
            f"but x_bits is {x_bits.shape} and w_bits {w_bits.shape}"
        )
    _check_odd("packed_conv", w_bits)
