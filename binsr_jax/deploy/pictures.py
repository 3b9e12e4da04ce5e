"""Pictures with their metadata: transparency, colour profile and EXIF; and canvases for results."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from binsr_jax import enhance
from binsr_jax.deploy.alpha import filled
from binsr_jax.errors import UserError
from binsr_jax.image_files import FORMATS

_LARGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383}  # limits of libjpeg and of the WebP format
_DEEP = {"PNG", "TIFF"}  # can hold 16 bits
_CLEAR = {"PNG", "WEBP", "TIFF"}  # can hold transparency
_MOST_DPI = 65_535  # JPEG's limit
_LARGEST_PROFILE = 2**23
_OTHER_PROFILE = "its colour profile does not belong to such pixels and is left out"

# Where the result of a picture is put together: a Pillow image; or uint16 ``[H, W, C]`` with its
# opacity, if it has several channels of 16 bits, for which Pillow has no mode.
Canvas = Image.Image | np.ndarray


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright.

    Attributes:
        pixels: uint8 or uint16 ``[H, W, 1]`` (grey) or ``[H, W, 3]`` (RGB).
        alpha: Its opacity, ``[H, W]`` of the same type, or None.
        profile: Its ICC profile, or None.
        exif: The part of its EXIF that is copied to outputs; may be empty.
        dpi: Its dots per inch, horizontally and vertically, or None.
        notes: Unexpected changes to it, as short clauses.
        form: The format of its file, as in ``FORMATS``; may be empty.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    profile: bytes | None = None
    exif: bytes = b""
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    form: str = ""

    @property
    def deep(self) -> bool:
        """Whether it has several channels of 16 bits, for which Pillow has no mode."""
        several = self.pixels.shape[-1] > 1 or self.alpha is not None
        return several and self.pixels.dtype == np.uint16


def from_pillow(image: Image.Image) -> Picture:
    """The pixels of a Pillow image of any mode, and its profile; its EXIF is not read.

    Palettes are looked up. 1-bit and grey images stay grey, 16-bit grey keeps its bits, and CMYK
    becomes RGB, by its ICC profile if it has one. Fully transparent pixels get the colours of the
    visible ones around them, since a network would see the hidden colours.

    Raises:
        UserError: The image has floats, 32-bit integers or another colour space.
    """
    profile = image.info.get("icc_profile") or None
    if image.mode == "CMYK":
        rgb, note = _rgb_of_cmyk(image, profile)
        return Picture(np.asarray(rgb), notes=(note,))
    deep, grey = image.mode.startswith("I;16"), image.mode in ("1", "L", "LA", "La")
    others = ("P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr", "HSV")
    if not deep and not grey and image.mode not in others:
        raise UserError(
            f"Pixels of Pillow's mode {image.mode!r} cannot be restored; convert the image to "
            "RGB or grey of 8 or 16 bits."
        )
    notes = []
    if profile is not None and not _fits(profile, grey or deep):
        profile = None
        notes.append(_OTHER_PROFILE)
    alpha = None
    if deep:
        if image.has_transparency_data:
            notes.append("its transparent grey is left out")
        pixels = np.asarray(image).astype(np.uint16)[..., None]
    elif not image.has_transparency_data:
        pixels = np.asarray(image.convert("L" if grey else "RGB"))
        pixels = pixels.reshape(*pixels.shape[:2], -1)
    else:
        bands = np.asarray(image.convert("LA" if grey else "RGBA"))
        alpha = bands[..., -1]
        pixels = filled(bands[..., :-1], alpha)
    return Picture(pixels, alpha, profile, notes=tuple(notes))


def from_array(array: np.ndarray, profile: bytes | None) -> Picture:
    """A picture of uint16 ``[H, W, C]``: grey or RGB, and opacity for C = 2 and 4."""
    clear = array.shape[-1] in (2, 4)
    pixels, alpha = (array[..., :-1], array[..., -1]) if clear else (array, None)
    notes = ()
    if profile is not None and not _fits(profile, pixels.shape[-1] == 1):
        profile, notes = None, (_OTHER_PROFILE,)
    return Picture(pixels if alpha is None else filled(pixels, alpha), alpha, profile, notes=notes)


def in_8_bits(picture: Picture, where: str) -> Picture:
    """The same picture, whose 16 bits are rounded, with a note that ``where`` holds no more."""
    if picture.pixels.dtype == np.uint8:
        return picture
    alpha = None if picture.alpha is None else _rounded(picture.alpha)
    notes = (*picture.notes, f"its 16 bits become 8, all that {where} holds")
    return replace(picture, pixels=_rounded(picture.pixels), alpha=alpha, notes=notes)


def _rounded(values: np.ndarray) -> np.ndarray:
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def fitted(picture: Picture, file: Path, scale: int) -> Picture:
    """The picture in a form that its output file can hold: 8 bits, or without transparency.

    Raises:
        UserError: ``scale`` times the picture is too large for the file's format.
    """
    form = FORMATS[file.suffix.lower()]
    side = scale * max(picture.pixels.shape[:2])
    if side > _LARGEST_SIDE.get(form, side):
        raise UserError(
            f"{form} holds sides of at most {_LARGEST_SIDE[form]} pixels, and {file} would have "
            f"{side}; choose another format, such as -f png."
        )
    if form not in _DEEP:
        picture = in_8_bits(picture, form)
    pixels, alpha, notes = picture.pixels, picture.alpha, list(picture.notes)
    if alpha is not None and form not in _CLEAR:
        opacity = alpha.astype(np.uint16)[..., None]
        pixels = ((pixels * opacity + (255 - opacity) * 255 + 127) // 255).astype(np.uint8)
        alpha = None
        notes.append(f"it is laid on white, since {form} has no transparency")
    profile, dpi = picture.profile, picture.dpi
    if form == "WEBP" and profile is not None and profile[16:20] == b"GRAY":
        profile = None
        notes.append("its profile of grey is left out, since WEBP has only colour")
    if dpi is not None:  # keeps the size on paper
        dpi = (scale * dpi[0], scale * dpi[1]) if scale * max(dpi) <= _MOST_DPI else None
    return replace(
        picture, pixels=pixels, alpha=alpha, profile=profile, dpi=dpi, notes=tuple(notes)
    )


def canvas(picture: Picture, scale: int) -> Canvas:
    """An empty canvas for the result, ``scale`` times as large, with the same kind of pixels."""
    height, width, channels = picture.pixels.shape
    if picture.deep:
        bands = channels + (picture.alpha is not None)
        return np.empty((scale * height, scale * width, bands), np.uint16)
    grey = "L" if picture.pixels.dtype == np.uint8 else "I;16"
    return Image.new("RGB" if channels == 3 else grey, (scale * width, scale * height))


def paste(image: Canvas, rows: slice, columns: slice, pixels: np.ndarray) -> None:
    """Writes pixels ``[h, w, 1 or 3]`` into a canvas."""
    if isinstance(image, np.ndarray):
        image[rows, columns, : pixels.shape[-1]] = pixels
        return
    image.paste(
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels),
        (columns.start, rows.start),
    )


def enhance_canvas(
    image: Canvas, steps: Sequence[enhance.Step], before: enhance.Input | None
) -> None:
    """Applies steps of ``binsr_jax.enhance`` to a canvas, in place."""
    if not any(step.strength for step in steps):
        return
    if isinstance(image, np.ndarray):
        (height, width), dtype = image.shape[:2], image.dtype
    else:
        height, width = image.height, image.width
        dtype = np.dtype(np.uint8 if image.mode in ("L", "RGB") else np.uint16)

    def rows(start: int, stop: int) -> np.ndarray:
        if isinstance(image, np.ndarray):
            pixels = image[start:stop, :, : 1 if image.shape[-1] == 2 else 3]
        else:
            pixels = np.asarray(image.crop((0, start, width, stop))).astype(dtype)
            pixels = pixels.reshape(stop - start, width, -1)
        return enhance.rows_of(pixels)(0, len(pixels))

    for start, strip in enhance.enhanced_strips(rows, height, steps, before):
        rows_of_strip = slice(start, start + len(strip))
        paste(image, rows_of_strip, slice(0, width), enhance.as_type(strip, dtype))


def finish(image: Canvas, picture: Picture) -> None:
    """Adds the picture's transparency, enlarged by bicubic, to a canvas."""
    if picture.alpha is None:
        return
    if isinstance(image, np.ndarray):
        image[..., -1] = bicubic(picture.alpha, len(image) // len(picture.alpha))
    else:
        scale = image.height // len(picture.alpha)
        image.putalpha(Image.fromarray(bicubic(picture.alpha, scale)))


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


def _fits(profile: bytes, grey: bool) -> bool:
    """Whether it is an ICC profile for grey or RGB pixels; grey pixels can have either."""
    spaces = (b"GRAY", b"RGB ") if grey else (b"RGB ",)
    whole = 132 <= len(profile) <= _LARGEST_PROFILE and profile[36:40] == b"acsp"
    return whole and profile[16:20] in spaces


def _rgb_of_cmyk(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, str]:
    if profile is not None:
        try:
            rgb = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
            assert rgb is not None  # only in-place conversion returns None
            return rgb, "its CMYK becomes sRGB by its profile"
        except (ImageCms.PyCMSError, OSError, ValueError):  # a broken profile counts as none
            pass
    return image.convert("RGB"), "its CMYK becomes RGB without a profile"
