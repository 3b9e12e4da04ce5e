"""Pictures out of files and into files: within limits, whole or not at all."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image, ImageFile, ImageOps

from binsr_jax.data.formats import deep
from binsr_jax.data.formats.ifd import add_exif, kept_exif
from binsr_jax.data.formats.opening import Opened, decoded, open_picture, reason_of, upright_size
from binsr_jax.deploy.pictures import Canvas, Picture, from_array, from_pillow, in_8_bits
from binsr_jax.errors import TooLargeError, UserError
from binsr_jax.files import open_regular, replacing
from binsr_jax.image_files import FORMATS

_OPTIONS = {
    "PNG": {"compress_level": 3},  # a third of the usual level's time, 2% more bytes
    "JPEG": {"subsampling": 0},
    "TIFF": {"compression": "tiff_lzw"},
}


def picture_size(file: Path, most_pixels: int) -> tuple[int, int]:
    """(width, height) of an image file when it is upright, from its header.

    Raises:
        UserError: as ``read_picture``, as far as the header shows it.
    """
    with _named(file), open_regular(file) as source:
        return upright_size(open_picture(source, most_pixels, pixels=False))


def read_picture(file: Path, most_pixels: int) -> Picture:
    """Decodes the first frame of an image file.

    Args:
        file: PNG, JPEG, WebP, TIFF, BMP or GIF; its content decides, not its name.
        most_pixels: an image of more is not decoded: a small file can claim any size.

    Raises:
        UserError: the file is missing, is no such image, is cut off, has more pixels, or pixels of
            a kind that cannot be restored.
    """
    with _named(file), open_regular(file) as source:
        return _picture(open_picture(source, most_pixels))


def picture_of(image: Image.Image) -> Picture:
    """The pixels of a Pillow image, upright; one that is not decoded yet as ``read_picture`` does.

    Several channels of 16 bits become 8, since a Pillow image is to come of it.

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
                picture = _picture(open_picture(source, image.width * image.height))
                return in_8_bits(picture, "a Pillow image") if picture.deep else picture
            finally:
                source.seek(place)
    with _named(None):
        image.load()  # here, where it is an error if the file is damaged
        with contextlib.suppress(Exception):  # broken EXIF: the picture stays as it lies
            image = ImageOps.exif_transpose(image)
        return from_pillow(image)


def _picture(opened: Opened) -> Picture:
    if opened.more_frames:
        opened.notes.append("only its first frame is taken")
    image = decoded(opened)  # first: it is what fails where the file is damaged
    exif = b""
    if opened.exif is not None:
        try:
            exif = kept_exif(opened.exif)
        except ValueError:
            opened.notes.append("its EXIF cannot be read and is left out")
    if isinstance(image, np.ndarray):
        picture = from_array(image, opened.profile)
    else:
        image.info["icc_profile"] = opened.profile
        picture = from_pillow(image)
    notes = (*opened.notes, *picture.notes)
    form = opened.image.format or ""
    return replace(picture, exif=exif, dpi=_known(opened.dpi), notes=notes, form=form)


def write_picture(
    image: Canvas,
    file: Path,
    *,
    profile: bytes | None = None,
    exif: bytes = b"",
    dpi: tuple[float, float] | None = None,
    quality: int = 95,
) -> None:
    """Writes an image, so that there is never half a file under its name.

    Args:
        image: a canvas; an array goes into PNG and TIFF alone.
        file: its suffix, one of ``FORMATS``, says the format.
        profile: ICC profile to go with it.
        exif: EXIF to go with it.
        dpi: dots an inch, across and down.
        quality: 1 to 100, of JPEG and WebP.

    Raises:
        UserError: the file cannot be written.
    """
    form = FORMATS[file.suffix.lower()]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as opened:
            output = cast(BinaryIO, opened)
            if isinstance(image, Image.Image):
                image.save(output, form, **_options(form, profile, exif, dpi, quality))
            elif form == "PNG":
                for part in deep.png_parts(image, profile=profile, exif=exif, dpi=dpi):
                    output.write(part)
            else:
                deep.write_tiff(output, image, profile=profile, dpi=dpi)
            if exif and form == "TIFF":
                add_exif(output, exif)
    except MemoryError:
        raise
    except Exception as error:  # encoders raise any of a dozen types where a format ends
        raise UserError(f"Cannot write {file} ({reason_of(error)}).") from error


def write_restored(image: Canvas, picture: Picture, file: Path, quality: int) -> None:
    """Writes the result of a picture with the picture's metadata; see ``write_picture``."""
    write_picture(
        image,
        file,
        profile=picture.profile,
        exif=picture.exif,
        dpi=picture.dpi,
        quality=quality,
    )


def _options(
    form: str, profile: bytes | None, exif: bytes, dpi: tuple[float, float] | None, quality: int
) -> dict[str, Any]:
    """What Pillow is told when it saves a file."""
    options: dict[str, Any] = dict(_OPTIONS.get(form, {}))
    if form in ("JPEG", "WEBP"):
        options["quality"] = quality
    if exif and form != "TIFF":  # into which Pillow writes no other text than ASCII
        options["exif"] = exif
    if profile is not None:
        options["icc_profile"] = profile
    if dpi is not None and form != "WEBP":  # which has no place for it
        options["dpi"] = dpi
    return options


@contextlib.contextmanager
def _named(file: Path | None) -> Iterator[None]:
    """Turns whatever goes wrong while an image is read into a sentence about its file."""
    name = f"the image {file}" if file else "the image"
    try:
        yield
    except TooLargeError as error:
        way = "if you trust it, raise --max-megapixels"
        raise TooLargeError(f"{file or 'The image'}: {error}; {way}.") from error
    except UserError as error:
        raise type(error)(f"{file or 'The image'}: {str(error).rstrip('.')}.") from error
    except MemoryError:
        raise
    except Exception as error:  # decoders raise any of a dozen types on broken data
        raise UserError(f"Cannot read {name} ({reason_of(error)}).") from error


def _known(dpi: Any) -> tuple[float, float] | None:
    """Dots an inch as two numbers, if they are any."""
    try:
        across, down = (float(value) for value in dpi or ())
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    # One dot an inch is how Pillow writes that nothing is known.
    known = all(1 < value < math.inf for value in (across, down))
    return (across, down) if known else None
