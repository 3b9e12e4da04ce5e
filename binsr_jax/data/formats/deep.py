"""Pictures with several channels of 16 bits, for which Pillow has no mode: read and written.

imagecodecs, which has libpng and libtiff, decodes them and encodes PNG; tifffile encodes TIFF.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from binsr_jax.data.formats import png
from binsr_jax.data.formats.tiff import Channels

DAMAGED = "its pixels are damaged, or compressed in a way that is not supported"
_LEVEL = 3  # of PNG's compression, as for 8 bits
_WHITE = 65_535


@dataclass(frozen=True)
class Deep:
    """Such a picture, not decoded yet; its first attributes are named as Pillow's.

    Attributes:
        size: Width and height, as stored.
        format: ``"PNG"`` or ``"TIFF"``.
        decode: Returns uint16 ``[H, W, C]``: grey or RGB, and opacity for C = 2 and 4. Raises
            ValueError if the pixels are damaged.
    """

    size: tuple[int, int]
    format: str
    decode: Callable[[], np.ndarray]


def png_pixels(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """The pixels of a PNG; a transparent colour becomes opacity. See ``Deep.decode``."""
    import imagecodecs

    try:
        pixels = imagecodecs.png_decode(data)
    except imagecodecs.PngError as error:
        raise ValueError(DAMAGED) from error
    if pixels.dtype != np.uint16 or pixels.shape[:2] != size[::-1] or pixels.ndim != 3:
        raise ValueError(DAMAGED)
    return pixels


def tiff_pixels(data: bytes, size: tuple[int, int], channels: Channels) -> np.ndarray:
    """The pixels of a TIFF's first page; see ``Deep.decode``."""
    import imagecodecs

    width, height = size
    shape = (height, width)
    shape = (channels.count, *shape) if channels.planes else (*shape, channels.count)
    # An array of a size that was checked, which libtiff must agree with.
    stored = np.zeros(shape, np.uint16)
    try:
        imagecodecs.tiff_decode(data, out=stored)
    except MemoryError:
        raise
    except Exception as error:  # it raises any of half a dozen types
        raise ValueError(DAMAGED) from error
    stored = np.moveaxis(stored, 0, -1) if channels.planes else stored
    if channels.inverted:
        stored[..., 0] = _WHITE - stored[..., 0]
    if channels.alpha is None:
        return np.ascontiguousarray(stored[..., : channels.colours])
    pixels = stored[..., [*range(channels.colours), channels.alpha]]
    if channels.multiplied:
        _divide_by_alpha(pixels)
    return pixels


def _divide_by_alpha(pixels: np.ndarray) -> None:
    """Gives pixels that were multiplied by their opacity their own colours, in place."""
    for row in pixels:
        alpha = np.maximum(row[:, -1:], 1).astype(np.uint32)
        colours = (row[:, :-1].astype(np.uint32) * _WHITE + alpha // 2) // alpha
        row[:, :-1] = np.minimum(colours, _WHITE)


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels ``[H, W, C]`` upright, by the orientation of EXIF."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def png_parts(
    pixels: np.ndarray,
    *,
    profile: bytes | None = None,
    exif: bytes = b"",
    dpi: tuple[float, float] | None = None,
) -> Iterator[bytes | memoryview]:
    """The bytes of a PNG of uint16 ``[H, W, C]``, with what lies beside the pixels."""
    import imagecodecs

    # More than pixels can need that are not made smaller. Without a buffer of ours the result would
    # be copied; what is not written to takes no memory.
    room = bytearray(pixels.nbytes + pixels.nbytes // 8 + len(pixels) + 2**16)
    encoded = memoryview(imagecodecs.png_encode(pixels, _LEVEL, out=room))
    return png.with_metadata(encoded, profile, exif, dpi)


def write_tiff(
    file: BinaryIO,
    pixels: np.ndarray,
    *,
    profile: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> None:
    """Writes a TIFF of uint16 ``[H, W, C]``, C = 2 to 4."""
    import tifffile

    options: dict[str, Any] = {}
    if dpi is not None:
        options = {"resolution": dpi, "resolutionunit": "inch"}
    tifffile.imwrite(
        file,
        pixels,
        bigtiff=False,
        photometric="rgb" if pixels.shape[-1] > 2 else "minisblack",
        planarconfig="contig",
        extrasamples=["unassalpha"] if pixels.shape[-1] != 3 else None,
        compression="adobe_deflate",
        predictor=True,
        iccprofile=profile,
        metadata=None,
        software=False,
        **options,
    )
