"""Fills the hidden colours of transparent pixels, which files may set to anything, mostly black."""

import numpy as np

_ROWS = 256  # rows processed at a time, so that a large picture is not copied as floats


def filled(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The pixels, with colours from visible neighbours in fully transparent pixels.

    A network sees the neighbours of a pixel, including invisible ones. Each transparent pixel gets
    the mean of the visible pixels, weighted by opacity, in the smallest block of 2, 4, 8 ... pixels
    square around it that has any. The result is interpolated between blocks.

    Args:
        pixels: ``[H, W, C]``, integers or floats.
        alpha: ``[H, W]``, integers or floats; 0 is transparent.
    """
    clear = alpha == 0
    if not clear.any() or clear.all():
        return pixels
    small, weight = _halved(pixels, alpha)
    around = _spread(small, weight)
    result = pixels.copy()
    for top in range(0, len(pixels), _ROWS):
        bottom = min(top + _ROWS, len(pixels))
        part = clear[top:bottom]
        if part.any():
            values = _doubled(around, top, bottom, pixels.shape[1])[part]
            whole = np.issubdtype(pixels.dtype, np.integer)
            result[top:bottom][part] = np.rint(values) if whole else values
    return result


def _halved(pixels: np.ndarray, alpha: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of 2x2 blocks weighted by alpha, and the sums of weights; float32."""
    H, W, C = pixels.shape
    small = np.empty(((H + 1) // 2, (W + 1) // 2, C), np.float32)
    weight = np.empty(small.shape[:2], np.float32)
    for top in range(0, H, _ROWS):
        part = pixels[top : top + _ROWS].astype(np.float32)
        opacity = alpha[top : top + _ROWS].astype(np.float32)
        total = _block_sums(part * opacity[..., None])
        amount = _block_sums(opacity[..., None])
        rows = slice(top // 2, top // 2 + len(total))
        small[rows] = total / np.maximum(amount, 1e-30)
        weight[rows] = amount[..., 0]
    return small, weight


def _block_sums(x: np.ndarray) -> np.ndarray:
    """Sums of 2x2 blocks; missing pixels at the edges count as 0."""
    x = np.pad(x, ((0, len(x) % 2), (0, x.shape[1] % 2), (0, 0)))
    x = x[0::2] + x[1::2]
    return x[:, 0::2] + x[:, 1::2]


def _spread(pixels: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Fills the pixels of weight 0 from ever larger blocks."""
    empty = weight == 0
    if not empty.any():
        return pixels
    small, amount = _halved(pixels, weight)
    around = _spread(small, amount)
    pixels[empty] = _doubled(around, 0, len(pixels), pixels.shape[1])[empty]
    return pixels


def _doubled(small: np.ndarray, top: int, bottom: int, width: int) -> np.ndarray:
    """Rows ``top`` to ``bottom`` of an image of twice the size, interpolated linearly."""
    rows, columns = (
        np.clip((np.arange(start, stop) - 0.5) / 2, 0, length - 1).astype(np.float32)
        for start, stop, length in ((top, bottom, len(small)), (0, width, small.shape[1]))
    )
    i, j = rows.astype(int), columns.astype(int)
    down, across = (rows - i)[:, None, None], (columns - j)[None, :, None]
    k, m = np.minimum(i + 1, len(small) - 1), np.minimum(j + 1, small.shape[1] - 1)
    upper, lower = small[i], small[k]
    above = upper[:, j] * (1 - across) + upper[:, m] * across
    below = lower[:, j] * (1 - across) + lower[:, m] * across
    return above * (1 - down) + below * down
