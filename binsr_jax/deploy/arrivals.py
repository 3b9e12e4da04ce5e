"""Waits for image files that arrive in folders.

The folders are listed again and again. File events of the system would not be enough: network
folders and some containers send none, and on some systems none says that a file is complete.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from binsr_jax.image_files import list_images

# The state of a file: its inode, its size, and the time of its last change.
_State = tuple[int, int, int]


def arrivals(folders: Sequence[Path], pause: Callable[[], object]) -> Iterator[list[Path]]:
    """Yields the image files that are new or have changed, as soon as they are complete.

    A file counts as complete if it did not change between two listings. If its writer pauses for
    longer, the file is yielded before it is complete, and again after it has changed.

    Args:
        folders: The folders. The files that are in them at the start are yielded too.
        pause: Called between two listings; it waits.

    Raises:
        UserError: A folder cannot be read (any more).
    """
    before: dict[Path, _State] = {}
    yielded: dict[Path, _State] = {}
    while True:
        now = dict(_states(folders))
        yielded = {file: state for file, state in yielded.items() if file in now}
        complete = {file: state for file, state in now.items() if before.get(file) == state}
        new = {file: state for file, state in complete.items() if yielded.get(file) != state}
        if new:
            yielded |= new
            yield list(new)
        before = now
        pause()


def _states(folders: Sequence[Path]) -> Iterator[tuple[Path, _State]]:
    for folder in folders:
        for file in list_images(folder):
            try:
                state = file.stat()
            except OSError:  # a dangling link, or a file that has just been removed
                continue
            yield file, (state.st_ino, state.st_size, state.st_mtime_ns)
