"""Image files to RGB arrays."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from binsr_jax.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


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
        file for file in files if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    ]


def read_rgb(file: Path | BinaryIO, name: str = "") -> np.ndarray:
    """Decodes an image into uint8 ``[H, W, 3]``.

    Grey values go into all three channels, palettes are looked up, transparency is dropped, and of
    16-bit values the high byte is kept (as Pillow does for 16-bit colour).

    Args:
        file: A path or an open binary file.
        name: What error messages call an open file.

    Raises:
        UserError: the file is missing, is no image, is cut off or is too large to be trusted.
    """
    try:
        with Image.open(file) as image:
            if image.mode.startswith("I"):  # 16-bit grey; convert("RGB") would clip it to white
                grey = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=-1)
            if image.mode == "F":  # convert("RGB") would clip values in 0..1 to black
                raise ValueError("its pixels are floats, of unknown range")
            return np.array(image.convert("RGB"))
    except Exception as error:  # decoders raise any of a dozen types on broken data
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(
            f"Cannot read the image {name or file} ({reason}); replace it or remove it."
        ) from error
