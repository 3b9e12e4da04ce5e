"""Opens the file of a picture for decoding: checked, within limits, and as what it is.

Pillow takes some files for others without a word, and asks more of some than a picture needs. It
decodes all but several channels of 16 bits, which are left to ``binsr_jax.data.formats.deep``.
"""

import contextlib
import functools
import io
import os
import re
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from binsr_jax.data.formats import deep, gif, jpeg, png, tiff, webp
from binsr_jax.data.formats.ifd import EXIF_MARK, Directories, orientation_and_dpi, profile_of
from binsr_jax.errors import TooLargeError, UserError
from binsr_jax.memory import available_memory

_LIMITING = threading.RLock()
_PIXELS_OF_BMP = 255  # of a byte, at most: a run
# Most bytes of a file that is read whole: some for a pixel, and some for frames and texts beside.
_BYTES_OF_PIXEL, _BYTES_BESIDE = 16, 2**28
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What other files begin with, at which place.
_OTHERS = (
    (0, b"FUJIFILMCCD-RAW", "a camera's raw file"),
    (0, b"IIU\0", "a camera's raw file"),
    (0, b"IIRO", "a camera's raw file"),
    (0, b"IIRS", "a camera's raw file"),
    (0, b"MMOR", "a camera's raw file"),
    (4, b"ftypcrx", "a camera's raw file"),
    (4, b"ftypavi", "an AVIF"),
    (4, b"ftyphei", "a HEIC"),
    (4, b"ftypmif1", "a HEIC"),
    (4, b"ftypmsf1", "a HEIC"),
    (4, b"ftyp", "a video"),
    (0, b"\xff\x0a", "a JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (0, b"\0\0\0\x0cjP", "a JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"%PDF", "a PDF"),
    (0, b"<svg", "an SVG"),
    (0, b"<?xml", "an XML file"),
    (0, b"#?RADIANCE", "an HDR picture"),
    (0, b"v/1\x01", "an OpenEXR"),
    (0, b"P1\n", "a PBM"),
    (0, b"P2\n", "a PGM"),
    (0, b"P3\n", "a PPM"),
    (0, b"P4\n", "a PBM"),
    (0, b"P5", "a PGM"),
    (0, b"P6", "a PPM"),
    (0, b"P7\n", "a PAM"),
)


@dataclass
class Opened:
    """An image that is open, and what was found in its file beside it.

    Attributes:
        image: Not decoded yet; see ``decoded``.
        most_pixels: The limit that it was opened within.
        more_frames: Whether the file holds more than this image.
        profile: The ICC profile, or None.
        dpi: Dots an inch as the file has them; of any type.
        notes: What was left out, as short clauses.
        exif: The directories of the EXIF, or None.
        orientation: As EXIF numbers it; Pillow itself turns the TIFF that it decodes.
        of_png: What was found in a PNG.
        of_tiff: What was found in a TIFF.
    """

    image: ImageFile.ImageFile | deep.Deep
    most_pixels: int = 0
    more_frames: bool = False
    profile: bytes | None = None
    dpi: Any = None
    notes: list[str] = field(default_factory=list)
    exif: Directories | None = None
    orientation: int = 1
    of_png: png.Png | None = None
    of_tiff: tiff.Layout | None = None


def open_picture(source: BinaryIO, most_pixels: int, *, pixels: bool = True) -> Opened:
    """Opens an image file and checks what its header claims.

    Args:
        source: PNG, JPEG, WebP, TIFF, BMP or GIF; it must stay open until the image is decoded.
        most_pixels: An image of more is refused, since a small file can claim any size.
        pixels: False where only the size is wanted: the compressed pixels are not looked at.

    Raises:
        TooLargeError: It has more pixels.
        UserError: It is of a kind that is not read.
        Exception: Whatever a decoder raises on broken data.
    """
    head = source.read(32)
    source.seek(0)
    with _limits(most_pixels):
        opened = _open(source, head, most_pixels, pixels)
    width, height = opened.image.size
    if width * height > most_pixels:
        raise _too_large(most_pixels)
    opened.most_pixels = most_pixels
    if not all(opened.image.size):
        raise ValueError("it has no pixels")
    return opened


def upright_size(opened: Opened) -> tuple[int, int]:
    """(width, height) of what ``decoded`` returns."""
    width, height = opened.image.size
    return (height, width) if 5 <= opened.orientation <= 8 else (width, height)


