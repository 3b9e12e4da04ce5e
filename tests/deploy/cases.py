"""What a file must be read as, and how the images of files are made."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageCms

H, W = 13, 21
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@dataclass(frozen=True)
class Case:
    """A file, and what is in it.

    Attributes:
        name: of the file.
        data: its bytes.
        pixels: what must be read, ``[H, W, C]``; None where it must be refused.
        alpha: its opacity, where it has one.
        within: how far a pixel may be off, in 0..255, on average.
        says: words of a note, or of the refusal.
    """

    name: str
    data: bytes
    pixels: np.ndarray | None = None
    alpha: np.ndarray | None = None
    within: float = 0.0
    says: str = ""


def smooth(channels: int, high: int = 255) -> np.ndarray:
    """``[H, W, channels]`` in 0..high that no two channels, rows or columns have in common."""
    y, x = np.mgrid[:H, :W] / max(H, W)
    planes = [np.clip((x * (i + 1) + y * (4 - i)) / 5 + 0.05 * i, 0, 1) for i in range(channels)]
    return np.round(np.stack(planes, -1) * high).astype(np.uint8 if high < 256 else np.uint16)


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """Rows of samples of a few bits each as rows of bytes, ``[H, bytes]``."""
    rows = values.reshape(len(values), -1, 1).astype(">u2").view(np.uint8)
    return np.packbits(np.unpackbits(rows, axis=-1)[..., -bits:].reshape(len(values), -1), axis=-1)


def saved(image: np.ndarray | Image.Image, form: str, **options: Any) -> bytes:
    """An image as Pillow writes it."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """How an image is shown whose EXIF has this orientation (EXIF 2.3, tag 274)."""
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
        8: lambda x: np.rot90(x),
    }
    return turns[orientation](image)
