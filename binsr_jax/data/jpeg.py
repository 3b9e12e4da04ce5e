"""JPEG compression of grey and colour images, and the training pairs that it makes."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from binsr_jax.data.pairs import Pair, random_window

SUBSAMPLINGS = ("4:2:0", "4:4:4")

_BLOCK = 8  # pixels of a side of JPEG's blocks
_GRID = 16  # side of a chroma block with 4:2:0, in pixels of the image
GREY = (0.299, 0.587, 0.114)  # weights of R, G and B in the luma of JPEG files (BT.601)


def compress_jpeg(grey: np.ndarray, quality: int) -> np.ndarray:
    """A grey image after JPEG compression.

    Pillow's baseline grey JPEG gives the same pixels as OpenCV's and MATLAB's, which the papers
    used: all of them have libjpeg's quantisation tables and its slow integer transform.

    Args:
        grey: uint8 ``[H, W, 1]``.
        quality: 0 to 100; 0 and 1 are the same.

    Returns:
        uint8 ``[H, W, 1]``.

    Raises:
        ValueError: The image is not ``[H, W, 1]``.
    """
    if grey.ndim != 3 or grey.shape[-1] != 1:
        raise ValueError(f"compress_jpeg takes a grey image [H, W, 1], not {grey.shape}")
    return _decoded(Image.fromarray(grey[..., 0]), quality)[..., None]


def compress_colour_jpeg(image: np.ndarray, quality: int, subsampling: str) -> np.ndarray:
    """A colour image after JPEG compression.

    Luma and chroma use libjpeg's quantisation tables. With ``4:2:0``, chroma has half the
    resolution in both directions, and libjpeg's triangle filter enlarges it when the file is
    decoded.

    Args:
        image: uint8 ``[H, W, 3]``, R, G and B.
        quality: 0 to 100; 0 and 1 are the same.
        subsampling: One of ``SUBSAMPLINGS``.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        ValueError: The image is not ``[H, W, 3]``, or there is no such subsampling.
    """
    if image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"compress_colour_jpeg takes an image [H, W, 3], not {image.shape}")
    if subsampling not in SUBSAMPLINGS:
        raise ValueError(f"subsampling is {subsampling!r}, but must be one of {SUBSAMPLINGS}")
    return _decoded(Image.fromarray(image), quality, subsampling=subsampling)


def compress_picture(image: np.ndarray, quality: int, subsampling: str) -> np.ndarray:
    """A picture ``[H, W, 1 or 3]`` after JPEG compression; a grey one has no chroma."""
    if image.shape[-1] == 1:
        return compress_jpeg(image, quality)
    return compress_colour_jpeg(image, quality, subsampling)


def _decoded(image: Image.Image, quality: int, **options: str) -> np.ndarray:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=max(quality, 1), **options)
    with Image.open(file, formats=["JPEG"]) as compressed:
        return np.asarray(compressed)


@dataclass(frozen=True)
class RandomJPEG:
    """JPEG compression with a quality drawn uniformly for each patch.

    The patch is compressed with a margin of one block and then cut out: half of the time at the top
    left, so that block edges lie at multiples of 8 as in a test image, else at a random place. This
    is KAIR's data set, with which BBCU and DnCNN-3 were trained.

    Attributes:
        lowest: The lowest quality.
        highest: The highest quality, included.
    """

    lowest: int
    highest: int

    @property
    def margin(self) -> int:
        return _BLOCK

    def __call__(self, patch: np.ndarray, rng: np.random.Generator) -> Pair:
        compressed = compress_jpeg(patch, int(rng.integers(self.lowest, self.highest + 1)))
        return random_window(compressed, patch, _BLOCK, rng)


@dataclass(frozen=True)
class RandomColourJPEG:
    """JPEG compression in colour, with a quality and a subsampling drawn uniformly for each patch.

    The patch is compressed with a margin of one chroma block, 16 pixels, and then cut out as in
    ``RandomJPEG``.

    Attributes:
        lowest: The lowest quality.
        highest: The highest quality, included.
        subsamplings: The subsamplings to draw from, out of ``SUBSAMPLINGS``.
        grey: The share of patches that are grey: luma in all three channels.
    """

    lowest: int
    highest: int
    subsamplings: tuple[str, ...] = SUBSAMPLINGS
    grey: float = 0.0

    @property
    def margin(self) -> int:
        return _GRID

    def __call__(self, patch: np.ndarray, rng: np.random.Generator) -> Pair:
        quality = int(rng.integers(self.lowest, self.highest + 1))
        if rng.random() < self.grey:
            luma = np.rint(patch @ np.array(GREY)).astype(np.uint8)[..., None]
            patch, compressed = (
                np.repeat(grey, 3, axis=-1) for grey in (luma, compress_jpeg(luma, quality))
            )
        else:
            subsampling = self.subsamplings[int(rng.integers(len(self.subsamplings)))]
            compressed = compress_colour_jpeg(patch, quality, subsampling)
        return random_window(compressed, patch, _GRID, rng)
