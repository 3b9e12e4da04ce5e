"""The folder in which this package keeps what it computes once."""

import functools
import logging
import os
import stat
import tempfile
from pathlib import Path

_NAMED: set[Path] = set()  # temporary folders that a log line has named


@functools.cache
def cache_folder(name: str) -> Path:
    """``~/.cache/binsr-jax/NAME``, or a temporary folder of this user if there is no home.

    Raises:
        OSError: Neither can be created.
    """
    try:
        folder = Path.home() / ".cache" / "binsr-jax" / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
        reason = f"{folder} cannot be written"
    except OSError as error:
        reason = f"{error.filename} ({error.strerror})"
    except RuntimeError as error:  # neither HOME nor an entry for the user
        reason = str(error).rstrip(".")
    root = Path(tempfile.gettempdir()) / f"binsr-jax-{os.getuid()}"
    if root not in _NAMED:
        _NAMED.add(root)
        logging.getLogger("binsr_jax").warning("%s: the cache is in %s instead", reason, root)
    root.mkdir(exist_ok=True, mode=0o700)
    found = root.lstat()
    # Other users may write to the temporary folder: use a subfolder only if it is ours alone.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(1, "is not a folder of this user's alone", str(root))
    folder = root / name
    folder.mkdir(exist_ok=True, mode=0o700)
    return folder
