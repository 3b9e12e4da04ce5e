"""Pictures with what belongs to them: transparency, colour profile and EXIF, in files and out."""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageFile, ImageOps

from binsr_jax.errors import UserError

# The formats that are written, by the suffixes of their files.
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
_READ = (*dict.fromkeys(FORMATS.values()), "BMP", "GIF")
_LARGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}  # libjpeg's and the format's own
_OPTIONS = {
    "PNG": {"compress_level": 3},  # a third of the usual level's time, 2% more bytes
    "JPEG": {"subsampling": 0},
    "TIFF": {"compression": "tiff_lzw"},
}
_DEEP = {"PNG", "TIFF"}  # can hold 16 bits of grey
_CLEAR = {"PNG", "WEBP", "TIFF"}  # can hold transparency

_EXIF, _GPS = 0x8769, 0x8825
# What is kept of the EXIF beside those two: description, maker, model, software, date, artist,
# copyright. The rest describes the layout of the old file, or the orientation, which is applied.
_KEPT_TAGS = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
_OLD_SIZE = (0xA002, 0xA003)


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright.

    Attributes:
        pixels: uint8 or uint16 ``[H, W, 1]`` (grey) or ``[H, W, 3]`` (RGB).
        alpha: its opacity, uint8 ``[H, W]``, or None.
        profile: its ICC profile, or None.
        exif: what is kept of its EXIF; may be empty.
        notes: what was done to it that its owner may not expect, as short clauses.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    profile: bytes | None = None
    exif: bytes = b""
    notes: tuple[str, ...] = ()


def picture_size(file: Path, most_pixels: int) -> tuple[int, int]:
    """(width, height) of an image file, from its header.

    Raises:
        UserError: as ``read_picture``, as far as the header shows it.
    """
    with _opened(file, most_pixels) as image:
        return image.size


def read_picture(file: Path, most_pixels: int) -> Picture:
    """Decodes the first frame of an image file.

    Args:
        file: PNG, JPEG, WebP, TIFF, BMP or GIF; its content decides, not its name.
        most_pixels: an image of more is not decoded: a small file can claim any size.

    Raises:
        UserError: the file is missing, is no such image, is cut off, has more pixels, or pixels of
            a kind that cannot be restored.
    """
    with _opened(file, most_pixels) as image:
        notes = []
        if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
            notes.append("only its first frame is taken")
        layout = str(image.tile)  # how the pixels are stored; gone after load()
        exif = b""
        try:
            exif = _kept_exif(image.getexif())
        except Exception:  # as many types as there are ways to break it
            notes.append("its EXIF cannot be read and is left out")
        image.load()
        with contextlib.suppress(Exception):  # broken EXIF again: the picture stays as it lies
            ImageOps.exif_transpose(image, in_place=True)
        if ";16" in layout and not image.mode.startswith("I"):
            notes.append("its 16-bit colours are read as 8 bits")
        picture = from_pillow(image.convert("LA") if "'LA;16" in layout else image)
    return replace(picture, exif=exif, notes=(*notes, *picture.notes))


def from_pillow(image: Image.Image) -> Picture:
    """The pixels of a Pillow image, of whatever mode, and its profile; its EXIF is not looked at.

    Palettes are looked up, 1-bit and grey stay grey, grey of 16 bits keeps them, and CMYK becomes
    RGB, by its ICC profile if it has one.

    Raises:
        UserError: the image is of floats, of 32-bit integers or in another colour space.
    """
    profile = image.info.get("icc_profile") or None
    if image.mode == "CMYK":
        rgb, note = _rgb_of_cmyk(image, profile)
        return Picture(np.asarray(rgb), notes=(note,))
    if image.mode.startswith("I;16"):
        notes = ("its transparent grey is left out",) if image.has_transparency_data else ()
        grey = np.asarray(image).astype(np.uint16)
        return Picture(grey[..., None], profile=profile, notes=notes)
    grey = image.mode in ("1", "L", "LA", "La")
    if not grey and image.mode not in ("P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr", "HSV"):
        raise UserError(
            f"Pixels of Pillow's mode {image.mode!r} cannot be restored; convert the image to "
            "8-bit RGB or grey, or to 16-bit grey."
        )
    if not image.has_transparency_data:
        pixels = np.asarray(image.convert("L" if grey else "RGB"))
        return Picture(pixels.reshape(*pixels.shape[:2], -1), profile=profile)
    bands = np.asarray(image.convert("LA" if grey else "RGBA"))
    return Picture(bands[..., :-1], bands[..., -1], profile)


