"""Which files are images, by their names; it imports no library, so commands answer quickly."""

import os
import stat
from pathlib import Path, PurePath

from binsr_jax.errors import UserError

# Of images that are read.
IMAGE_SUFFIXES = (
    ".png",
    ".apng",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".webp",
)

# The formats that are written, by the suffixes of their files.
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}


def list_images(folder: Path) -> list[Path]:
    """The image files directly in a folder, sorted by name, without hidden files.

    Folders, pipes, sockets and devices do not count, whatever their names are. A dangling link is
    listed, so that reading it reports what is missing.

    Raises:
        UserError: There is no such folder, or it cannot be read.
    """
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"Cannot read the folder {folder} ({error.strerror}).") from error
    return [file for file in files if is_named_as_image(file) and _may_be_a_file(file)]


def is_named_as_image(file: PurePath) -> bool:
    """Whether a file has the suffix of an image and is not hidden."""
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")


def _may_be_a_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return True
