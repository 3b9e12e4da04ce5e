"""Real-ESRGAN's degradation: blur, resizing, noise and JPEG, twice, with ringing at the end.

Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data".
Images are float32 ``[H, W, 3]`` in 0..1 unless stated otherwise. All random values come from the
given generator, so a patch is a function of its seed.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy  # imports its parts when they are used, which takes half a second

from binsr_jax.data.jpeg import compress_colour_jpeg
from binsr_jax.data.pairs import Pair

Range = tuple[float, float]

KERNELS = tuple(
    f"{form}{shape}"
    for form in ("", "generalised_", "plateau_")
    for shape in ("isotropic", "anisotropic")
)
METHODS = ("area", "bilinear", "bicubic")
_CUBIC = -0.75  # parameter of the bicubic kernel, as in OpenCV and PyTorch
_GREY = np.array([0.2989, 0.587, 0.114], np.float32)
USM_RADIUS, USM_SIGMA, USM_THRESHOLD = 25, 8.0, 10 / 255  # of the unsharp mask


@dataclass(frozen=True)
class Order:
    """The ranges of one of the two rounds of degradation; values are drawn uniformly.

    Attributes:
        blur: The share of patches that are blurred.
        kernels: One share for each of ``KERNELS``.
        sinc: The share of kernels that are sinc filters instead.
        sigma: Standard deviations of the kernel, in pixels.
        generalised: The exponent of generalised Gaussians; below and above 1 equally often.
        plateau: The exponent of plateau-shaped kernels, likewise.
        resize: The shares of patches that are enlarged, reduced and left as they are.
        factor: The smallest reduction factor and the largest enlargement factor.
        gaussian: The share with Gaussian noise; the others get Poisson noise.
        noise: The standard deviation of Gaussian noise, in units of 0..255.
        poisson: The factor of Poisson noise.
        grey: The share of noise that is the same in all channels.
        quality: The JPEG quality.
    """

    blur: float
    kernels: tuple[float, ...]
    sinc: float
    sigma: Range
    generalised: Range
    plateau: Range
    resize: tuple[float, float, float]
    factor: Range
    gaussian: float
    noise: Range
    poisson: Range
    grey: float
    quality: Range


@dataclass(frozen=True)
class RealDegradation:
    """Makes pairs of training patches.

    Attributes:
        scale: How many times smaller the low-quality patch is.
        margin: How many pixels larger a patch is than the pair, which is cut out of it at a random
            place.
        first, second: The two rounds.
        sizes: The smallest and largest side of a kernel; odd sides are drawn.
        cutoff_small, cutoff_large: Cutoffs of sinc kernels with sides below 13, and of 13 or more,
            in units of pi.
        final_sinc: The share of patches that a last sinc filter gives ringing.
        final_cutoff: The cutoffs of the last sinc filter.
        sharpen: The weight of the unsharp mask that sharpens a patch before it is degraded.
    """

    scale: int
    margin: int
    first: Order
    second: Order
    sizes: tuple[int, int]
    cutoff_small: Range
    cutoff_large: Range
    final_sinc: float
    final_cutoff: Range
    sharpen: float

    def __call__(self, patch: np.ndarray, rng: np.random.Generator) -> Pair:
        """A pair of uint8 patches from a uint8 patch with sides that are multiples of the scale."""
        side = tuple(length // self.scale for length in patch.shape[:2])
        x = patch.astype(np.float32) / np.float32(255)
        x = sharpened(x, self.sharpen) if self.sharpen else x
        x = self._blurred(x, self.first, rng)
        factor = _factor(self.first, rng)
        x = _resized_by(x, x.shape, factor, rng)
        x = _compressed(_noisy(x, self.first, rng), self.first, rng)
        x = self._blurred(x, self.second, rng)
        factor = _factor(self.second, rng)
        x = _resized_by(x, side, factor, rng)
        x = _noisy(x, self.second, rng)
        if rng.integers(2):
            x = _compressed(self._final(x, side, rng), self.second, rng)
        else:
            x = self._final(_compressed(x, self.second, rng), side, rng)
        lq = np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)
        return self._window(lq, patch, rng)

    def _blurred(self, x: np.ndarray, order: Order, rng: np.random.Generator) -> np.ndarray:
        kernel = self._kernel(order, rng)
        return filtered(x, kernel) if rng.random() < order.blur else x

    def _kernel(self, order: Order, rng: np.random.Generator) -> np.ndarray:
        """A random kernel of a round."""
        size = self._size(rng)
        if rng.random() < order.sinc:
            cutoffs = self.cutoff_small if size < 13 else self.cutoff_large
            return sinc_kernel(size, math.pi * rng.uniform(*cutoffs))
        shares = np.array(order.kernels) / sum(order.kernels)
        kind = KERNELS[int(rng.choice(len(KERNELS), p=shares))]
        sigmas = rng.uniform(*order.sigma, 2)
        angle = rng.uniform(-math.pi, math.pi)
        exponent = 1.0
        form = kind.rpartition("_")[0]
        if form:
            low, high = order.generalised if form == "generalised" else order.plateau
            halves = ((min(low, 1), 1), (1, max(high, 1)))
            exponent = rng.uniform(*halves[int(rng.integers(2))])
        along, across = sigmas if kind.endswith("anisotropic") else (sigmas[0], sigmas[0])
        return gaussian_kernel(size, along, across, angle, exponent, plateau=form == "plateau")

    def _size(self, rng: np.random.Generator) -> int:
        low, high = self.sizes
        return low + 2 * int(rng.integers((high - low) // 2 + 1))

    def _final(self, x: np.ndarray, side: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """The image at its final size, with ringing."""
        x = resized(x, side[0], side[1], _method(rng))
        kernel = sinc_kernel(self._size(rng), math.pi * rng.uniform(*self.final_cutoff))
        return filtered(x, kernel) if rng.random() < self.final_sinc else x

    def _window(self, lq: np.ndarray, hq: np.ndarray, rng: np.random.Generator) -> Pair:
        """The pair without the margin, cut out at a random place."""
        spare = self.margin // self.scale
        top, left = (int(n) for n in rng.integers(spare + 1, size=2))

        def cut(image: np.ndarray, step: int) -> np.ndarray:
            height, width = (step * (n - spare) for n in lq.shape[:2])
            rows, columns = step * top, step * left
            return np.ascontiguousarray(image[rows : rows + height, columns : columns + width])

        return cut(lq, 1), cut(hq, self.scale)


def gaussian_kernel(
    size: int,
    along: float,
    across: float,
    angle: float,
    exponent: float = 1.0,
    plateau: bool = False,
) -> np.ndarray:
    """A blur kernel ``[size, size]`` that sums to 1.

    Let (u, v) be the offset from the centre, rotated by the angle, and ``q = (u / along)^2 + (v /
    across)^2``. The kernel is ``exp(-q^exponent / 2)``, or ``1 / (1 + q^exponent)`` for a plateau.

    Args:
        size: An odd number.
        along: Standard deviation along the first axis of the ellipse, in pixels.
        across: Standard deviation along the second axis.
        angle: From the x axis to the first axis, in radians.
        exponent: 1 for a Gaussian.
        plateau: Whether the kernel has the form of a plateau.
    """
    offsets = np.arange(size) - size // 2
    x, y = np.meshgrid(offsets, offsets)
    u = x * math.cos(angle) + y * math.sin(angle)
    v = y * math.cos(angle) - x * math.sin(angle)
    q = ((u / along) ** 2 + (v / across) ** 2) ** exponent
    kernel = 1 / (1 + q) if plateau else np.exp(-q / 2)
    return (kernel / kernel.sum()).astype(np.float32)


def sinc_kernel(size: int, cutoff: float) -> np.ndarray:
    """An ideal circular low-pass filter, cropped to ``[size, size]`` and normalised to sum 1.

    It is ``cutoff J1(cutoff r) / (2 pi r)`` at distance r, and ``cutoff^2 / (4 pi)`` in the centre.

    Args:
        size: An odd number.
        cutoff: In radians per pixel; pi is the highest frequency along a side.
    """
    offsets = np.arange(size) - size // 2
    r = np.hypot(*np.meshgrid(offsets, offsets))
    r[size // 2, size // 2] = 1
    kernel = cutoff * scipy.special.j1(cutoff * r) / (2 * math.pi * r)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * math.pi)
    return (kernel / kernel.sum()).astype(np.float32)


def filtered(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """The image correlated with a symmetric kernel, mirrored about its edge pixels."""
    spare = kernel.shape[0] // 2
    padded = np.pad(image, ((spare, spare), (spare, spare), (0, 0)), mode="reflect")
    # The kernel equals itself rotated by 180 degrees, so convolution is correlation.
    return scipy.signal.fftconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1))


def resized(image: np.ndarray, height: int, width: int, method: str) -> np.ndarray:
    """The image resized by one of ``METHODS``, without an anti-aliasing filter.

    Args:
        image: ``[H, W, C]``.
        height: Height of the result.
        width: Width of the result.
        method: "area" averages the pixels that a new one overlaps; "bilinear" and "bicubic"
            interpolate between pixel centres, as PyTorch does without ``align_corners``.
    """
    rows, columns = (
        _interpolation(before, after, method)
        for before, after in zip(image.shape[:2], (height, width), strict=True)
    )
    return np.einsum(
        "oh,hwc->owc", rows, np.einsum("ow,hwc->hoc", columns, image, optimize=True), optimize=True
    )


def _interpolation(before: int, after: int, method: str) -> np.ndarray:
    """``[after, before]``: the weights of the old pixels in each new pixel."""
    weights = np.zeros((after, before), np.float32)
    new = np.arange(after)
    if method == "area":
        for i in new:
            touched = slice(i * before // after, -(-(i + 1) * before // after))
            weights[i, touched] = 1 / (touched.stop - touched.start)
        return weights
    centre = (new + 0.5) * before / after - 0.5
    if method == "bilinear":
        centre = np.maximum(centre, 0)
    left = np.floor(centre).astype(int)
    for tap in range(-1, 3):
        distance = np.abs(centre - (left + tap))
        weight = np.maximum(1 - distance, 0) if method == "bilinear" else _cubic(distance)
        np.add.at(weights, (new, np.clip(left + tap, 0, before - 1)), weight)
    return weights


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' kernel."""
    d, a = distance, _CUBIC
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def sharpened(image: np.ndarray, weight: float) -> np.ndarray:
    """The image after an unsharp mask with a wide Gaussian, where they differ enough."""
    blur = _wide_blur(image)
    residual = image - blur
    mask = _wide_blur((np.abs(residual) > USM_THRESHOLD).astype(np.float32))
    return mask * np.clip(image + weight * residual, 0, 1) + (1 - mask) * image