def fitted(picture: Picture, file: Path, scale: int) -> Picture:
    """The picture in a form that its output file can hold: 8 bits, or without transparency.

    Raises:
        UserError: ``scale`` times the picture is more than the file's format can hold.
    """
    form, notes = FORMATS[file.suffix.lower()], list(picture.notes)
    side = scale * max(picture.pixels.shape[:2])
    if side > _LARGEST_SIDE.get(form, side):
        raise UserError(
            f"{form} holds sides of at most {_LARGEST_SIDE[form]} pixels, and {file} would have "
            f"{side}; choose another format, such as -f png."
        )
    pixels, alpha = picture.pixels, picture.alpha
    if pixels.dtype == np.uint16 and form not in _DEEP:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
        notes.append(f"its 16 bits become 8, all that {form} holds")
    if alpha is not None and form not in _CLEAR:
        opacity = alpha.astype(np.uint16)[..., None]
        pixels = ((pixels * opacity + (255 - opacity) * 255 + 127) // 255).astype(np.uint8)
        alpha = None
        notes.append(f"it is laid on white, since {form} has no transparency")
    return replace(picture, pixels=pixels, alpha=alpha, notes=tuple(notes))


def canvas(picture: Picture, scale: int) -> Image.Image:
    """An empty image of ``scale`` times the picture's size that can hold what is made of it."""
    height, width, channels = picture.pixels.shape
    grey = "L" if picture.pixels.dtype == np.uint8 else "I;16"
    return Image.new("RGB" if channels == 3 else grey, (scale * width, scale * height))


def paste(image: Image.Image, rows: slice, columns: slice, pixels: np.ndarray) -> None:
    """Puts pixels ``[h, w, 1 or 3]`` into their place in an image from ``canvas``."""
    image.paste(
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels),
        (columns.start, rows.start),
    )


def finish(image: Image.Image, picture: Picture) -> None:
    """Gives an enlarged image the picture's transparency, bicubic, and its colour profile."""
    if picture.alpha is not None:
        scale = image.height // len(picture.alpha)
        image.putalpha(Image.fromarray(bicubic(picture.alpha, scale)))
    if picture.profile is not None:
        image.info["icc_profile"] = picture.profile


def bicubic(plane: np.ndarray, scale: int) -> np.ndarray:
    """Enlarges one channel ``[H, W]`` to ``[scale H, scale W]`` of the same type.

    uint8 and uint16 are rounded, floats are clipped to 0..1.
    """
    size = (scale * plane.shape[1], scale * plane.shape[0])
    if plane.dtype == np.uint8:
        return np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC))
    image = Image.fromarray(plane.astype(np.float32))
    large = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    if plane.dtype == np.uint16:
        return np.rint(np.clip(large, 0, 65535)).astype(np.uint16)
    return np.clip(large, 0, 1).astype(plane.dtype)


def write_picture(image: Image.Image, file: Path, *, exif: bytes = b"", quality: int = 95) -> None:
    """Writes an image beside its final name and renames it, so that there is never half a file.

    Args:
        image: its ``info["icc_profile"]`` is written, if there is one.
        file: its suffix, one of ``FORMATS``, says the format.
        exif: EXIF to go with it.
        quality: 1 to 100, of JPEG and WebP.

    Raises:
        UserError: the file cannot be written.
    """
    form = FORMATS[file.suffix.lower()]
    options: dict[str, Any] = dict(_OPTIONS.get(form, {}))
    if form in ("JPEG", "WEBP"):
        options["quality"] = quality
    if exif:
        options["exif"] = exif
        options.pop("compression", None)  # Pillow cannot write EXIF into a compressed TIFF
    if profile := image.info.get("icc_profile"):
        options["icc_profile"] = profile
    beside = file.with_name(f".{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(beside, form, **options)
        os.replace(beside, file)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"Cannot write {file} ({_reason(error)}).") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


@contextlib.contextmanager
def _opened(file: Path, most_pixels: int) -> Iterator[ImageFile.ImageFile]:
    """Opens an image; whatever goes wrong while it is open is a sentence about the file."""
    usual = Image.MAX_IMAGE_PIXELS
    try:
        with warnings.catch_warnings():
            # Pillow warns above its limit and refuses above twice that; here both refuse.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            Image.MAX_IMAGE_PIXELS = most_pixels
            with Image.open(file, formats=_READ) as image:
                yield image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(
            f"{file} has more than {most_pixels / 1e6:g} megapixels, which may be an attack; if "
            "you trust it, raise --max-megapixels."
        ) from error
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except Exception as error:  # decoders raise any of a dozen types on broken data
        raise UserError(f"Cannot read the image {file} ({_reason(error)}).") from error
    finally:
        Image.MAX_IMAGE_PIXELS = usual


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is no PNG, JPEG, WebP, TIFF, BMP or GIF"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).rstrip(".") or type(error).__name__


def _kept_exif(exif: Image.Exif) -> bytes:
    kept = Image.Exif()
    kept.update({tag: exif[tag] for tag in _KEPT_TAGS if tag in exif})
    for directory in (_EXIF, _GPS):
        values = exif.get_ifd(directory)
        values = {tag: value for tag, value in values.items() if tag not in _OLD_SIZE}
        if values:
            kept[directory] = values
    return kept.tobytes() if len(kept) else b""


def _rgb_of_cmyk(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str]:
    if profile is not None:
        try:
            rgb = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
            assert rgb is not None  # only in-place conversion returns nothing
            return rgb, "its CMYK becomes sRGB by its profile"
        except (ImageCms.PyCMSError, OSError):  # a broken profile is as good as none
            pass
    return image.convert("RGB"), "its CMYK becomes RGB without a profile"
