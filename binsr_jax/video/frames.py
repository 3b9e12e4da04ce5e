"""The frames of a part of a video, one after the other."""

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import av
import av.error
import numpy as np

from binsr_jax.errors import UserError
from binsr_jax.video.container import clock, decoded, opened
from binsr_jax.video.planes import planes_of
from binsr_jax.video.source import Video

_AHEAD = 4  # decoded frames that wait while one is restored
_SHORT = 1  # a file that ends so many seconds earlier than it states gets a note

Item = TypeVar("Item")


@dataclass(frozen=True)
class Frame:
    """A decoded frame.

    Attributes:
        time: When it is shown, in units of the video's time base.
        duration: For how long, in the same units.
        planes: See ``colour.to_rgb``.
    """

    time: int
    duration: int
    planes: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Span:
    """The part of a video that is taken, in seconds from where a player starts.

    Attributes:
        start: Where it begins.
        end: Where it ends, or None for the end of the video.
    """

    start: Fraction = Fraction(0)
    end: Fraction | None = None

    @property
    def whole(self) -> bool:
        """Whether it leaves nothing out."""
        return not self.start and self.end is None

    def limits(self, origin: Fraction, unit: Fraction) -> tuple[int | None, int | None]:
        """The first time stamp and the one after the last, in units; None without a limit."""
        first = -int(-(origin + self.start) // unit) if self.start else None
        last = -int(-(origin + self.end) // unit) if self.end is not None else None
        return first, last

    def shift(self, unit: Fraction) -> int:
        """The units to subtract from time stamps, so that the part starts where the video did."""
        return round(self.start / unit)


class _NoPlaceError(Exception):
    """A file can only be decoded from its beginning."""


def read_frames(path: Path, video: Video, span: Span, notes: list[str]) -> Iterator[Frame]:
    """The frames of a part of a video; a thread decodes a few of them in advance.

    Args:
        path: The file.
        video: What ``probe`` says of it.
        span: The part; its frames keep the time stamps that they have in the file.
        notes: Clauses about oddities of the file are appended to it.

    Raises:
        UserError: The file is broken, or its time stamps do not rise.
    """
    first, last = span.limits(video.origin, video.time_base)
    yield from _ahead(_frames(path, video, first, last, notes))


def _frames(
    path: Path, video: Video, first: int | None, last: int | None, notes: list[str]
) -> Iterator[Frame]:
    before: av.VideoFrame | None = None
    interlaced = 0
    with contextlib.closing(_from(path, video.index, first)) as frames:
        for frame in frames:
            if (frame.width, frame.height) != (video.width, video.height):
                raise UserError(
                    f"its frames change their size at {clock(frame.time)}: cut it there with "
                    "--from and --to, or make them of one size first"
                )
            if frame.pts is None or (before is not None and frame.pts <= (before.pts or 0)):
                raise UserError(
                    f"its time stamps do not rise at {clock(frame.time or 0)}: copy it into a new "
                    "container first, such as with ffmpeg -fflags +genpts -i IN -c copy OUT.mkv"
                )
            if first is not None and frame.pts < first:
                continue
            if before is not None:
                yield _shown(before, frame.pts if last is None else min(frame.pts, last))
            before = frame
            if last is not None and frame.pts >= last:
                before = None
                break
            interlaced += bool(frame.interlaced_frame)
        if before is not None:
            assert before.pts is not None
            end = before.pts + (before.duration or round(1 / (video.rate * video.time_base)))
            stated = video.stated_end
            if stated is not None and last is None:
                # The duration of the last frame is that of the last one in decoding order.
                late = stated - end * video.time_base
                if late > _SHORT:
                    notes.append(
                        f"its pictures end at {clock(end * video.time_base)}, but it says that "
                        f"they go on to {clock(stated)}: it may be cut off"
                    )
                elif stated > before.pts * video.time_base:
                    end = round(stated / video.time_base)
            yield _shown(before, end if last is None else min(end, last))
    if interlaced:
        notes.append(f"{interlaced} of its frames are interlaced, and were not made whole")


def _shown(frame: av.VideoFrame, end: int) -> Frame:
    """A frame that is shown until ``end``."""
    assert frame.pts is not None
    return Frame(frame.pts, end - frame.pts, planes_of(frame))


def _from(path: Path, index: int, first: int | None) -> Generator[Any]:
    """The frames from the last key frame before a time stamp, or all if there is none."""
    if first is not None:
        with opened(path) as container, contextlib.suppress(_NoPlaceError):
            stream = container.streams[index]
            try:
                container.seek(first, stream=stream, backward=True)
            except av.error.FFmpegError as error:
                raise _NoPlaceError from error
            frames = decoded(container, stream)
            frame = next(frames, None)
            # Before its first key frame a decoder returns wrong pictures.
            if frame is not None and frame.key_frame and (frame.pts or 0) <= first:
                yield frame
                yield from frames
                return
    with opened(path) as container:
        yield from decoded(container, container.streams[index])


def _ahead(items: Iterable[Item], count: int = _AHEAD) -> Iterator[Item]:
    """The items; a thread makes up to ``count`` of them in advance."""
    waiting: queue.Queue[tuple[str, Any]] = queue.Queue(count)
    stopped = threading.Event()

    def put(kind: str, value: Any) -> bool:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put((kind, value), timeout=0.1)
                return True
        return False

    def make() -> None:
        try:
            for item in items:
                if not put("item", item):
                    return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stopped.set()
        thread.join()
