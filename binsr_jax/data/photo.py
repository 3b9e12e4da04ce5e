"""Small photographs as cameras, chats and web pages make them: blurred, noisy, compressed."""

from dataclasses import dataclass

import numpy as np
import scipy  # imports its parts when they are used
from PIL import Image

from binsr_jax.data.jpeg import SUBSAMPLINGS, compress_colour_jpeg, compress_picture
from binsr_jax.data.pairs import Pair, bicubic_pair, crop_to_multiple, random_window
from binsr_jax.ops.image import imresize, to_uint8

# Standard deviations in the benchmark: blur in pixels of the small image, noise in 0..255.
BLUR = 0.25
NOISE = 3

_GRID = 16  # side of a chroma block of JPEG with 4:2:0, in pixels
_FILTERS = (Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.BOX)


def photo_pair(hq: np.ndarray, scale: int, quality: int) -> Pair:
    """A degraded small image and its original, always the same: a photo from a lesser camera.

    The image is blurred by a Gaussian of ``BLUR * scale`` pixels and reduced by MATLAB's bicubic.
    Gaussian noise of ``NOISE`` is added (numpy's with seed 0, anew for each image). The rounded
    image is compressed by JPEG with 4:2:0.

    Args:
        hq: uint8 ``[H, W, 3]``, or ``[H, W, 1]`` if it is grey, no side shorter than the scale.
        scale: How many times smaller the low-quality image is.
        quality: The JPEG quality.

    Returns:
        uint8 ``[H // scale, W // scale, 3 or 1]`` and ``hq``, cropped to multiples of the scale.
    """
    hq = crop_to_multiple(hq, scale)
    small = imresize(_blurred(hq, BLUR * scale), 1 / scale)
    noise = np.random.RandomState(0).normal(0, NOISE, small.shape)
    return compress_picture(to_uint8(small + noise), quality, "4:2:0"), hq


@dataclass(frozen=True)
class RandomPhoto:
    """Reduces patches, with random blur, noise and JPEG compression.

    A share of the patches is only reduced, by MATLAB's bicubic. The others are blurred by a
    Gaussian, reduced by a bicubic, bilinear or area filter, made noisy and compressed. One half
    gets Gaussian noise, the other noise whose variance grows with the brightness, like shot noise.
    Some patches are reduced twice, with noise and compression at a size in between, like a picture
    that was shared again. Patches are cut out of larger ones, half of the time at the blocks' grid.

    Attributes:
        scale: How many times smaller the low-quality patch is.
        blur: Range of the Gaussian's standard deviation, in pixels of the small image.
        sigma: Range of the noise's standard deviation, in units of 0..255; for shot noise at white.
        quality: Range of the JPEG quality, ends included.
        subsamplings: The JPEG subsamplings to draw from.
        twice: The share of degraded patches that are reduced and compressed twice.
        clean: The share of patches that are only reduced.
    """

    scale: int
    blur: tuple[float, float]
    sigma: tuple[float, float]
    quality: tuple[int, int]
    subsamplings: tuple[str, ...] = SUBSAMPLINGS
    twice: float = 0.0
    clean: float = 0.0

    @property
    def margin(self) -> int:
        """How much larger a patch is than the pair: one block of the small image, enlarged."""
        return _GRID * self.scale

    def __call__(self, patch: np.ndarray, rng: np.random.Generator) -> Pair:
        if rng.random() < self.clean:
            return random_window(bicubic_pair(patch, self.scale)[0], patch, _GRID, rng)
        small = patch.shape[0] // self.scale, patch.shape[1] // self.scale
        x = to_uint8(_blurred(patch, rng.uniform(*self.blur) * self.scale))
        if rng.random() < self.twice:
            factor = rng.uniform(1 / self.scale, 1)
            between = (max(1, round(factor * side)) for side in patch.shape[:2])
            x = self._compressed(self._noisy(_resized(x, tuple(between), rng), rng), rng)
            x = _resized(x, small, rng)
        else:
            x = self._noisy(_resized(x, small, rng), rng)
        return random_window(self._compressed(x, rng), patch, _GRID, rng)

    def _noisy(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        deviation: float | np.ndarray = rng.uniform(*self.sigma)
        if rng.integers(2):
            deviation = deviation * np.sqrt(image / np.float32(255))
        return to_uint8(image + deviation * rng.standard_normal(image.shape, np.float32))

    def _compressed(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        quality = int(rng.integers(self.quality[0], self.quality[1] + 1))
        subsampling = self.subsamplings[int(rng.integers(len(self.subsamplings)))]
        return compress_colour_jpeg(image, quality, subsampling)


def _blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur, mirrored at the edges: float32 ``[H, W, C]``, in 0..255."""
    x = image.astype(np.float32)
    return scipy.ndimage.gaussian_filter(x, (sigma, sigma, 0), mode="reflect") if sigma else x


def _resized(image: np.ndarray, size: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """The image reduced to a height and width by a random filter, wide enough to avoid aliasing."""
    filter_ = _FILTERS[int(rng.integers(len(_FILTERS)))]
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), filter_))
