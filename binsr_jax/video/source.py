"""What a video file says of its moving pictures."""

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import ColorRange

from binsr_jax.errors import UserError
from binsr_jax.video.colour import BT709, RGB, UNSPECIFIED, Coding, matrix_of
from binsr_jax.video.container import decoded, is_cover, opened
from binsr_jax.video.planes import planar

_FULL = int(ColorRange.JPEG)
_INTERLACED = (2, 3, 4, 5)  # AVFieldOrder, but for unknown and progressive


@dataclass(frozen=True)
class Video:
    """What a file says of its moving pictures.

    Attributes:
        index: The number of the stream in the file.
        width: The width of a frame, in pixels.
        height: The height of a frame.
        time_base: The unit of time stamps, in seconds.
        rate: Frames a second, on average.
        frames: Their approximate number; 0 if it is unknown.
        origin: The time at which a player starts, in seconds.
        aspect: Width of a pixel over its height, or None.
        coding: How colours are coded in a frame.
        primaries: Its primaries, as a number of ITU-T H.273.
        transfer: Its transfer function, as a number of ITU-T H.273.
        stated_end: The end that the file states, in seconds, or None.
        display: The matrix that turns it for display, 9 whole numbers, or None.
        notes: Short clauses about properties that the output cannot keep.
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


def probe(path: Path, most_pixels: int) -> Video:
    """The description of a file's first video stream that is no cover picture.

    Args:
        path: The file.
        most_pixels: The largest number of pixels in a frame.

    Raises:
        UserError: The file is missing or broken, or holds no video that can be restored. An
            interlaced video cannot, nor one with an unknown colour matrix or too large frames.
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
        first = next(decoded(container, stream), None)
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


def _stated_end(container: InputContainer, stream: Any) -> Fraction | None:
    """The end of the video that the file states, in seconds, or None."""
    if stream.duration:
        return (stream.duration + (stream.start_time or 0)) * stream.time_base
    # In Matroska a stream has its own, such as 00:01:30.040000000. The file's may be the sound's.
    written = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if written:
        return Fraction(written[1]) * 3600 + Fraction(written[2]) * 60 + Fraction(written[3])
    if container.duration and len(container.streams) == 1:
        return Fraction(container.duration + (container.start_time or 0), 1_000_000)
    return None


def _coding(frame: av.VideoFrame) -> tuple[Coding, tuple[str, ...]]:
    """The coding of a frame's planes, and clauses about what is lost."""
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
    """The coding of the output for the coding of its input.

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
