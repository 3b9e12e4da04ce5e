"""Converts the planes of a video frame to RGB floats and back.

libswscale, which PyAV has, is not exact enough: in 16-bit RGB its white is 65,280 of 65,535; it
rounds full-range YUV to the narrow range; and it places chroma between two columns of luma, where
nearly all videos have it on the left column.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from binsr_jax.errors import UserError

# Matrices by their number in ITU-T H.273: the weights of red and blue in luma.
WEIGHTS = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.470 BG, which is BT.601
    6: (0.299, 0.114),  # SMPTE 170M, which is BT.601
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020, of constant weights
}
RGB, UNSPECIFIED = 0, 2
BT709, BT601 = 1, 6


@dataclass(frozen=True)
class Coding:
    """How the planes of a frame code colours.

    Attributes:
        matrix: A key of ``WEIGHTS``, or ``RGB`` for planes of green, blue and red.
        full: Whether black is 0 and white is the largest number. Otherwise they are 16 and 235 in 8
            bits, and multiples of these in more bits.
        bits: The bits of a number, 8 to 16; more than 8 are stored in uint16.
        halved: Whether chroma has half of luma's (rows, columns).
        cosited: Whether chroma lies on the even columns of luma, rather than between two columns.
    """

    matrix: int
    full: bool
    bits: int
    halved: tuple[bool, bool] = (True, True)
    cosited: bool = True

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """The type of the planes' numbers."""
        return np.uint8 if self.bits == 8 else np.uint16

    @property
    def largest(self) -> int:
        """The largest number of a plane."""
        return 2**self.bits - 1

    @property
    def spans(self) -> tuple[int, int, int]:
        """Black, the range from black to white, and the range of chroma around its middle."""
        if self.full or self.matrix == RGB:
            return 0, self.largest, self.largest
        unit = 2 ** (self.bits - 8)
        return 16 * unit, 219 * unit, 224 * unit


def matrix_of(number: int, height: int, width: int) -> int:
    """The matrix of a video: its own, or the one that players assume if it has none.

    Raises:
        UserError: The matrix is of constant luminance, ICtCp or YCgCo.
    """
    if number in WEIGHTS or number == RGB:
        return number
    if number in (UNSPECIFIED, 3):  # 3 is reserved
        return BT709 if height >= 720 or width >= 1280 else BT601
    raise UserError(
        f"its colour matrix has the number {number} of ITU-T H.273, which is not read: convert it "
        "to BT.709 or BT.2020 first"
    )


def to_rgb(planes: Sequence[np.ndarray], coding: Coding) -> np.ndarray:
    """The colours of a frame, float32 ``[H, W, 3]`` clipped to 0..1.

    Args:
        planes: Luma and two planes of chroma; luma alone for grey; or green, blue and red.
        coding: The coding of the planes.
    """
    black, white, width = coding.spans
    y = (planes[0].astype(np.float32) - black) / white
    if coding.matrix == RGB:
        b, r = (plane.astype(np.float32) / white for plane in planes[1:])
        return np.stack([r, y, b], axis=-1)
    if len(planes) == 1:
        return np.repeat(np.clip(y, 0, 1)[..., None], 3, axis=-1)
    middle = np.float32(2 ** (coding.bits - 1))
    u, v = ((_full(plane, y.shape, coding) - middle) / width for plane in planes[1:])
    red, blue = WEIGHTS[coding.matrix]
    rgb = np.empty((*y.shape, 3), np.float32)
    rgb[..., 0] = y + np.float32(2 * (1 - red)) * v
    rgb[..., 2] = y + np.float32(2 * (1 - blue)) * u
    rest = y - np.float32(red) * rgb[..., 0] - np.float32(blue) * rgb[..., 2]
    rgb[..., 1] = rest / np.float32(1 - red - blue)
    return np.clip(rgb, 0, 1, out=rgb)


def from_rgb(rgb: np.ndarray, coding: Coding) -> list[np.ndarray]:
    """The rounded planes of an image: luma and two planes of chroma.

    Args:
        rgb: float32 ``[H, W, 3]`` in 0..1.
        coding: The coding of the planes; its matrix is not ``RGB``.
    """
    black, white, width = coding.spans
    red, blue = (np.float32(weight) for weight in WEIGHTS[coding.matrix])
    r, g, b = (rgb[..., i] for i in range(3))
    y = red * r + (1 - red - blue) * g + blue * b
    u, v = (b - y) / (2 * (1 - blue)), (r - y) / (2 * (1 - red))
    middle = 2 ** (coding.bits - 1)
    planes = [y * white + black]
    planes += [_part(plane, coding) * width + middle for plane in (u, v)]
    return [np.clip(np.rint(p), 0, coding.largest).astype(coding.dtype) for p in planes]


def _full(plane: np.ndarray, shape: tuple[int, int], coding: Coding) -> np.ndarray:
    """A plane of chroma, interpolated linearly to the size of luma."""
    x = plane.astype(np.float32)
    for axis, halved in enumerate(coding.halved):
        if halved:
            x = _doubled(x, axis, shape[axis], coding.cosited and axis == 1)
    return x


def _doubled(x: np.ndarray, axis: int, length: int, cosited: bool) -> np.ndarray:
    x = np.moveaxis(x, axis, 0)
    after = np.concatenate([x[1:], x[-1:]])
    result = np.empty((2 * len(x), *x.shape[1:]), np.float32)
    if cosited:
        result[0::2], result[1::2] = x, (x + after) / 2
    else:
        before = np.concatenate([x[:1], x[:-1]])
        result[0::2], result[1::2] = (3 * x + before) / 4, (3 * x + after) / 4
    return np.moveaxis(result[:length], 0, axis)


def _part(plane: np.ndarray, coding: Coding) -> np.ndarray:
    """A plane of chroma, reduced to the size in which it is stored."""
    for axis, halved in enumerate(coding.halved):
        if halved:
            plane = _reduced(plane, axis, coding.cosited and axis == 1)
    return plane


def _reduced(x: np.ndarray, axis: int, cosited: bool) -> np.ndarray:
    x = np.moveaxis(x, axis, 0)
    if len(x) % 2:
        x = np.concatenate([x, x[-1:]])
    even, odd = x[0::2], x[1::2]
    if cosited:
        before = np.concatenate([even[:1], odd[:-1]])
        reduced = (before + 2 * even + odd) / 4
    else:
        reduced = (even + odd) / 2
    return np.moveaxis(reduced, 0, axis)
