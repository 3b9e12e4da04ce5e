"""A stand-in for an engine, in plain numpy, and images for it."""

import numpy as np

RADIUS = 3


class TapsEngine:
    """Has what an engine has; its result in a pixel is the same in whatever piece it is worked."""

    bytes_per_pixel = 100.0

    def __init__(self, scale: int = 2, channels: int = 3, global_pooling: bool = False) -> None:
        self.scale, self.channels, self.global_pooling = scale, channels, global_pooling
        self.radius = RADIUS
        self.overlap: int | None = None
        self.stride = 1
        self.taps = np.random.default_rng(0).normal(size=(2 * RADIUS + 1,) * 2).astype(np.float32)
        self.shapes: list[tuple[int, ...]] = []

    def pooled_of(self, image: np.ndarray) -> np.ndarray:
        return image.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)

    def run(self, image: np.ndarray, pooled: np.ndarray | None = None) -> np.ndarray:
        assert image.dtype == np.float32
        assert image.shape[2] == self.channels
        if self.scale > 1:
            assert image.min() >= 0
            assert image.max() <= 1
        self.shapes.append(image.shape)
        h, w, _ = image.shape
        padded = np.pad(image, ((RADIUS, RADIUS), (RADIUS, RADIUS), (0, 0)))
        y = sum(
            self.taps[i, j] * padded[i : i + h, j : j + w]
            for i in range(2 * RADIUS + 1)
            for j in range(2 * RADIUS + 1)
        )
        if self.global_pooling:
            y = y * (self.pooled_of(image) if pooled is None else pooled)
        y = np.repeat(np.repeat(y / 8 + 0.4, self.scale, axis=0), self.scale, axis=1)
        if self.scale > 1:
            y[1 :: self.scale] *= np.float32(0.9)  # the phases differ
        return y


def photo(
    height: int, width: int, channels: int = 3, dtype: type = np.uint8, seed: int = 1
) -> np.ndarray:
    values = np.random.default_rng(seed).random((height, width, channels))
    if np.issubdtype(dtype, np.floating):
        return values.astype(dtype)
    return (values * np.iinfo(dtype).max).round().astype(dtype)
