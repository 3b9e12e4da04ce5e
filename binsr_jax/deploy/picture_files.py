"""Pictures out of files and into files: within limits, whole or not at all."""

import contextlib
import io
import math
import os
import re
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin

from binsr_jax.deploy import gif, jpeg, png, tiff
from binsr_jax.deploy.ifd import EXIF_MARK, Directories, add_exif, kept_exif, orientation_and_dpi
from binsr_jax.deploy.pictures import Picture, from_pillow
from binsr_jax.errors import TooLargeError, UserError
from binsr_jax.files import open_regular, replacing
from binsr_jax.image_files import FORMATS

_OPTIONS = {
    "PNG": {"compress_level": 3},  # a third of the usual level's time, 2% more bytes
    "JPEG": {"subsampling": 0},
    "TIFF": {"compression": "tiff_lzw"},
}
_READING = threading.RLock()
_PIXELS_OF_BMP = 255  # of a byte, at most: a run
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
    (0, b"P6", "a PPM"),
    (0, b"P5", "a PGM"),
)


@dataclass
class _Opened:
    """An image that is open, and what was found in its file beside it."""

    image: ImageFile.ImageFile
    more_frames: bool
    profile: bytes | None = None
    dpi: Any = None
    notes: list[str] = field(default_factory=list)
    exif: Directories | None = None
    orientation: int = 1  # that of a TIFF is Pillow's concern
    of_png: png.Png | None = None
    of_tiff: tiff.Layout | None = None


def picture_size(file: Path, most_pixels: int) -> tuple[int, int]:
    """(width, height) of an image file, from its header.

    Raises:
        UserError: as ``read_picture``, as far as the header shows it.
    """
    with (
        _named(file),
        open_regular(file) as source,
        _opened(source, most_pixels, pixels=False) as opened,
    ):
        return opened.image.size


def read_picture(file: Path, most_pixels: int) -> Picture:
    """Decodes the first frame of an image file.

    Args:
        file: PNG, JPEG, WebP, TIFF, BMP or GIF; its content decides, not its name.
        most_pixels: an image of more is not decoded: a small file can claim any size.

    Raises:
        UserError: the file is missing, is no such image, is cut off, has more pixels, or pixels of
            a kind that cannot be restored.
    """
    with _named(file), open_regular(file) as source, _opened(source, most_pixels) as opened:
        return _decoded(opened)


def picture_of(image: Image.Image) -> Picture:
    """The pixels of a Pillow image, upright; one that is not decoded yet as ``read_picture`` does.

    Raises:
        UserError: its file is damaged, or its pixels are of a kind that cannot be restored.
    """
    source = getattr(image, "fp", None)
    fresh = isinstance(image, ImageFile.ImageFile) and image.tile and image.tell() == 0
    if fresh and source is not None and image.format in ("PNG", "TIFF"):  # others are read right
        with _named(None):
            place = source.tell()
            source.seek(0)
            try:
                with _opened(source, image.width * image.height) as opened:
                    return _decoded(opened)
            finally:
                source.seek(place)
    with _named(None):
        image.load()  # here, where it is an error if the file is damaged
        with contextlib.suppress(Exception):  # broken EXIF: the picture stays as it lies
            image = ImageOps.exif_transpose(image)
        return from_pillow(image)


def _decoded(opened: _Opened) -> Picture:
    image, notes = opened.image, opened.notes
    if opened.more_frames:
        notes.append("only its first frame is taken")
    layout = str(image.tile)  # how the pixels are stored; gone after load()
    image.load()  # before anything is asked that would load it and hide that it is damaged
    exif = b""
    if opened.exif is not None:
        try:
            exif = kept_exif(opened.exif)
        except ValueError:
            notes.append("its EXIF cannot be read and is left out")
    if ";16" in layout and not image.mode.startswith("I"):
        notes.append("its 16-bit colours are read as 8 bits")
    _mend(image, opened)
    image.info["icc_profile"] = opened.profile
    upright = image.convert("LA") if "'LA;16" in layout else image
    if opened.orientation in _TURNS:
        upright = upright.transpose(_TURNS[opened.orientation])
    picture = from_pillow(upright)
    if opened.of_tiff is not None:
        picture = replace(picture, pixels=_levels(picture.pixels, opened.of_tiff))
    return replace(picture, exif=exif, dpi=_known(opened.dpi), notes=(*notes, *picture.notes))


def write_picture(
    image: Image.Image,
    file: Path,
    *,
    exif: bytes = b"",
    dpi: tuple[float, float] | None = None,
    quality: int = 95,
) -> None:
    """Writes an image, so that there is never half a file under its name.

    Args:
        image: its ``info["icc_profile"]`` is written, if there is one.
        file: its suffix, one of ``FORMATS``, says the format.
        exif: EXIF to go with it.
        dpi: dots an inch, across and down.
        quality: 1 to 100, of JPEG and WebP.

    Raises:
        UserError: the file cannot be written.
    """
    form = FORMATS[file.suffix.lower()]
    options: dict[str, Any] = dict(_OPTIONS.get(form, {}))
    if form in ("JPEG", "WEBP"):
        options["quality"] = quality
    if exif and form != "TIFF":  # into which Pillow writes no other text than ASCII
        options["exif"] = exif
    if profile := image.info.get("icc_profile"):
        options["icc_profile"] = profile
    if dpi is not None and form != "WEBP":  # which has no place for it
        options["dpi"] = dpi
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as output:
            image.save(cast(BinaryIO, output), form, **options)
            if exif and form == "TIFF":
                add_exif(cast(BinaryIO, output), exif)
    except MemoryError:
        raise
    except Exception as error:  # encoders raise any of a dozen types where a format ends
        raise UserError(f"Cannot write {file} ({_reason(error)}).") from error


