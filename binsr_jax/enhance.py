"""Classical steps on an image before a network, and on its output after it, with strengths.

    enhance(pixels, parse("median=0.5,clahe=0.3", "pre"))

An image is processed in strips of rows of one height, with the same result as the whole. Statistics
of the whole image are computed once beforehand. The filters are scikit-image's.
"""

import functools
import importlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from binsr_jax.errors import UserError

# Returns the rows of an image between two indices, float32 ``[rows, W, C]`` in 0..1, C = 1 or 3.
Rows = Callable[[int, int], np.ndarray]

_WHITE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65_535}
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow's "L"
_STRIP = 128  # rows

_NLM_PATCH = 5  # pixels: the side of a compared patch
_NLM_DISTANCE = 6  # pixels: the distance of the search
_NLM_CUTOFF = 0.8  # in standard deviations of the noise: patches that differ more are ignored
_CLEAN = 1e-4  # standard deviation of noise below which an image counts as clean
_CLAHE_CLIP = 0.01
_CLAHE_BYTES = 64  # per pixel, since scikit-image processes the whole image
_TAILS = 0.005  # the share of pixels that normalisation makes black, and white
_FLAT = 1 / 255  # an image with less contrast is not normalised
_SHARPEN_RADIUS = 1.0  # sigma of the unsharp mask's Gaussian, in pixels
_EDGE = 0.1  # the gradient at which the enhancement of edges has half its effect
_CELL = 8  # side of the cells, in pixels of the input, over which colours are averaged


@dataclass(frozen=True)
class Step:
    """One step: a key of ``STEPS``, and its strength."""

    name: str
    strength: float


@dataclass(frozen=True)
class Colours:
    """Mean and standard deviation of the channels of an image, ``[C]`` each."""

    mean: np.ndarray
    deviation: np.ndarray


@dataclass(frozen=True)
class Input:
    """The facts about a network's input that steps after the network need.

    Attributes:
        colours: Its colours, from ``colours_of``.
        scale: How many times larger the output is.
    """

    colours: Colours
    scale: int = 1


@dataclass(frozen=True)
class _Kind:
    """A kind of step.

    Attributes:
        stage: Whether it runs before or after the network.
        least: Its lowest strength; the highest is 1, and 0 leaves an image unchanged.
        apply: Returns the rows of the result, from the rows of an image, its height, the strength,
            and the facts about the network's input.
    """

    stage: str
    least: float
    apply: Callable[[Rows, int, float, Input | None], Rows]


def parse(text: str, stage: Literal["pre", "post"]) -> tuple[Step, ...]:
    """The steps of a text such as ``median=0.5,clahe=0.3``, in its order; an empty text has none.

    Raises:
        UserError: There is no such step at this stage, or the strength is not allowed.
    """
    steps = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (word.strip() for word in part.partition("="))
        kind = STEPS.get(name)
        names = ", ".join(known for known, kind in STEPS.items() if kind.stage == stage)
        if kind is None:
            raise UserError(f"There is no step {name!r} of --{stage}: choose from {names}.")
        if kind.stage != stage:
            raise UserError(f"The step {name} is one of --{kind.stage}; --{stage} has {names}.")
        try:
            strength = float(value)
        except ValueError:
            strength = math.nan
        if not kind.least <= strength <= 1:
            raise UserError(
                f"The step {name} takes a strength from {kind.least:g} to 1, such as {name}=0.5, "
                f"not {value!r}."
            )
        steps.append(Step(name, strength))
    return tuple(steps)


def enhance(pixels: np.ndarray, steps: Sequence[Step], before: Input | None = None) -> np.ndarray:
    """An image after some steps, of the same type.

    Args:
        pixels: uint8, uint16 or floats in 0..1, ``[H, W, 1]`` (grey) or ``[H, W, 3]`` (RGB).
        steps: From ``parse``.
        before: Facts about the network's input, which the step ``colour`` needs.
    """
    if not any(step.strength for step in steps):
        return pixels
    result = np.empty_like(pixels)
    for start, rows in enhanced_strips(rows_of(pixels), len(pixels), steps, before):
        result[start : start + len(rows)] = as_type(rows, pixels.dtype)
    return result


