"""Degradations: they make the low-quality input of a task from a high-quality image.

Each degradation has two forms: one for training, drawn at random for each patch, and a fixed one
for benchmarks (``DEGRADATIONS``).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from binsr_jax.config import Config
from binsr_jax.data.jpeg import (
    SUBSAMPLINGS,
    RandomColourJPEG,
    RandomJPEG,
    compress_jpeg,
    compress_picture,
)
from binsr_jax.data.pairs import Pair, RandomDegradation, bicubic_pair
from binsr_jax.data.photo import BLUR, NOISE, RandomPhoto, photo_pair
from binsr_jax.data.real_ranges import random_real
from binsr_jax.errors import UserError
from binsr_jax.ops.image import imresize_uint8


def add_noise(image: np.ndarray, sigma: float) -> np.ndarray:
    """Adds Gaussian noise as denoising papers do to test images; the same in every run.

    The result is ``image / 255 + n`` with n from ``numpy.random.RandomState(0).normal(0, sigma /
    255)``, seeded anew for each image, as in KAIR's and BBCU's test programs. It is neither clipped
    nor rounded.

    Args:
        image: uint8 ``[H, W, C]``.
        sigma: The standard deviation, in units of 0..255.

    Returns:
        float32 ``[H, W, C]``, about 0..1.
    """
    noise = np.random.RandomState(0).normal(0, sigma / 255, image.shape)
    return (image.astype(np.float32) / np.float32(255) + noise).astype(np.float32)


@dataclass(frozen=True)
class RandomNoise:
    """Adds Gaussian noise with a sigma drawn uniformly for each patch; neither clips nor rounds.

    Attributes:
        lowest: The lowest sigma, in units of 0..255.
        highest: The highest sigma. If it equals ``lowest``, no sigma is drawn.
    """

    lowest: float
    highest: float

    @property
    def margin(self) -> int:
        return 0

    def __call__(self, patch: np.ndarray, rng: np.random.Generator) -> Pair:
        sigma = self.lowest
        if self.highest > self.lowest:
            sigma = rng.uniform(self.lowest, self.highest)
        noise = rng.standard_normal(patch.shape, np.float32) * np.float32(sigma / 255)
        return patch.astype(np.float32) / np.float32(255) + noise, patch


@dataclass(frozen=True)
class Degradation:
    """How the input of a task is made.

    Attributes:
        training: Maps a config to the degradation of training patches. None if pairs of whole
            images are made, or given, beforehand.
        benchmark: ``(hq, scale, level) -> (lq, hq)`` for a benchmark image, uint8 ``[H, W, C]``.
        protocol: The degradation at a level, in words: ``"noise of sigma {}"``.
        title: The name of the input itself in tables of methods: "noisy input".
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


def _random_colour_jpeg(config: Config) -> RandomColourJPEG:
    lowest, highest = _range(config, "quality", (int,), 100)
    return RandomColourJPEG(lowest, highest, _subsamplings(config), _share(config, "grey"))


def _random_photo(config: Config) -> RandomPhoto:
    lowest, highest = _range(config, "quality", (int,), 100)
    return RandomPhoto(
        config.scale,
        _range(config, "blur", (float, int), 10),
        _range(config, "sigma", (float, int), 255),
        (lowest, highest),
        _subsamplings(config),
        _share(config, "twice"),
        _share(config, "clean"),
    )


def _subsamplings(config: Config) -> tuple[str, ...]:
    """The values of ``config.data.subsampling``."""
    names = tuple(config.data.subsampling)
    if not names or not set(names) <= set(SUBSAMPLINGS):
        raise UserError(
            f"config.data.subsampling is {names}, but must hold some of {', '.join(SUBSAMPLINGS)}."
        )
    return names


def _share(config: Config, field: str) -> float:
    """A field of ``config.data`` that is a share of the patches."""
    share = config.data[field]
    if not 0 <= share <= 1:
        raise UserError(f"config.data.{field} is {share}, but must be a share in 0..1.")
    return share


def _range(config: Config, field: str, kinds: tuple[type, ...], most: int) -> tuple[Any, Any]:
    """The two ends of a range in ``config.data``."""
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


def _colour_jpeg_benchmark(subsampling: str) -> Callable[[np.ndarray, int, int], Pair]:
    def benchmark(hq: np.ndarray, scale: int, level: int) -> Pair:
        del scale
        return compress_picture(hq, level, subsampling), hq

    return benchmark


DEGRADATIONS: dict[str, Degradation] = {
    "bicubic": Degradation(None, _bicubic_benchmark, "bicubic LR", "bicubic"),
    "noise": Degradation(_random_noise, _noise_benchmark, "noise of sigma {}", "noisy input"),
    "jpeg": Degradation(_random_jpeg, _jpeg_benchmark, "JPEG quality {}", "JPEG input"),
    **{
        f"jpeg_{subsampling.replace(':', '')}": Degradation(
            _random_colour_jpeg,
            _colour_jpeg_benchmark(subsampling),
            f"JPEG quality {{}}, {subsampling}",
            "JPEG input",
        )
        for subsampling in SUBSAMPLINGS
    },
    "photo": Degradation(
        _random_photo,
        photo_pair,
        f"blur {BLUR}, bicubic, noise {NOISE}, JPEG quality {{}}, 4:2:0",
        "bicubic of the photo",
    ),
    # Trained on Real-ESRGAN's inputs, and scored on the usual ones.
    "real": Degradation(random_real, _bicubic_benchmark, "bicubic LR", "bicubic"),
}


def as_image(lq: np.ndarray, scale: int) -> np.ndarray:
    """The input as an image: the result of a method that does nothing, which a network must beat.

    If there is a scale, the input is enlarged by bicubic interpolation. Floats are clipped to 0..1
    and rounded to 8 bits, like the output of a network.

    Args:
        lq: uint8, or float32 in about 0..1, ``[h, w, C]``.
        scale: The upscaling factor.

    Returns:
        uint8 ``[scale h, scale w, C]``.
    """
    if lq.dtype != np.uint8:
        lq = np.rint(np.clip(lq, 0, 1) * 255).astype(np.uint8)
    return imresize_uint8(lq, scale) if scale > 1 else lq
