"""Pairs of a low-quality and a high-quality image, and the protocol of random degradations."""

from typing import Protocol

import numpy as np

from binsr_jax.ops.image import imresize_uint8

Pair = tuple[np.ndarray, np.ndarray]


class RandomDegradation(Protocol):
    """Makes training pairs from patches; it can be pickled.

    Its input is a patch that is ``margin`` pixels larger per side than the pair. The pair is (lq,
    hq): hq is uint8, and lq is uint8, or float32 in about 0..1. For super-resolution, lq is smaller
    by the scale.
    """

    @property
    def margin(self) -> int: ...

    def __call__(self, patch: np.ndarray, rng: np.random.Generator) -> Pair: ...


def crop_to_multiple(image: np.ndarray, factor: int) -> np.ndarray:
    """The largest top left part of an image ``[H, W, C]`` with sides that ``factor`` divides."""
    height, width = (size - size % factor for size in image.shape[:2])
    return image[:height, :width]


def bicubic_pair(hq: np.ndarray, scale: int) -> Pair:
    """A low-resolution image and its original, made as for super-resolution benchmarks.

    The image is cropped to a multiple of the scale, reduced like MATLAB's ``imresize`` with
    mirrored edges, and rounded to 8 bits (DIV2K's ``LR_bicubic`` track).

    Args:
        hq: uint8 ``[H, W, C]``, no side shorter than the scale.
        scale: How many times smaller the low-quality image is.

    Returns:
        uint8 ``[H // scale, W // scale, C]`` and the cropped ``[H', W', C]``.
    """
    hq = crop_to_multiple(hq, scale)
    return imresize_uint8(hq, 1 / scale), hq


def random_window(lq: np.ndarray, hq: np.ndarray, grid: int, rng: np.random.Generator) -> Pair:
    """The same window of both images of a pair, ``grid`` pixels per side smaller than lq.

    Half of the time it lies at the top left, so that the edges of JPEG blocks lie where a test
    image has them. Otherwise it lies at a random place.

    Args:
        lq: ``[h, w, C]``.
        hq: ``[s h, s w, C]`` with an integer s.
        grid: The side of a block of ``lq``.
        rng: Draws the place.
    """
    scale = hq.shape[0] // lq.shape[0]
    top = left = 0
    if rng.integers(2):
        top, left = rng.integers(grid + 1, size=2)
    height, width = (side - grid for side in lq.shape[:2])

    def cut(image: np.ndarray, step: int) -> np.ndarray:
        rows = slice(step * top, step * (top + height))
        columns = slice(step * left, step * (left + width))
        return np.ascontiguousarray(image[rows, columns])

    return cut(lq, 1), cut(hq, scale)
