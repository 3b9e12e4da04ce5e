"""Opens and writes files safely: reads regular files only, writes beside the name and renames."""

import contextlib
import errno
import io
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

NO_REGULAR_FILE = "it is a folder, a pipe or a device, and no regular file"


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with the user's folder for a leading ``~``, which stays if it names no user.

    ``Path.expanduser`` raises an exception for an unknown user, or without a home.
    """
    return Path(os.path.expanduser(path))


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Opens a regular file for reading, without waiting for a pipe or touching a device.

    Raises:
        OSError: There is no such file, or it is no regular file.
    """
    # O_NONBLOCK: if the path is a pipe, this does not wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, NO_REGULAR_FILE, str(path))
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


class Output:
    """A new file for writing, without the file descriptor of a real one.

    Encoders in C write to a descriptor if they find one, and some ignore failed writes. Here they
    have to call ``write``, where every failure raises an exception.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Writes all of ``data`` at the current position."""
        count = self._file.write(data)
        self.size = max(self.size, self._file.tell())
        return count

    def read(self, count: int = -1) -> bytes:
        """Written bytes, from the current position."""
        return self._file.read(count)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to another position."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The current position."""
        return self._file.tell()

    def flush(self) -> None:
        """Passes the written bytes to the system."""
        self._file.flush()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Output]:
    """Writes a file under a random name beside its own, and renames it when it is complete.

    So no failure leaves half a file under that name, two programs can write the same file, and a
    link under the temporary name is not followed.

    Raises:
        OSError: The file cannot be written, or ``path`` is no regular file.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError(errno.EINVAL, NO_REGULAR_FILE, str(path))
    beside = path.with_name(f".{secrets.token_hex(8)}.part")  # short, however long the name is
    try:
        with open(beside, "x+b") as file:
            output = Output(file)
            yield output
            file.flush()
            os.fsync(file.fileno())  # the name must not reach the disk before the bytes
            size = os.fstat(file.fileno()).st_size
            if size != output.size:
                raise OSError(errno.EIO, f"{size} of {output.size} bytes were written", str(path))
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def replace_bytes(path: Path, content: bytes) -> None:
    """Writes a file with this content; see ``replacing``."""
    with replacing(path) as output:
        output.write(content)


def replace_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8; see ``replacing``."""
    replace_bytes(path, text.encode())


def open_lock(path: Path) -> int:
    """Opens a lock file, creates it if missing, and returns its descriptor; follows no link."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, 0o644)


def printable(text: str) -> str:
    r"""The text in one line: control characters and unprintable ones as escapes such as ``\n``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def printable_lines(text: str) -> str:
    """Each line of a text, as ``printable`` shows it. Names within it need ``printable`` before."""
    return "\n".join(map(printable, text.split("\n")))


def _escaped(character: str) -> str:
    """The escape of a byte that is not UTF-8, or of a character as Python writes it."""
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
