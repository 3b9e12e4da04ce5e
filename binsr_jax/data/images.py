"""Decodes image files into arrays, in colour or in grey."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from binsr_jax.errors import UserError
from binsr_jax.files import open_regular
from binsr_jax.ops.image import luma_uint8

_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF")
_GREY_MODES = ("1", "L", "LA", "La")
_DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N")  # grey of 16 bits
_PALETTE_MODES = ("P", "PA")
_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV")

# TIFF tags: bits of a value, how values stand for brightness, and whether channels lie apart.
_BITS = 258
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_PLANAR, _APART = 284, 2


def read_pixels(file: Path | BinaryIO, name: str = "") -> np.ndarray:
    """Decodes an image into uint8 ``[H, W, 1]`` if it is grey, or ``[H, W, 3]`` if it has colours.

    A file is grey if it has one channel (1, 2, 4, 8 or 16 bits, with or without transparency), or a
    palette whose used colours are all greys. A file with three channels is a colour image even if
    the channels are equal: the programs behind published scores decide by the number of channels.

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
                return _decoded(opened)
        return _decoded(file)
    except Exception as error:  # decoders raise a dozen different types on broken data
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(
            f"Cannot read the image {name or file} ({reason}); replace it or remove it."
        ) from error


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


def _decoded(file: BinaryIO) -> np.ndarray:
    with Image.open(file, formats=_FORMATS) as image:
        layout = str(image.tile)  # how the pixels are stored; gone once they are loaded
        _refuse_misread(image, layout)
        if image.mode in _DEEP_MODES:  # convert("L") would clip them to white
            return (np.asarray(image) >> 8).astype(np.uint8)[..., None]
        if image.mode in _GREY_MODES:
            return np.array(image.convert("L"))[..., None]
        if image.mode not in _PALETTE_MODES + _COLOUR_MODES:
            kind = {"F": "floats", "I": "32-bit integers"}.get(image.mode, f"of mode {image.mode}")
            raise ValueError(f"its pixels are {kind}, of unknown range: convert it to 8 bits")
        rgb = np.array(image.convert("RGB"))
        one_channel = "LA;16" in layout  # Pillow reads it as RGBA
        if image.mode in _PALETTE_MODES:
            one_channel = bool((rgb == rgb[..., :1]).all())
        return rgb[..., :1].copy() if one_channel else rgb


def _refuse_misread(image: Image.Image, layout: str) -> None:
    """Raises ValueError for TIFF files whose values Pillow reads wrongly."""
    if image.format != "TIFF":
        return
    tags = getattr(image, "tag_v2", {})
    if "I;12" in layout:
        raise ValueError("it has 12 bits a pixel: convert it to 8 or 16")
    if image.mode in _DEEP_MODES and tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise ValueError("it has 16 bits with white as 0: convert it to black as 0")
    if (
        max(tags.get(_BITS, (8,))) > 8
        and tags.get(_PLANAR) == _APART
        and image.mode not in _DEEP_MODES
    ):
        raise ValueError("it has 16 bits with its channels apart: convert it to RGBRGB or 8 bits")