def enhanced_strips(
    rows: Rows, height: int, steps: Sequence[Step], before: Input | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """The result of some steps from top to bottom: the start of each strip, and its rows.

    A row is never read after a strip below it was returned, so the result may overwrite its image.
    """
    rows = _kept(rows, height)
    for step in steps:
        if step.strength:
            result = STEPS[step.name].apply(rows, height, step.strength, before)
            rows = _kept(result, height)
    for start in range(0, height, _STRIP):
        yield start, rows(start, min(start + _STRIP, height))


def bytes_per_pixel(steps: Sequence[Step]) -> int:
    """The memory that steps need per pixel of a whole image, without that of strips."""
    names = {step.name for step in steps if step.strength}
    return 6 * bool(names) + _CLAHE_BYTES * ("clahe" in names)


def rows_of(pixels: np.ndarray) -> Rows:
    """The rows of an array, as floats in 0..1."""
    white = np.float32(_WHITE.get(pixels.dtype, 1))
    return lambda start, stop: pixels[start:stop].astype(np.float32) / white


def as_type(rows: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Rows in 0..1, clipped, as uint8, uint16 or floats of an image."""
    rows = np.clip(rows, 0, 1)
    white = _WHITE.get(dtype)
    return (rows if white is None else np.rint(rows * np.float32(white))).astype(dtype)


def colours_of(rows: Rows, height: int, scale: int = 1) -> Colours:
    """The colours of an image, or of one that is ``scale`` times larger than its input.

    Both are averaged over cells of 8 by 8 pixels of the input, so that neither the noise of an
    input nor the detail of an output counts.
    """
    cell = _CELL * scale
    weights, sums, squares = 0.0, 0.0, 0.0
    for start in range(0, height, cell):
        strip = rows(start, min(start + cell, height)).astype(np.float64)
        starts = np.arange(0, strip.shape[1], cell)
        sizes = np.diff([*starts, strip.shape[1]])[:, None] * len(strip)
        means = np.add.reduceat(strip.sum(axis=0), starts, axis=0) / sizes
        weights += sizes.sum()
        sums += (sizes * means).sum(axis=0)
        squares += (sizes * means**2).sum(axis=0)
    mean = np.asarray(sums / weights)
    return Colours(mean, np.sqrt(np.maximum(squares / weights - mean**2, 0)))


def _kept(rows: Rows, height: int) -> Rows:
    """The same rows, computed in strips, with the last few strips cached.

    So a strip is computed once in a pass, and always from the same rows.
    """

    @functools.lru_cache(maxsize=4)
    def strip(number: int) -> np.ndarray:
        return rows(number * _STRIP, min((number + 1) * _STRIP, height))

    def kept(start: int, stop: int) -> np.ndarray:
        first, last = start // _STRIP, (stop - 1) // _STRIP
        strips = [strip(number) for number in range(first, last + 1)]
        whole = strips[0] if len(strips) == 1 else np.concatenate(strips)
        return whole[start - first * _STRIP : stop - first * _STRIP]

    return kept


def _all_strips(rows: Rows, height: int) -> Iterator[np.ndarray]:
    for start in range(0, height, _STRIP):
        yield rows(start, min(start + _STRIP, height))


def _mixed(
    rows: Rows, height: int, strength: float, halo: int, change: Callable[[np.ndarray], np.ndarray]
) -> Rows:
    """``x + strength * change(x)``, where a change depends on ``halo`` rows around a row."""

    def result(start: int, stop: int) -> np.ndarray:
        top, bottom = max(0, start - halo), min(height, stop + halo)
        seen = rows(top, bottom)
        kept = slice(start - top, stop - top)
        return (seen[kept] + strength * change(seen)[kept]).astype(np.float32)

    return result


def _luma(x: np.ndarray) -> np.ndarray:
    """Luma ``[h, W]`` of ``[h, W, C]``."""
    return x[..., 0] if x.shape[-1] == 1 else x @ _LUMA


def _median(rows: Rows, height: int, strength: float, before: Input | None) -> Rows:
    """The median of 3 by 3 pixels, per channel."""
    filters: Any = importlib.import_module("skimage.filters")
    footprint = np.ones((3, 3, 1))
    return _mixed(rows, height, strength, 1, lambda x: filters.median(x, footprint) - x)


def _nlm(rows: Rows, height: int, strength: float, before: Input | None) -> Rows:
    """Non-local means, for the noise level of the image."""
    restoration: Any = importlib.import_module("skimage.restoration")
    with warnings.catch_warnings():
        # scikit-image takes a width of one pixel for a channel axis.
        warnings.simplefilter("ignore")
        sigmas = [restoration.estimate_sigma(x, channel_axis=-1) for x in _all_strips(rows, height)]
    sigma = float(np.median(sigmas))
    if not sigma > _CLEAN:
        return rows

    def change(x: np.ndarray) -> np.ndarray:
        y = restoration.denoise_nl_means(
            x,
            patch_size=_NLM_PATCH,
            patch_distance=_NLM_DISTANCE,
            h=_NLM_CUTOFF * sigma,
            sigma=sigma,
            channel_axis=-1,
        )
        return y.reshape(x.shape) - x

    return _mixed(rows, height, strength, _NLM_PATCH // 2 + _NLM_DISTANCE, change)


def _clahe(rows: Rows, height: int, strength: float, before: Input | None) -> Rows:
    """Adaptive histogram equalisation of the luma, with limited contrast, in the luma's range."""
    exposure: Any = importlib.import_module("skimage.exposure")
    luma = np.concatenate([_luma(x) for x in _all_strips(rows, height)])
    low, high = luma.min(), luma.max()
    if high - low < _FLAT:
        return rows
    equal = exposure.equalize_adapthist((luma - low) / (high - low), clip_limit=_CLAHE_CLIP)
    gain = (low + (high - low) * equal - luma).astype(np.float32)

    def result(start: int, stop: int) -> np.ndarray:
        return rows(start, stop) + strength * gain[start:stop, :, None]

    return result


def _normalise(rows: Rows, height: int, strength: float, before: Input | None) -> Rows:
    """All channels, stretched so that the luma's darkest and lightest pixels become 0 and 1."""
    exposure: Any = importlib.import_module("skimage.exposure")
    counts = np.zeros(65_536, np.int64)
    for x in _all_strips(rows, height):
        levels = np.rint(np.clip(_luma(x), 0, 1) * 65_535).astype(np.int64)
        counts += np.bincount(levels.ravel(), minlength=len(counts))
    share = np.cumsum(counts) / counts.sum()
    low, high = (np.searchsorted(share, part) / 65_535 for part in (_TAILS, 1 - _TAILS))
    if high - low < _FLAT:
        return rows
    return _mixed(
        rows,
        height,
        strength,
        0,
        lambda x: exposure.rescale_intensity(x, (low, high), (0.0, 1.0)) - x,
    )


def _unsharp(rows: Rows, height: int, strength: float, before: Input | None) -> Rows:
    """The image plus the difference between the luma and its blurred form."""
    filters: Any = importlib.import_module("skimage.filters")

    def change(x: np.ndarray) -> np.ndarray:
        y = _luma(x)
        return (filters.unsharp_mask(y, _SHARPEN_RADIUS, 1.0, preserve_range=True) - y)[..., None]

    return _mixed(rows, height, strength, math.ceil(4 * _SHARPEN_RADIUS), change)


def _edges(rows: Rows, height: int, strength: float, before: Input | None) -> Rows:
    """The image plus the difference between the luma and its neighbours' mean, at edges only.

    So flat parts keep their noise level.
    """
    filters: Any = importlib.import_module("skimage.filters")

    def change(x: np.ndarray) -> np.ndarray:
        y = _luma(x)
        gradient = filters.sobel(y)
        # A quarter of it is the difference from the mean of the four neighbours.
        return (gradient / (gradient + _EDGE) * filters.laplace(y) / 4)[..., None]

    return _mixed(rows, height, strength, 1, change)


def _colour(rows: Rows, height: int, strength: float, before: Input | None) -> Rows:
    """Each channel with the input's mean and standard deviation."""
    if before is None:
        raise ValueError("the step colour needs the colours of the network's input")
    own, wanted = colours_of(rows, height, before.scale), before.colours
    varied = (own.deviation > _CLEAN) & (wanted.deviation > _CLEAN)
    factor = np.where(varied, wanted.deviation / np.maximum(own.deviation, _CLEAN), 1.0)
    offset = wanted.mean - factor * own.mean
    factor, offset = factor.astype(np.float32), offset.astype(np.float32)
    return _mixed(rows, height, strength, 0, lambda x: factor * x + offset - x)


def _saturation(rows: Rows, height: int, strength: float, before: Input | None) -> Rows:
    """Each channel's distance from the luma, increased or, below 0, reduced."""
    return _mixed(rows, height, strength, 0, lambda x: x - _luma(x)[..., None])


STEPS: dict[str, _Kind] = {
    "median": _Kind("pre", 0, _median),
    "nlm": _Kind("pre", 0, _nlm),
    "clahe": _Kind("pre", 0, _clahe),
    "normalise": _Kind("pre", 0, _normalise),
    "unsharp": _Kind("post", 0, _unsharp),
    "edges": _Kind("post", 0, _edges),
    "colour": _Kind("post", 0, _colour),
    "saturation": _Kind("post", -1, _saturation),
}