def decoded(opened: Opened) -> Image.Image | np.ndarray:
    """Decodes the first frame, upright, with what Pillow misreads put right.

    Grey of more than 8 bits has the mode ``I;16`` and white as 65535. Several channels of 16 bits
    are uint16 ``[H, W, C]``: grey or RGB, and opacity for C = 2 and 4.

    Raises:
        Exception: Whatever a decoder raises on broken data.
    """
    image = opened.image
    if isinstance(image, deep.Deep):
        return deep.turned(image.decode(), opened.orientation)
    layout = str(image.tile)  # how the pixels are stored; gone after load()
    # Pillow looks at its limit again where it decodes a TIFF.
    with _limits(opened.most_pixels) if opened.of_tiff else contextlib.nullcontext():
        image.load()
    if ";16" in layout and not image.mode.startswith("I"):  # CMYK
        opened.notes.append("its 16-bit colours are read as 8 bits")
    _mend(image, opened)
    upright: Image.Image = image
    if opened.of_tiff is not None and upright.mode.startswith("I;16"):
        upright = Image.fromarray(_levels(np.asarray(upright).astype(np.uint16), opened.of_tiff))
    if opened.orientation in _TURNS:
        upright = upright.transpose(_TURNS[opened.orientation])
    return upright


@contextlib.contextmanager
def _limits(most_pixels: int) -> Iterator[None]:
    """Makes this limit Pillow's own, and puts its settings back in the end; one at a time."""
    with _LIMITING, warnings.catch_warnings():
        usual = Image.MAX_IMAGE_PIXELS, TiffImagePlugin.READ_LIBTIFF
        # Pillow warns above its limit and refuses above twice that; here both refuse.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = most_pixels
        try:
            yield
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise _too_large(most_pixels) from error
        finally:
            Image.MAX_IMAGE_PIXELS, TiffImagePlugin.READ_LIBTIFF = usual


def _too_large(most_pixels: int) -> TooLargeError:
    return TooLargeError(
        f"it has more than {most_pixels / 1e6:g} megapixels, which may be an attack"
    )


def _required_size(source: BinaryIO, most_pixels: int) -> int:
    """The bytes of a file that is read whole.

    A sparse file takes no space on the disk, but as much memory as any other.

    Raises:
        TooLargeError: It has more bytes than such a picture takes.
        UserError: It has more bytes than there is memory.
    """
    size, available = source.seek(0, os.SEEK_END), available_memory()
    source.seek(0)
    if size > _BYTES_OF_PIXEL * most_pixels + _BYTES_BESIDE:
        raise TooLargeError(
            f"its file has {size / 1e9:.3g} GB, more than {most_pixels / 1e6:g} megapixels take"
        )
    if available is not None and 2 * size > available:
        raise UserError(
            f"its file has {size / 1e9:.3g} GB, too many for the {available / 1e9:.2g} GB of free "
            "memory"
        )
    return size


def _open(source: BinaryIO, head: bytes, most_pixels: int, pixels: bool) -> Opened:
    if head[:4] in _TIFF:  # which is read in parts
        return _open_tiff(source, head, most_pixels)
    length = _required_size(source, most_pixels)
    if head.startswith(png.SIGNATURE):
        found = png.read(source, most_pixels, pixels=pixels)
        opened = Opened(
            _png_image(found),
            more_frames=found.animated,
            profile=found.profile,
            dpi=found.dpi,
            notes=found.notes,
            of_png=found,
        )
        return _with_exif(opened, found.exif, found.xmp)
    if head.startswith(b"\xff\xd8"):
        found = jpeg.read(source, most_pixels)
        image = Image.open(found.stream, formats=("JPEG",))
        opened = Opened(image, profile=found.profile, dpi=found.dpi)
        return _with_exif(opened, found.exif, found.xmp)
    if head.startswith((b"GIF87a", b"GIF89a")):
        found = gif.read(source)
        return Opened(Image.open(found.stream, formats=("GIF",)), more_frames=found.animated)
    for place, mark, name in _OTHERS:
        if head[place:].startswith(mark):
            if name == "a video":
                raise UserError("it is a video: binsr video takes it")
            way = "develop it with a raw converter" if "raw" in name else "convert it to PNG"
            raise UserError(f"it is {name}, which is not read: {way} first")
    if head[8:12] == b"WEBP":
        webp.require_pixels(head, length)
    image = Image.open(source, formats=("WEBP", "BMP"))
    if image.format == "BMP":
        if image.width * image.height > _PIXELS_OF_BMP * length + 2**16:
            raise ValueError("it claims more pixels than it holds")
        return Opened(image, dpi=image.info.get("dpi"))
    info = image.info
    frames = bool(getattr(image, "is_animated", False))
    opened = Opened(image, more_frames=frames, profile=info.get("icc_profile"))
    return _with_exif(opened, info.get("exif"), info.get("xmp") or b"")


