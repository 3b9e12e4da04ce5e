"""A stand-in for an engine, that can be held at a tile, and pictures to send."""

import io
import threading

import numpy as np
from PIL import Image


class HeldEngine:
    """Inverts and repeats pixels; waits at each tile while it is held."""

    channels, radius, overlap, stride, global_pooling = 3, 1, None, 1, False
    bytes_per_pixel = 100.0

    def __init__(self, scale: int) -> None:
        self.scale = scale
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.started = threading.Semaphore(0)
        self.tiles = 0

    def pooled_of(self, image: np.ndarray) -> None:
        raise AssertionError("there are no means")

    def run(self, image: np.ndarray, pooled: object = None) -> np.ndarray:
        self.started.release()
        assert self.may_go_on.wait(20)
        self.tiles += 1
        return np.repeat(np.repeat(1 - image, self.scale, axis=0), self.scale, axis=1)


def pixels(height: int = 20, width: int = 30, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


def picture(form: str = "PNG", height: int = 20, width: int = 30, channels=3, **options) -> bytes:
    """The bytes of a picture file."""
    file = io.BytesIO()
    Image.fromarray(pixels(height, width, channels)).save(file, form, **options)
    return file.getvalue()


def inverted(image: np.ndarray, scale: int) -> np.ndarray:
    """What ``HeldEngine`` makes of it."""
    return np.repeat(np.repeat(255 - image, scale, axis=0), scale, axis=1)
