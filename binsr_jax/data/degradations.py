"""From a high-quality image to the pair that a network learns from."""

import numpy as np

from binsr_jax.ops.image import imresize_uint8


def crop_to_multiple(image: np.ndarray, factor: int) -> np.ndarray:
    """The largest top left part of an image ``[H, W, C]`` whose sides are multiples of a factor."""
    height, width = (size - size % factor for size in image.shape[:2])
    return image[:height, :width]


def bicubic_pair(hq: np.ndarray, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and its bicubic reduction, as super-resolution benchmarks make it.

    The image is cropped to a multiple of the scale and reduced like MATLAB's ``imresize`` with
    mirrored edges, rounded to 8 bits (DIV2K's ``LR_bicubic`` track).

    Args:
        hq: uint8 ``[H, W, C]``, no side shorter than the scale.
        scale: How many times smaller the low-quality image is.

    Returns:
        uint8 ``[H // scale, W // scale, C]`` and the cropped ``[H', W', C]``.
    """
    hq = crop_to_multiple(hq, scale)
    return imresize_uint8(hq, 1 / scale), hq
