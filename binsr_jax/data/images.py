"""Image files to arrays, in colour or in grey."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from binsr_jax.errors import UserError
from binsr_jax.ops.image import luma_uint8

_GREY_MODES = ("1", "L", "LA", "La")

IMAGE_SUFFIXES = (
    ".png",
    ".apng",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".webp",
)


def list_images(folder: Path) -> list[Path]:
    """The image files directly in a folder, sorted by name; hidden files are left out.

    Raises:
        UserError: there is no such folder, or it cannot be read.
    """
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"Cannot read the folder {folder} ({error.strerror}).") from error
    return [
        file
        for file in files
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    ]


def read_image(
    file: Path | BinaryIO, channels: int, name: str = "", full_range: bool = False
) -> np.ndarray:
    """Decodes an image into uint8 ``[H, W, channels]``.

    Palettes are looked up, transparency is dropped, and of 16-bit values the high byte is kept (as
    Pillow does for 16-bit colour). Grey values go into all three channels of a colour image. A grey
    image is a grey file's values as they are, or the luma of a colour file: that of MATLAB, in
    16..235 (``luma_uint8``), or with ``full_range`` in 0..255.

    Args:
        file: A path or an open binary file.
        channels: 3 for RGB, 1 for grey.
        name: What error messages call an open file.
        full_range: Makes grey of colours as 0.299 R + 0.587 G + 0.114 B, in 0..255.

    Raises:
        UserError: the file is missing, is no image, is cut off or is too large to be trusted.
    """
    try:
        with Image.open(file) as image:
            if image.mode.startswith("I"):  # 16-bit grey; convert("RGB") would clip it to white
                grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
                return np.repeat(grey[..., None], channels, axis=-1)
            if image.mode == "F":  # convert("RGB") would clip values in 0..1 to black
                raise ValueError("its pixels are floats, of unknown range")
            if channels == 1 and image.mode in _GREY_MODES:
                return np.array(image.convert("L"))[..., None]
            rgb = image.convert("RGB")
            if channels == 1 and full_range:
                return np.array(rgb.convert("L"))[..., None]
            rgb = np.array(rgb)
            return rgb if channels == 3 else luma_uint8(rgb)[..., None]
    except Exception as error:  # decoders raise any of a dozen types on broken data
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(
            f"Cannot read the image {name or file} ({reason}); replace it or remove it."
        ) from error


def read_rgb(file: Path | BinaryIO, name: str = "") -> np.ndarray:
    """Decodes an image into uint8 ``[H, W, 3]``: see `read_image`."""
    return read_image(file, 3, name)