@contextlib.contextmanager
def _named(file: Path | None) -> Iterator[None]:
    """Turns whatever goes wrong while an image is read into a sentence about its file."""
    name = f"the image {file}" if file else "the image"
    try:
        yield
    except UserError as error:
        raise type(error)(f"{file or 'The image'}: {str(error).rstrip('.')}.") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise any of a dozen types on broken data
        raise UserError(f"Cannot read {name} ({_reason(error)}).") from error


@contextlib.contextmanager
def _opened(source: BinaryIO, most_pixels: int, *, pixels: bool = True) -> Iterator[_Opened]:
    """Opens an image; its limits are Pillow's own while it is open, so one is read at a time."""
    with _READING, warnings.catch_warnings():
        usual = Image.MAX_IMAGE_PIXELS, TiffImagePlugin.READ_LIBTIFF
        # Pillow warns above its limit and refuses above twice that; here both refuse.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS = most_pixels
        try:
            head = source.read(32)
            source.seek(0)
            opened = _open(source, head, most_pixels, pixels)
            if not all(opened.image.size):
                raise ValueError("it has no pixels")
            yield opened
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise TooLargeError(
                f"it has more than {most_pixels / 1e6:g} megapixels, which may be an attack; if "
                "you trust it, raise --max-megapixels."
            ) from error
        finally:
            Image.MAX_IMAGE_PIXELS, TiffImagePlugin.READ_LIBTIFF = usual


def _open(source: BinaryIO, head: bytes, most_pixels: int, pixels: bool) -> _Opened:
    if head.startswith(png.SIGNATURE):
        found = png.read(source, most_pixels, pixels=pixels)
        image = Image.open(found.stream, formats=("PNG",))
        opened = _Opened(image, found.animated, found.profile, found.dpi, found.notes)
        opened.of_png = found
        return _with_exif(opened, found.exif, found.xmp)
    if head[:4] in _TIFF:
        return _open_tiff(source, head)
    if head.startswith(b"\xff\xd8"):
        found = jpeg.read(source, most_pixels)
        image = Image.open(found.stream, formats=("JPEG",))
        return _with_exif(_Opened(image, False, found.profile, found.dpi), found.exif, found.xmp)
    if head.startswith((b"GIF87a", b"GIF89a")):
        found = gif.read(source)
        return _Opened(Image.open(found.stream, formats=("GIF",)), found.animated)
    for place, mark, name in _OTHERS:
        if head[place:].startswith(mark):
            if name == "a video":
                raise UserError("it is a video: binsr video takes it")
            way = "develop it with a raw converter" if "raw" in name else "convert it to PNG"
            raise UserError(f"it is {name}, which is not read: {way} first")
    image = Image.open(source, formats=("WEBP", "BMP"))
    if image.format == "BMP":
        if image.width * image.height > _PIXELS_OF_BMP * source.seek(0, os.SEEK_END) + 2**16:
            raise ValueError("it claims more pixels than it holds")
        return _Opened(image, False, dpi=image.info.get("dpi"))
    info = image.info
    opened = _Opened(image, bool(getattr(image, "is_animated", False)), info.get("icc_profile"))
    return _with_exif(opened, info.get("exif"), info.get("xmp") or b"")


def _open_tiff(source: BinaryIO, head: bytes) -> _Opened:
    if head[8:10] == b"CR":  # Canon's mark
        raise UserError(tiff.RAW)
    directories = Directories(source)
    layout = tiff.layout(directories)
    TiffImagePlugin.READ_LIBTIFF = layout.libtiff
    source.seek(0)
    try:
        image = Image.open(source, formats=("TIFF",))
    except Image.UnidentifiedImageError as error:
        raise UserError(tiff.unsupported(layout.kind)) from error
    opened = _Opened(image, layout.pages, image.info.get("icc_profile"), image.info.get("dpi"))
    opened.exif, opened.of_tiff = directories, layout
    if layout.thumbnail:
        opened.notes.append("it is a reduced picture of another one in its file")
    return opened


def _with_exif(opened: _Opened, exif: bytes | None, xmp: bytes) -> _Opened:
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


def _mend(image: ImageFile.ImageFile, opened: _Opened) -> None:
    """Gives a decoded image the transparency and palette that Pillow has misread."""
    found = opened.of_png
    if found is not None and found.key:
        if found.bits in (2, 4):  # its samples were made larger, but not the transparent one
            image.info["transparency"] = found.key[0] * (255 // (2**found.bits - 1))
        elif found.bits == 16 and found.colour == 2:
            del image.info["transparency"]  # of 16 bits, among pixels of 8
            opened.notes.append("its transparent colour is left out")
    if opened.of_tiff is not None and opened.of_tiff.palette and image.mode == "P":
        image.putpalette(opened.of_tiff.palette)


def _levels(pixels: np.ndarray, layout: tiff.Layout) -> np.ndarray:
    """Grey of a TIFF in 0..65535 with white the largest, if it has more than 8 bits."""
    if pixels.dtype != np.uint16:
        return pixels
    if layout.bits < 16:  # repeated, so that the largest becomes the largest
        pixels = pixels << (16 - layout.bits) | pixels >> (2 * layout.bits - 16)
    return np.uint16(65_535) - pixels if layout.inverted else pixels


def _known(dpi: Any) -> tuple[float, float] | None:
    """Dots an inch as two numbers, if they are any."""
    try:
        across, down = (float(value) for value in dpi or ())
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    # One dot an inch is how Pillow writes that nothing is known.
    known = all(1 < value < math.inf for value in (across, down))
    return (across, down) if known else None


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is no PNG, JPEG, WebP, TIFF, BMP or GIF"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).rstrip(".") or type(error).__name__
