"""PSNR, SSIM and PSNR-B as restoration papers compute them, in float64.

The protocol is BasicSR's: crop the border, convert to luma (float, not rounded), compare. A
one-channel image is its own luma, as in the papers' MATLAB programs.
"""

from collections.abc import Callable

import numpy as np

from binsr_jax.ops.image import rgb_to_y

PEAK = 255.0
WINDOW = 11  # pixels; with SIGMA the Gaussian window of Wang et al.
SIGMA = 1.5
BLOCK = 8  # side of a JPEG block in pixels


def psnr(a: np.ndarray, b: np.ndarray, border: int, luma: bool) -> float:
    """Peak signal-to-noise ratio: ``10 log10(255^2 / mean (a - b)^2)`` in dB.

    Args:
        a: uint8 ``[H, W, C]``.
        b: uint8, of the same shape.
        border: Pixels cropped on each side.
        luma: Whether to compare the Y channel of RGB rather than all channels together. For a
            one-channel image both are the same.

    Returns:
        The PSNR in dB; infinite if the images are equal.

    Raises:
        TypeError: An image is not uint8.
        ValueError: The shapes differ or are not ``[H, W, C]``, or nothing is left inside the
            border.
    """
    x, y = _prepare(a, b, border, luma)
    error = np.mean(np.square(x - y))
    return float(10 * np.log10(PEAK**2 / error)) if error else float("inf")


def ssim(a: np.ndarray, b: np.ndarray, border: int, luma: bool) -> float:
    """Structural similarity (Wang et al. 2004, equation 13), averaged over the image.

    ``(2 m_a m_b + c1)(2 s_ab + c2) / ((m_a^2 + m_b^2 + c1)(s_a^2 + s_b^2 + c2))`` with means m and
    (co)variances s under a Gaussian window of 11 x 11 pixels and standard deviation 1.5, at all
    positions where the window lies inside the image; c1 = (0.01 * 255)^2, c2 = (0.03 * 255)^2.

    The papers define nothing for a side shorter than 11 pixels. Here the window shrinks to that
    length, as the central part of the Gaussian, so that small images have a score too.

    Args:
        a: uint8 ``[H, W, C]``.
        b: uint8, of the same shape.
        border: See ``psnr``.
        luma: See ``psnr``.

    Returns:
        The mean over positions and channels; at most 1, for identical images.

    Raises:
        TypeError: See ``psnr``.
        ValueError: See ``psnr``.
    """
    x, y = _prepare(a, b, border, luma)
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    mean_x, mean_y = _gaussian_mean(x), _gaussian_mean(y)
    product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    covariance = _gaussian_mean(x * y) - product
    variances = _gaussian_mean(x**2 + y**2) - squares
    similarity = (2 * product + c1) * (2 * covariance + c2)
    similarity /= (squares + c1) * (variances + c2)
    return float(similarity.mean())


def psnrb(restored: np.ndarray, original: np.ndarray, border: int, luma: bool) -> float:
    """PSNR with a penalty for visible 8x8 blocks (Yim and Bovik 2011), averaged over channels.

    ``10 log10(255^2 / (MSE + BEF))``. In the restored image, D_B is the mean squared step between
    neighbours in different blocks, and D_N is the same between all other neighbours. ``BEF =
    log2(8) / log2(min(H, W)) (D_B - D_N)`` if D_B is larger, else 0. The steps between blocks are
    divided by H (W // 8 - 1) + W (H // 8 - 1), as in KAIR.

    Args:
        restored: uint8 ``[H, W, C]``. Blocks are measured in this image; some published programs
            pass the original here.
        original: uint8, of the same shape.
        border: See ``psnr``. Blocks are counted from the border.
        luma: See ``psnr``.

    Returns:
        The PSNR-B in dB; infinite if the images are equal and no blocks are visible.

    Raises:
        TypeError: See ``psnr``.
        ValueError: See ``psnr``.
    """
    x, y = _prepare(restored, original, border, luma)
    scores = []
    for channel in range(x.shape[-1]):
        error = np.mean(np.square(x[..., channel] - y[..., channel])) + _blocking(x[..., channel])
        scores.append(10 * np.log10(PEAK**2 / error) if error else np.inf)
    return float(np.mean(scores))


# Takes a restored image, the original, a border and whether luma is compared.
SCORES: dict[str, Callable[[np.ndarray, np.ndarray, int, bool], float]] = {
    "psnr": psnr,
    "ssim": ssim,
    "psnrb": psnrb,
}


def _blocking(x: np.ndarray) -> float:
    """The blocking effect factor of a channel ``[H, W]``; 0 if it has no block edge."""
    height, width = x.shape
    boundaries = height * max(width // BLOCK - 1, 0) + width * max(height // BLOCK - 1, 0)
    if not boundaries:
        return 0.0
    others = height * (width - 1) + width * (height - 1) - boundaries
    rows, columns = np.square(np.diff(x, axis=0)), np.square(np.diff(x, axis=1))
    between = rows[BLOCK - 1 :: BLOCK].sum() + columns[:, BLOCK - 1 :: BLOCK].sum()
    step = between / boundaries
    usual = (rows.sum() + columns.sum() - between) / others
    if step <= usual or min(height, width) < 2:
        return 0.0
    return float(np.log2(BLOCK) / np.log2(min(height, width)) * (step - usual))


def _prepare(
    a: np.ndarray, b: np.ndarray, border: int, luma: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Both images in float64 ``[H, W, C]``, without the border, as luma if requested."""
    if a.dtype != np.uint8 or b.dtype != np.uint8:
        raise TypeError(f"scores need uint8 images, not {a.dtype} and {b.dtype}")
    if a.shape != b.shape or a.ndim != 3:
        raise ValueError(f"scores need two images of one shape [H, W, C], not {a.shape}, {b.shape}")
    if border < 0 or min(a.shape[:2]) <= 2 * border:
        raise ValueError(f"a border of {border} pixels leaves nothing of an image {a.shape}")
    cut = slice(border, -border or None)
    x, y = a[cut, cut], b[cut, cut]
    if luma and a.shape[-1] > 1:
        return rgb_to_y(x)[..., None], rgb_to_y(y)[..., None]
    return x.astype(np.float64), y.astype(np.float64)


def _gaussian_mean(image: np.ndarray) -> np.ndarray:
    """Weighted means under the window, at every position inside the image, for each channel."""
    for axis in (0, 1):
        taps = min(WINDOW, image.shape[axis])
        distance = np.arange(taps) - (taps - 1) / 2
        weights = np.exp(-(distance**2) / (2 * SIGMA**2))
        weights /= weights.sum()
        positions = image.shape[axis] - taps + 1
        lines = np.moveaxis(image, axis, 0)
        total = np.zeros((positions, *lines.shape[1:]))
        for tap, weight in enumerate(weights):
            total += weight * lines[tap : tap + positions]
        image = np.moveaxis(total, 0, axis)
    return image
