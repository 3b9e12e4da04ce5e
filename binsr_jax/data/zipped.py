"""Training images in a zip file: one file to carry to another machine."""

import io
import zipfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from binsr_jax.data.images import unreadable
from binsr_jax.errors import UserError
from binsr_jax.files import open_regular, printable
from binsr_jax.image_files import IMAGE_SUFFIXES, is_named_as_image

_MOST_BYTES = 1 << 30  # of an image file that is read
_LISTED = 5  # most folders named in one line


class ZippedImages:
    """The image files of a folder in a zip file, sorted by name, without hidden files.

    They are read from the zip and never unpacked to disk. Folders below that folder do not count.

    Attributes:
        file: The zip file.
        names: The name of each image, without its folder.
        contents: The name, size and checksum of each image, as JSON values.
    """

    def __init__(self, path: Path):
        """Reads the directory of a zip.

        Args:
            path: ``IMAGES.zip`` for the images at its top, ``IMAGES.zip/FOLDER`` for those of a
                folder in it.

        Raises:
            UserError: There is no such file or folder, it is no zip, or it has no images.
        """
        self.file, folder = _split(path)
        try:
            self._zip = zipfile.ZipFile(open_regular(self.file))
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"Cannot read the zip file {self.file} ({reason}).") from error
        infos = {
            PurePosixPath(info.filename): info for info in self._zip.infolist() if not info.is_dir()
        }
        found = sorted(name for name in infos if name.parent == folder and is_named_as_image(name))
        if not found:
            folders = sorted({str(name.parent) for name in infos} - {str(folder)})
            listed = printable(", ".join(folders[:_LISTED]))
            way_out = f" Name one of its folders: {self.file}/FOLDER ({listed})." if listed else ""
            raise UserError(f"{path} has no images ({', '.join(IMAGE_SUFFIXES)}).{way_out}")
        self._infos = [infos[name] for name in found]
        self.names = tuple(name.name for name in found)
        self.contents = [[info.filename, info.file_size, info.CRC] for info in self._infos]

    def open(self, i: int) -> BinaryIO:
        """Image i as an open file; several threads may call this.

        Raises:
            UserError: It is damaged, encrypted, or larger than any image should be.
        """
        info = self._infos[i]
        try:
            if info.file_size > _MOST_BYTES:
                raise ValueError(f"it has {info.file_size} bytes")
            return io.BytesIO(self._zip.read(info))
        # Damaged zips raise many types of error, and encrypted ones RuntimeError.
        except Exception as error:
            raise unreadable(self.label(i), str(error)) from error

    def label(self, i: int) -> str:
        """The name of image i in messages."""
        return printable(f"{self.file}/{self._infos[i].filename}")


def _split(path: Path) -> tuple[Path, PurePosixPath]:
    """The zip file of a path, and the folder in it."""
    for file in (path, *path.parents):
        if file.is_file():
            return file, PurePosixPath(path.relative_to(file).as_posix())
    raise UserError(f"There is no zip file {path}; set config.data.dir to a zip of images.")
