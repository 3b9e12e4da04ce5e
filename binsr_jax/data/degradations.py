"""From a high-quality image to the pair that a network learns from, or is scored on.

Of each degradation there is one form for training, drawn at random for every patch, and one for
benchmarks, the same for everybody (``DEGRADATIONS``).
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from PIL import Image

from binsr_jax.config import Config
from binsr_jax.errors import UserError
from binsr_jax.ops.image import imresize_uint8

Pair = tuple[np.ndarray, np.ndarray]

_GRID = 8  # pixels of a side of JPEG's blocks


def crop_to_multiple(image: np.ndarray, factor: int) -> np.ndarray:
    """The largest top left part of an image ``[H, W, C]`` whose sides are multiples of a factor."""
    height, width = (size - size % factor for size in image.shape[:2])
    return image[:height, :width]


def bicubic_pair(hq: np.ndarray, scale: int) -> Pair:
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


def add_noise(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian noise as denoising papers add it to a test image: the same in every run.

    ``image / 255 + n`` with n from ``numpy.random.RandomState(0).normal(0, sigma / 255)``, seeded
    anew for each image, as KAIR's and BBCU's test programs do; neither clipped nor rounded.

    Args:
        image: uint8 ``[H, W, C]``.
        sigma: The standard deviation, in units of 0..255.

    Returns:
        float32 ``[H, W, C]``, about 0..1.
    """
    noise = np.random.RandomState(0).normal(0, sigma / 255, image.shape)
    return (image.astype(np.float32) / np.float32(255) + noise).astype(np.float32)


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
    file = io.BytesIO()
    Image.fromarray(grey[..., 0]).save(file, "JPEG", quality=max(quality, 1))
    with Image.open(file, formats=["JPEG"]) as image:
        return np.asarray(image)[..., None]


class RandomDegradation(Protocol):
    """Makes training pairs of patches; it can be pickled.

    A patch is given ``margin`` pixels larger than the pair will be; the pair is (lq, hq), with hq
    uint8 and lq uint8, or float32 in about 0..1.
    """

    margin: ClassVar[int]

    def __call__(self, patch: np.ndarray, rng: np.random.Generator) -> Pair: ...


@dataclass(frozen=True)
class RandomNoise:
    """Gaussian noise whose sigma is drawn evenly for each patch; neither clipped nor rounded.

    Attributes:
        lowest: The least sigma, in units of 0..255.
        highest: The largest; where it is the least, no sigma is drawn.
    """

    lowest: float
    highest: float
    margin: ClassVar[int] = 0

    def __call__(self, patch: np.ndarray, rng: np.random.Generator) -> Pair:
        sigma = self.lowest
        if self.highest > self.lowest:
            sigma = rng.uniform(self.lowest, self.highest)
        noise = rng.standard_normal(patch.shape, np.float32) * np.float32(sigma / 255)
        return patch.astype(np.float32) / np.float32(255) + noise, patch


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
    margin: ClassVar[int] = _GRID

    def __call__(self, patch: np.ndarray, rng: np.random.Generator) -> Pair:
        compressed = compress_jpeg(patch, int(rng.integers(self.lowest, self.highest + 1)))
        top = left = 0
        if rng.integers(2):
            top, left = rng.integers(_GRID + 1, size=2)
        height, width = (side - _GRID for side in patch.shape[:2])
        cut = np.s_[top : top + height, left : left + width]
        return np.ascontiguousarray(compressed[cut]), np.ascontiguousarray(patch[cut])


@dataclass(frozen=True)
class Degradation:
    """How the input of a task is made.

    Attributes:
        training: From a config to what degrades training patches; None where pairs of whole images
            are made, or given, beforehand.
        benchmark: ``(hq, scale, level) -> (lq, hq)`` of a benchmark's image, uint8 ``[H, W, C]``.
        protocol: In words, what that is at a level: ``"noise of sigma {}"``.
        title: What tables call the input itself, as a method: "noisy input".
    """

    training: Callable[[Config], RandomDegradation] | None
    benchmark: Callable[[np.ndarray, int, int], Pair]
    protocol: str
    title: str


def _random_noise(config: Config) -> RandomNoise:
    lowest, highest = _range(config, "sigma", (float, int), 255)
    return RandomNoise(float(lowest), float(highest))


def _random_jpeg(config: Config) -> RandomJPEG:
    lowest, highest = _range(config, "quality", (int,), 100)
    return RandomJPEG(lowest, highest)


def _range(config: Config, field: str, kinds: tuple[type, ...], most: int) -> tuple[Any, Any]:
    """The two ends of a field of ``config.data``."""
    ends = tuple(config.data[field])
    right = len(ends) == 2 and all(type(end) in kinds for end in ends)
    if not (right and 0 <= ends[0] <= ends[1] <= most):
        kind = "whole numbers" if kinds == (int,) else "numbers"
        raise UserError(
            f"config.data.{field} is {ends}, but must be two {kind} in 0..{most}, the lower first."
        )
    return ends


def _bicubic_benchmark(hq: np.ndarray, scale: int, level: int) -> Pair:
    del level
    return bicubic_pair(hq, scale)


def _noise_benchmark(hq: np.ndarray, scale: int, level: int) -> Pair:
    del scale
    return add_noise(hq, level), hq


def _jpeg_benchmark(hq: np.ndarray, scale: int, level: int) -> Pair:
    del scale
    return compress_jpeg(hq, level), hq


DEGRADATIONS: dict[str, Degradation] = {
    "bicubic": Degradation(None, _bicubic_benchmark, "bicubic LR", "bicubic"),
    "noise": Degradation(_random_noise, _noise_benchmark, "noise of sigma {}", "noisy input"),
    "jpeg": Degradation(_random_jpeg, _jpeg_benchmark, "JPEG quality {}", "JPEG input"),
}


def as_image(lq: np.ndarray, scale: int) -> np.ndarray:
    """The input as the result of a method that does nothing: what a network must beat.

    It is enlarged by bicubic interpolation if there is a scale, and floats are clipped to 0..1 and
    rounded to 8 bits as a network's output is.

    Args:
        lq: uint8, or float32 in about 0..1, ``[h, w, C]``.
        scale: How many times larger the result is.

    Returns:
        uint8 ``[scale h, scale w, C]``.
    """
    if lq.dtype != np.uint8:
        lq = np.rint(np.clip(lq, 0, 1) * 255).astype(np.uint8)
    return imresize_uint8(lq, scale) if scale > 1 else lq