def _wide_blur(image: np.ndarray) -> np.ndarray:
    for axis in (0, 1):
        image = scipy.ndimage.gaussian_filter1d(
            image, USM_SIGMA, axis, mode="mirror", radius=USM_RADIUS
        )
    return image


def _resized_by(
    x: np.ndarray, side: tuple[int, ...], factor: float, rng: np.random.Generator
) -> np.ndarray:
    """The image at ``factor`` times a height and a width, resized by a randomly chosen method."""
    height, width = (max(1, int(factor * n)) for n in side[:2])
    return resized(x, height, width, _method(rng))


def _factor(order: Order, rng: np.random.Generator) -> float:
    """A random resizing factor."""
    shares = np.array(order.resize) / sum(order.resize)
    low, high = ((1, order.factor[1]), (order.factor[0], 1), (1, 1))[int(rng.choice(3, p=shares))]
    return rng.uniform(low, high)


def _method(rng: np.random.Generator) -> str:
    return METHODS[int(rng.integers(len(METHODS)))]


def _noisy(x: np.ndarray, order: Order, rng: np.random.Generator) -> np.ndarray:
    """The image with Gaussian or Poisson noise, in colour or grey, clipped."""
    grey = rng.random() < order.grey
    if rng.random() < order.gaussian:
        shape = (*x.shape[:2], 1) if grey else x.shape
        noise = rng.standard_normal(shape, np.float32) * np.float32(rng.uniform(*order.noise) / 255)
    else:
        light = np.clip(x @ _GREY[:, None] if grey else x, 0, 1)
        noise = np.float32(rng.uniform(*order.poisson)) * poisson_noise(light, rng)
    return np.clip(x + noise, 0, 1)


def poisson_noise(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shot noise, with as many counts at white as the image has distinct 8-bit values.

    That number is rounded up to a power of two.
    """
    levels = len(np.unique(np.rint(image * 255)))
    counts = 2.0 ** math.ceil(math.log2(levels))
    return (rng.poisson(image * counts) / counts - image).astype(np.float32)


def _compressed(x: np.ndarray, order: Order, rng: np.random.Generator) -> np.ndarray:
    quality = round(rng.uniform(*order.quality))
    image = np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)
    return compress_colour_jpeg(image, quality, "4:2:0").astype(np.float32) / np.float32(255)