def _png_image(found: png.Png) -> ImageFile.ImageFile | deep.Deep:
    if found.bits == 16 and (found.colour or found.key):
        decode = functools.partial(deep.png_pixels, found.stream.getvalue(), found.size)
        return deep.Deep(found.size, "PNG", decode)
    return Image.open(found.stream, formats=("PNG",))


def _open_tiff(source: BinaryIO, head: bytes, most_pixels: int) -> Opened:
    if head[8:10] == b"CR":  # Canon's mark
        raise UserError(tiff.RAW)
    directories = Directories(source)
    layout = tiff.layout(directories)
    if layout.deep:
        return _open_deep_tiff(source, directories, layout, most_pixels)
    TiffImagePlugin.READ_LIBTIFF = layout.libtiff
    source.seek(0)
    try:
        image = Image.open(source, formats=("TIFF",))
    except Image.UnidentifiedImageError as error:
        if directories.big and directories.order == ">":
            raise UserError(
                "it is a BigTIFF in big-endian order, which is not supported: save it as a TIFF "
                "in little-endian order"
            ) from error
        if layout.kind in ("RGB of 8 bits", "grey of 8 bits"):
            raise ValueError("its directory is damaged") from error
        raise UserError(tiff.unsupported(layout.kind)) from error
    opened = Opened(
        image,
        more_frames=layout.pages,
        profile=image.info.get("icc_profile"),
        dpi=image.info.get("dpi"),
        exif=directories,
        of_tiff=layout,
    )
    return _with_thumbnail_noted(opened)


def _open_deep_tiff(
    source: BinaryIO, directories: Directories, layout: tiff.Layout, most_pixels: int
) -> Opened:
    assert layout.deep is not None
    _required_size(source, most_pixels)

    def decode() -> np.ndarray:
        assert layout.deep is not None
        source.seek(0)
        return deep.tiff_pixels(source.read(), layout.size, layout.deep)

    orientation, dpi = orientation_and_dpi(directories)
    opened = Opened(
        deep.Deep(layout.size, "TIFF", decode),
        more_frames=layout.pages,
        profile=profile_of(directories),
        dpi=dpi,
        exif=directories,
        orientation=orientation,
        of_tiff=layout,
    )
    return _with_thumbnail_noted(opened)


def _with_thumbnail_noted(opened: Opened) -> Opened:
    if opened.of_tiff is not None and opened.of_tiff.thumbnail:
        opened.notes.append("it is a reduced picture of another one in its file")
    return opened


def _with_exif(opened: Opened, exif: bytes | None, xmp: bytes) -> Opened:
    """The same with what the EXIF says of orientation and resolution, else what XMP and JFIF do."""
    match = re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp)
    opened.orientation = int(match[1]) if match else 1
    if not exif:
        return opened
    try:
        opened.exif = Directories(io.BytesIO(exif.removeprefix(EXIF_MARK)))
        orientation, dpi = orientation_and_dpi(opened.exif)
    except ValueError:
        opened.exif = None
        opened.notes.append("its EXIF cannot be read and is left out")
    else:
        opened.orientation = orientation or opened.orientation
        opened.dpi = opened.dpi or dpi
    return opened


def _mend(image: ImageFile.ImageFile, opened: Opened) -> None:
    """Gives a decoded image the transparency and palette that Pillow has misread."""
    found = opened.of_png
    if found is not None and found.key and found.bits in (2, 4):
        # Its samples were made larger, but not the transparent one.
        image.info["transparency"] = found.key[0] * (255 // (2**found.bits - 1))
    if opened.of_tiff is not None and opened.of_tiff.palette and image.mode == "P":
        image.putpalette(opened.of_tiff.palette)


def _levels(pixels: np.ndarray, layout: tiff.Layout) -> np.ndarray:
    """Grey of more than 8 bits of a TIFF, in 0..65535 with white the largest."""
    if layout.bits < 16:  # repeated, so that the largest becomes the largest
        pixels = pixels << (16 - layout.bits) | pixels >> (2 * layout.bits - 16)
    return np.uint16(65_535) - pixels if layout.inverted else pixels


def reason_of(error: Exception) -> str:
    """Why an image file cannot be read, in words that fit into brackets."""
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is no PNG, JPEG, WebP, TIFF, BMP or GIF"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if str(error).startswith("decoder error"):  # which says only a number
        return deep.DAMAGED
    return str(error).rstrip(".") or type(error).__name__
