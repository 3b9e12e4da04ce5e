"""Opens video files without following what they name, and decodes their frames."""

import collections
import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition

from binsr_jax.errors import UserError
from binsr_jax.files import open_regular

# Containers that hold their streams themselves. A playlist would name other files or addresses.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,mxf,nut,dv,rm,ivf"


@contextlib.contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """Opens a video file, but no other file or address that it names.

    Raises:
        UserError: It is missing or broken, or is no video.
    """
    with named(path):
        open_regular(path).close()
        options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
        name = f"file:{path.absolute()}"
        with av.open(name, container_options=options, metadata_errors="replace") as container:
            yield container


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Turns errors of the block into a ``UserError`` that names the file."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {str(error).rstrip('.')}.") from error
    except (av.error.FFmpegError, OSError) as error:
        if isinstance(error, av.error.ArgumentError | av.error.InvalidDataError):
            reason = "it is broken, or no MP4, MOV, Matroska, WebM, AVI, MPEG or other video"
        else:
            reason = error.strerror or str(error)
        raise UserError(f"Cannot read the video {path} ({reason}).") from error


def is_cover(stream: Any) -> bool:
    """Whether a stream is a still picture, such as an album's cover."""
    return bool(stream.disposition & Disposition.attached_pic)


def decoded(container: InputContainer, stream: Any) -> Iterator[Any]:
    """The frames of a stream, in the order in which they are shown.

    Raises:
        UserError: The stream is damaged; the sentence names the time.
    """
    stream.thread_type = "AUTO"
    time = 0.0
    # AVI has no time stamps: FFmpeg counts packets, which are in decoding order.
    counted: collections.deque[int] = collections.deque()
    late: int | None = None  # from the decoding of the first frame to its display
    for packet in container.demux(stream):
        if container.format.name == "avi" and packet.size and packet.dts is not None:
            late = (packet.pts or packet.dts) - packet.dts if late is None else late
            counted.append(packet.dts + late)
        try:
            frames = packet.decode()
        except av.error.InvalidDataError as error:
            raise UserError(
                f"it is damaged after {clock(time)}; --to {clock(time)} takes the part before"
            ) from error
        for frame in frames:
            if counted:
                frame.pts = counted.popleft()
            time = frame.time or 0.0
            yield frame


def clock(seconds: float | Fraction) -> str:
    """A time as ``--from`` and ``--to`` take it."""
    minutes, rest = divmod(max(0.0, float(seconds)), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:06.3f}"
