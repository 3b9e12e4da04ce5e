"""JPEG compression of grey and of colour images, and training pairs made by it."""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from binsr_jax.data.pairs import Pair, random_window

SUBSAMPLINGS = ("4:2:0", "4:4:4")

_BLOCK = 8  # pixels of a side of JPEG's blocks
_GRID = 16  # of a block of chroma with 4:2:0, in pixels of the image
GREY = (0.299, 0.587, 0.114)  # weights of R, G and B in luma as JPEG files have it (BT.601)


def compress_jpeg(grey: np.ndarray, quality: int) -> np.ndarray:
    """A grey image after JPEG compression.

    Pillow's baseline grey JPEG gives the pixels of OpenCV's and of MATLAB's, which the papers used:
    all have libjpeg's quantisation tables and its slow integer transform.

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

    Luma and chroma have libjpeg's quantisation tables. With ``4:2:0`` chroma has half the
    resolution in both directions, and is enlarged by libjpeg's triangle filter when it is read.

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
    """A picture ``[H, W, 1 or 3]`` after JPEG compression: a grey one has no chroma."""
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
    """JPEG compression whose quality is drawn evenly for each patch.

    The patch is compressed with a margin of one block, and cut out of it: half of the time at the
    top left, so that the blocks' edges lie at multiples of 8 as in a test image, else anywhere
    (KAIR's data set of BBCU's and DnCNN-3's training).

    Attributes:
        lowest: The least quality.
        highest: The largest, which can be drawn, too.
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
    """JPEG compression of colour, of a quality and a subsampling drawn evenly for each patch.

    The patch is compressed with a margin of one block of chroma, 16 pixels, and cut out of it as
    by ``RandomJPEG``.

    Attributes:
        lowest: The least quality.
        highest: The largest, which can be drawn, too.
        subsamplings: Of ``SUBSAMPLINGS``, those that are drawn.
        grey: The share of patches that are grey: their luma, three times.
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
