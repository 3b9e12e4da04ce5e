"""Video files that are read: what is in one, and its frames one after the other."""

import collections
import contextlib
import queue
import re
import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar, cast

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition
from av.video.reformatter import ColorRange

from binsr_jax.errors import UserError
from binsr_jax.files import open_regular
from binsr_jax.video.colour import BT709, RGB, UNSPECIFIED, Coding, matrix_of

# Containers that hold their streams themselves. A playlist would name other files and addresses.
_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,mxf,nut,dv,rm,ivf"
_FULL = int(ColorRange.JPEG)
_AHEAD = 4  # frames that are decoded while one is restored
_INTERLACED = (2, 3, 4, 5)  # AVFieldOrder, but for unknown and progressive
_SHORT = 1  # seconds by which a file may be shorter than it says before that is worth a note

Item = TypeVar("Item")


@dataclass(frozen=True)
class Video:
    """What a file says of its moving pictures.

    Attributes:
        index: Of the stream in the file.
        width: Of a frame, in pixels.
        height: Of a frame.
        time_base: The unit of time stamps, in seconds.
        rate: Frames a second, on average.
        frames: About how many there are; 0 if nothing says so.
        origin: The time at which a player starts, in seconds.
        aspect: Width of a pixel over its height, or None.
        coding: What the numbers of a frame mean.
        primaries: The number of ITU-T H.273 for its primaries.
        transfer: That for its transfer function.
        stated_end: When the file says that it ends, in seconds, or None.
        display: How it is turned for display, a matrix of 9 whole numbers, or None.
        notes: What cannot be kept of it, as short clauses.
    """

    index: int
    width: int
    height: int
    time_base: Fraction
    rate: Fraction
    frames: int
    origin: Fraction
    aspect: Fraction | None
    coding: Coding
    primaries: int
    transfer: int
    stated_end: Fraction | None
    display: tuple[int, ...] | None
    notes: tuple[str, ...] = ()


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
        """The first time stamp, and that after the last, in units; None where there is no limit."""
        first = -int(-(origin + self.start) // unit) if self.start else None
        last = -int(-(origin + self.end) // unit) if self.end is not None else None
        return first, last

    def shift(self, unit: Fraction) -> int:
        """What is taken from time stamps, in units, so that the part begins where the whole did."""
        return round(self.start / unit)


class _NoPlaceError(Exception):
    """A file has no place to start at but its beginning."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """Opens a video file; no other file and no address that it names is opened.

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
    """Turns what goes wrong while a file is read into a sentence about it."""
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


def probe(path: Path, most_pixels: int) -> Video:
    """What a file says of its first video stream that is no cover picture.

    Args:
        path: The file.
        most_pixels: A video of larger frames is refused.

    Raises:
        UserError: The file is missing or broken, holds no video, or one that cannot be restored:
            interlaced, of an unknown colour matrix, or too large.
    """
    with opened(path) as container:
        stream = next((s for s in container.streams.video if not is_cover(s)), None)
        if stream is None:
            raise UserError("it holds no moving pictures")
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > most_pixels:
            raise UserError(
                f"its frames have more than {most_pixels / 1e6:g} megapixels, which may be an "
                "attack; if you trust it, raise --max-megapixels"
            )
        first = next(_decoded(container, stream), None)
        if first is None:
            raise UserError("not one of its frames can be decoded")
        if first.interlaced_frame or stream.codec_context.field_order in _INTERLACED:
            raise UserError(
                "it is interlaced, which a network would smear: make whole frames of it first, "
                "such as with ffmpeg -i IN -vf bwdif -crf 15 OUT.mkv"
            )
        if stream.time_base is None:
            raise UserError("it has no time stamps; put it into MP4 or Matroska first")
        coding, notes = _coding(first)
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        seconds = Fraction(container.duration or 0, 1_000_000)
        if stream.duration:
            seconds = stream.duration * stream.time_base
        return Video(
            index=stream.index,
            width=first.width,
            height=first.height,
            time_base=stream.time_base,
            rate=rate,
            frames=stream.frames or round(seconds * rate),
            origin=Fraction(container.start_time or 0, 1_000_000),
            aspect=stream.sample_aspect_ratio or None,
            coding=coding,
            primaries=first.color_primaries,
            transfer=first.color_trc,
            stated_end=_stated_end(container, stream),
            display=_display(first),
            notes=notes,
        )


def is_cover(stream: Any) -> bool:
    """Whether a stream is a still picture, such as an album's cover."""
    return bool(stream.disposition & Disposition.attached_pic)


def read_frames(path: Path, video: Video, span: Span, notes: list[str]) -> Iterator[Frame]:
    """The frames of a part of a video, decoded a few ahead of what is done with them.

    Args:
        path: The file.
        video: What ``probe`` says of it.
        span: The part; its frames keep the time stamps that they have in the file.
        notes: Gets clauses on what was odd in the file.

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
                    f"its frames change their size at {_clock(frame.time)}: cut it there with "
                    "--from and --to, or make them of one size first"
                )
            if frame.pts is None or (before is not None and frame.pts <= (before.pts or 0)):
                raise UserError(
                    f"its time stamps do not rise at {_clock(frame.time or 0)}: put it anew into a "
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
                # What files say of their last frame alone is of the order of decoding.
                late = stated - end * video.time_base
                if late > _SHORT:
                    notes.append(
                        f"its pictures end at {_clock(end * video.time_base)}, but it says that "
                        f"they go on to {_clock(stated)}: it may be cut off"
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
    """Frames from the key frame before a time stamp on, or if there is no such place all."""
    if first is not None:
        with opened(path) as container, contextlib.suppress(_NoPlaceError):
            stream = container.streams[index]
            try:
                container.seek(first, stream=stream, backward=True)
            except av.error.FFmpegError as error:
                raise _NoPlaceError from error
            frames = _decoded(container, stream)
            frame = next(frames, None)
            # What a decoder makes of the frames before its first key frame is not the picture.
            if frame is not None and frame.key_frame and (frame.pts or 0) <= first:
                yield frame
                yield from frames
                return
    with opened(path) as container:
        yield from _decoded(container, container.streams[index])


def _decoded(container: InputContainer, stream: Any) -> Iterator[Any]:
    stream.thread_type = "AUTO"
    time = 0.0
    # AVI has no time stamps, so FFmpeg counts packets, which are not in the order of display.
    counted: collections.deque[int] = collections.deque()
    late: int | None = None  # by how much the first frame is shown after it is decoded
    for packet in container.demux(stream):
        if container.format.name == "avi" and packet.size and packet.dts is not None:
            late = (packet.pts or packet.dts) - packet.dts if late is None else late
            counted.append(packet.dts + late)
        try:
            frames = packet.decode()
        except av.error.InvalidDataError as error:
            raise UserError(
                f"it is damaged after {_clock(time)}; --to {_clock(time)} takes what is before"
            ) from error
        for frame in frames:
            if counted:
                frame.pts = counted.popleft()
            time = frame.time or 0.0
            yield frame


def _stated_end(container: InputContainer, stream: Any) -> Fraction | None:
    """When a file says that its video ends, in seconds; None if it does not say."""
    if stream.duration:
        return (stream.duration + (stream.start_time or 0)) * stream.time_base
    # Matroska's of a stream, such as 00:01:30.040000000; that of all may be of the sound.
    written = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if written:
        return Fraction(written[1]) * 3600 + Fraction(written[2]) * 60 + Fraction(written[3])
    if container.duration and len(container.streams) == 1:
        return Fraction(container.duration + (container.start_time or 0), 1_000_000)
    return None


def planar(form: av.VideoFormat) -> str:
    """The format that holds what another one does, with a plane for each channel."""
    bits = max(component.bits for component in form.components)
    depth = "" if bits <= 8 else "10le" if bits <= 10 else "12le"
    if form.is_rgb or form.has_palette or form.is_bayer:
        return "gbrp" + depth
    if len(form.components) < 3:
        return "gray" + depth
    chroma = form.chroma_width(16), form.chroma_height(16)
    name = {(8, 8): "yuv420p", (8, 16): "yuv422p"}.get(chroma, "yuv444p")
    return name + depth


def planes_of(frame: av.VideoFrame) -> tuple[np.ndarray, ...]:
    """The numbers of a frame, ``[H, W]`` each: see ``colour.to_rgb``."""
    form = planar(frame.format)
    if frame.format.name.replace("yuvj", "yuv") != form:
        # The same range on both sides, whatever it is: the numbers are to stay.
        same = ColorRange.MPEG
        frame = frame.reformat(format=form, src_color_range=same, dst_color_range=same)
    dtype = np.uint8 if form[-2:] != "le" else np.dtype("<u2")
    return tuple(
        np.frombuffer(memoryview(cast(Any, plane)), dtype)
        .reshape(plane.height, -1)[:, : plane.width]
        .copy()
        for plane in frame.planes
    )


def _coding(frame: av.VideoFrame) -> tuple[Coding, tuple[str, ...]]:
    """What the numbers of ``planes_of`` a frame mean, and what of it is lost."""
    form = planar(frame.format)
    notes = []
    if frame.format.name.startswith(("yuva", "gbrap", "rgba", "bgra", "argb", "abgr", "ya")):
        notes.append("its transparency is left out")
    bits = int(form[-4:-2]) if form.endswith("le") else 8
    if bits > 10:
        notes.append("its numbers of more than 10 bits become ones of 10")
    if SideData.MASTERING_DISPLAY_METADATA in frame.side_data:
        notes.append("the mastering data of its HDR is left out; its transfer function is kept")
    if form.startswith("gbrp"):
        return Coding(RGB, True, bits, (False, False)), tuple(notes)
    joint = frame.format.name.startswith("yuvj")
    return (
        Coding(
            matrix=matrix_of(frame.colorspace or UNSPECIFIED, frame.height, frame.width),
            full=joint or frame.color_range == _FULL,
            bits=bits,
            halved=(not form.startswith(("yuv422", "yuv444")), "444" not in form),
            cosited=not joint,
        ),
        tuple(notes),
    )


def output_coding(coding: Coding) -> Coding:
    """How an output is coded whose input is coded so, as far as its encoder can.

    RGB becomes BT.709, and more than 10 bits become 10.
    """
    bits = 8 if coding.bits == 8 else 10
    if coding.matrix == RGB:
        return Coding(BT709, False, bits, (False, False))
    return Coding(coding.matrix, coding.full, bits, coding.halved)


def _display(frame: av.VideoFrame) -> tuple[int, ...] | None:
    found: Any = frame.side_data  # a mapping by type, which its annotation does not say
    if SideData.DISPLAYMATRIX not in found:
        return None
    numbers = np.frombuffer(bytes(found[SideData.DISPLAYMATRIX]), np.int32)
    return tuple(int(number) for number in numbers[:9])


def _clock(seconds: float | Fraction) -> str:
    """A time as ``--from`` and ``--to`` take it."""
    minutes, rest = divmod(max(0.0, float(seconds)), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:06.3f}"


def _ahead(items: Iterable[Item], count: int = _AHEAD) -> Iterator[Item]:
    """The items, made by a thread that is at most ``count`` of them ahead."""
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
