"""The finished parts of a video, in a folder beside its output, so that a run can continue."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from binsr_jax.errors import UserError
from binsr_jax.files import open_lock, replace_bytes, replace_text
from binsr_jax.video.encoder import Packets

# Frames of a part. Each part starts with a key frame, which is one every two seconds at 30 frames
# per second. After a kill, at most this number of frames is computed again.
LENGTH = 60
_HASHED = 2**20  # bytes at each end of a file


@dataclass(frozen=True)
class Part:
    """Some consecutive frames, encoded.

    Attributes:
        packets: The frames.
        end: The end of the last displayed frame.
    """

    packets: Packets
    end: int


class Parts:
    """A folder of parts; see ``claim``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def count(self) -> int:
        """The number of finished parts, counted from the first."""
        number = 0
        while self._file(number).is_file():
            number += 1
        return number

    def add(self, part: Part) -> None:
        """Writes the next part.

        Raises:
            UserError: It cannot be written.
        """
        packets = part.packets
        arrays = {
            "times": packets.times,
            "keys": packets.keys,
            "sizes": np.array([len(data) for data in packets.data], np.int64),
            "data": np.frombuffer(b"".join(packets.data), np.uint8),
            "header": np.frombuffer(packets.header, np.uint8),
            "end": np.array([part.end], np.int64),
        }
        try:
            replace_bytes(self._file(self.count()), safetensors.numpy.save(arrays))
        except OSError as error:
            raise UserError(
                f"Cannot write {self.folder} ({error.strerror}): make room and start again, and it "
                "continues there."
            ) from error

    def read(self, number: int) -> Part:
        """A finished part."""
        try:
            arrays = safetensors.numpy.load_file(self._file(number))
        except safetensors.SafetensorError as error:
            raise UserError(f"{self._file(number)} is damaged: remove {self.folder}.") from error
        data, ends = arrays["data"].tobytes(), np.cumsum(arrays["sizes"])
        packets = Packets(
            arrays["times"],
            arrays["keys"],
            [data[end - size : end] for end, size in zip(ends, arrays["sizes"], strict=True)],
            arrays["header"].tobytes(),
        )
        return Part(packets, int(arrays["end"][0]))

    def times(self, number: int) -> tuple[np.ndarray, int]:
        """The time stamps of a finished part in decoding order, and its end."""
        with safetensors.safe_open(self._file(number), framework="numpy") as file:
            return file.get_tensor("times"), int(file.get_tensor("end")[0])

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.safetensors"


@contextlib.contextmanager
def claim(target: Path, job: Mapping[str, Any]) -> Iterator[Parts]:
    """Locks the folder of an output's parts, and removes parts of another job.

    If the block succeeds, the folder is deleted. If it fails, the folder stays.

    Args:
        target: The output.
        job: All that the parts depend on, as JSON values.

    Raises:
        UserError: Another process has locked it, or it cannot be written.
    """
    folder = target.with_name(f".{target.name}.parts")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if folder.is_symlink():
            raise UserError(f"The folder for parts {folder} is a link: remove it.")
        folder.mkdir(exist_ok=True)
        lock = open_lock(folder / "lock")
    except OSError as error:
        raise UserError(f"Cannot write {folder} ({error.strerror}): choose another -o.") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"Another process is making {target}: wait for it to end, or choose another -o."
            ) from None
        _keep_only(folder, json.dumps(job, indent=1, sort_keys=True))
        yield Parts(folder)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)


def _keep_only(folder: Path, job: str) -> None:
    """Empties a folder unless it is of this job."""
    record = folder / "job.json"
    try:
        if not record.is_file() or record.read_text(encoding="utf-8") != job:
            for file in folder.iterdir():
                if file.name != "lock":
                    file.unlink()
            replace_text(record, job)
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot use the folder {folder} ({error}): remove it.") from error


def fingerprint(file: Path) -> str:
    """A hash of a file's size, its time of change, and its first and last bytes."""
    digest = hashlib.sha256()
    status = file.stat()
    digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    with file.open("rb") as opened:
        digest.update(opened.read(_HASHED))
        opened.seek(max(0, status.st_size - _HASHED))
        digest.update(opened.read(_HASHED))
    return digest.hexdigest()
