"""Decodes image files into arrays, in colour or in grey."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from binsr_jax.data.formats.opening import decoded, open_picture, reason_of
from binsr_jax.errors import UserError
from binsr_jax.files import open_regular
from binsr_jax.ops.image import luma_uint8

_MOST_PIXELS = 200_000_000  # of an image that is trusted
_GREY_MODES = ("1", "L", "LA", "La")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV")


def read_pixels(file: Path | BinaryIO, name: str = "") -> np.ndarray:
    """Decodes an image into uint8 ``[H, W, 1]`` if it is grey, or ``[H, W, 3]`` if it has colours.

    The values decide, not how they are stored: an image is grey if it has one channel (1, 2, 4, 8
    or 16 bits, with or without transparency), a palette whose used colours are all greys, or three
    channels that are equal everywhere.

    Palettes are looked up and transparency is dropped. Of 16-bit values the high byte is used, as
    Pillow does for 16-bit colour.

    Args:
        file: A path or an open binary file.
        name: The name of an open file in error messages.

    Raises:
        UserError: The file is missing, is no image, is truncated, is too large to be trusted, or
            has values without a known range, such as floats or 32-bit integers.
    """
    try:
        if isinstance(file, Path):
            with open_regular(file) as opened:
                return _pixels(opened)
        return _pixels(file)
    except Exception as error:  # decoders raise a dozen different types on broken data
        reason = str(error) if isinstance(error, UserError) else reason_of(error)
        raise unreadable(name or str(file), reason) from error


def unreadable(name: str, reason: str) -> UserError:
    """The message for an image that cannot be read."""
    return UserError(f"Cannot read the image {name} ({reason}); replace it or remove it.")


def _pixels(file: BinaryIO) -> np.ndarray:
    image = decoded(open_picture(file, _MOST_PIXELS))
    if isinstance(image, np.ndarray):
        high = (image >> 8).astype(np.uint8)
        return high[..., :1].copy() if high.shape[-1] == 2 else _grey_or_rgb(high)
    if image.mode.startswith("I;16"):  # convert("L") would clip them to white
        return (np.asarray(image) >> 8).astype(np.uint8)[..., None]
    if image.mode in _GREY_MODES:
        return np.array(image.convert("L"))[..., None]
    if image.mode not in _COLOUR_MODES:
        raise UserError(f"its pixels are of Pillow's mode {image.mode!r}: convert it to RGB")
    mode = "RGBA" if image.has_transparency_data else "RGB"
    return _grey_or_rgb(np.asarray(image.convert(mode)))


def _grey_or_rgb(pixels: np.ndarray) -> np.ndarray:
    rgb = pixels[..., :3].copy()
    grey = (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 0] == rgb[..., 2]).all()
    return rgb[..., :1].copy() if grey else rgb


def read_image(
    file: Path | BinaryIO, channels: int, name: str = "", full_range: bool = False
) -> np.ndarray:
    """Decodes an image into uint8 ``[H, W, channels]``; see ``read_pixels``.

    For 3 channels, grey values are repeated. For 1 channel, the values of a grey file are used as
    they are, and a colour file is converted to luma.

    Args:
        file: A path or an open binary file.
        channels: 3 for RGB, 1 for grey.
        name: The name of an open file in error messages.
        full_range: Whether luma is 0.299 R + 0.587 G + 0.114 B in 0..255; otherwise it is MATLAB's,
            in 16..235 (``luma_uint8``).

    Raises:
        UserError: See ``read_pixels``.
    """
    pixels = read_pixels(file, name)
    if pixels.shape[-1] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    if full_range:
        return np.array(Image.fromarray(pixels).convert("L"))[..., None]
    return luma_uint8(pixels)[..., None]


def read_rgb(file: Path | BinaryIO, name: str = "") -> np.ndarray:
    """Decodes an image into uint8 ``[H, W, 3]``; see ``read_image``."""
    return read_image(file, 3, name)
