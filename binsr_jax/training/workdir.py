"""The work dir: its lock and its error messages."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from binsr_jax.errors import UserError
from binsr_jax.files import open_lock


@contextlib.contextmanager
def writing_to(workdir: Path) -> Iterator[None]:
    """Turns a failed write below a work dir into one clear error.

    Raises:
        UserError: A write inside failed: a full or read-only disk, or missing permissions.
    """
    try:
        yield
    except OSError as error:
        raise unwritable(workdir, error) from error


def unwritable(workdir: Path, error: Exception) -> UserError:
    """The message for a work dir that cannot be written."""
    text = " ".join(str(error).split())
    reason = getattr(error, "strerror", None) or next(
        (reason for reason in ("No space left on device", "File too large") if reason in text),
        text[:200] or type(error).__name__,
    )
    if isinstance(error, FileExistsError | NotADirectoryError):
        return UserError(
            f"The work dir {workdir} cannot be made, because it or a part of its path is a file: "
            "choose another folder."
        )
    return UserError(
        f"The work dir {workdir} cannot be written ({reason}): free some space or correct its "
        "permissions and start again, or choose another folder."
    )


@contextlib.contextmanager
def claim(path: Path) -> Iterator[None]:
    """Makes the work dir and holds its lock, which the system releases when the process ends.

    Args:
        path: The folder.

    Raises:
        UserError: Another process holds it, or it cannot be written.
    """
    with writing_to(path):
        path.mkdir(parents=True, exist_ok=True)
        lock = open_lock(path / ".lock")
    try:
        try:
            # Not filelock: it truncates the file, which names the holder, before it has the lock.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 20).decode("ascii", "replace").strip() or "unknown"
            raise UserError(
                f"Another process (number {holder}) is training in {path}: wait for it to end, or "
                f"choose another --workdir."
            ) from None
        with writing_to(path):
            os.truncate(lock, 0)
            os.write(lock, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(lock)
