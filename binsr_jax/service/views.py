"""The two pictures of a comparison, in one size that a browser can show."""

from pathlib import Path

import numpy as np
from PIL import Image

from binsr_jax.deploy.listing import Options
from binsr_jax.deploy.picture_files import read_picture, write_picture
from binsr_jax.deploy.pictures import canvas, finish, fitted, paste

MOST_PIXELS = 12_000_000  # of a view, since phones cannot show more
PART = (1200, 900)  # width and height of a part at full size
_QUALITY = 92


def write_views(
    source: Path, target: Path, folder: Path, place: tuple[float, float] | None = None
) -> tuple[Path, Path]:
    """Writes two JPEG files of the same size: the picture, enlarged by bicubic, and its result.

    Args:
        source: The picture.
        target: Its result.
        folder: The folder of the two files.
        place: The centre of a part of ``PART`` pixels: across and down, each 0 to 1. None shows
            the whole, reduced to ``MOST_PIXELS`` if it is larger.
    """
    files = folder / "before.jpg", folder / "after.jpg"
    before, after = _shown(source, files[0]), _shown(target, files[1])
    if place is None:
        shrink = min(1.0, (MOST_PIXELS / (after.width * after.height)) ** 0.5)
        size = round(after.width * shrink) or 1, round(after.height * shrink) or 1
        images = [_resized(image, size, None) for image in (before, after)]
    else:
        width, height = min(PART[0], after.width), min(PART[1], after.height)
        left = round(place[0] * (after.width - width))
        top = round(place[1] * (after.height - height))
        box = (left, top, left + width, top + height)
        scale = after.width / before.width
        small = tuple(value / scale for value in box)
        images = [_resized(before, (width, height), small), after.crop(box)]
    for image, whole, file in zip(images, (before, after), files, strict=True):
        write_picture(image, file, profile=whole.info.get("icc_profile"), quality=_QUALITY)
    return files


def _shown(file: Path, view: Path) -> Image.Image:
    """A picture in 8 bits, upright, with transparent pixels on white."""
    picture = fitted(read_picture(file, Options().most_pixels * 64), view, 1)
    image = canvas(picture, 1)
    assert isinstance(image, Image.Image)  # as all of 8 bits
    height, width = picture.pixels.shape[:2]
    paste(image, slice(0, height), slice(0, width), np.ascontiguousarray(picture.pixels))
    finish(image, picture)
    image.info["icc_profile"] = picture.profile
    return image


def _resized(
    image: Image.Image, size: tuple[int, int], box: tuple[float, ...] | None
) -> Image.Image:
    if box is None and image.size == size:
        return image.copy()
    return image.resize(size, Image.Resampling.BICUBIC, box=box)  # pyright: ignore
