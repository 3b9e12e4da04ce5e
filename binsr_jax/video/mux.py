"""Writes the output file: restored pictures, and copies of the input's other streams."""

import heapq
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.container import InputContainer, OutputContainer

from binsr_jax.errors import UserError
from binsr_jax.video.container import is_cover, named, opened
from binsr_jax.video.encoder import CODECS, Encoding, add_stream
from binsr_jax.video.frames import Span
from binsr_jax.video.parts import Parts

# The containers of outputs, by the endings of their files.
CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
# Metadata about a container itself, rather than about its contents.
_OWN_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration"}
_MOST_TIMESCALE = 2**31 - 1


@dataclass(frozen=True)
class _Copy:
    """A copied stream: its input stream, its output stream and its name."""

    source: Any
    target: Any


def require_container(file: Path, codec: str) -> str:
    """FFmpeg's name of the container for a file, by its ending.

    Raises:
        UserError: It cannot be written, or it cannot hold the codec.
    """
    form = CONTAINERS.get(file.suffix.lower())
    if form is None:
        raise UserError(
            f"The output {file} has no format that can be written: end its name in one of "
            f"{', '.join(CONTAINERS)}."
        )
    with av.open(io.BytesIO(), "w", format=form) as container:
        try:
            container.add_stream(CODECS[codec].encoder)
        except ValueError:
            raise UserError(
                f"{file.suffix.upper()[1:]} does not hold {codec}: choose another --codec, such as "
                f"{'av1' if form == 'webm' else 'h264'}, or an ending such as .mkv."
            ) from None
    return form


def mux(source: Path, target: Path, form: str, parts: Parts, made: Encoding, span: Span) -> list:
    """Writes the output, and returns clauses about contents of the input that it lacks.

    Sound, subtitles, covers, attachments and data are copied packet by packet.

    Args:
        source: The input.
        target: The file to write, under a temporary name.
        form: FFmpeg's name of its container.
        parts: The pictures.
        made: Their encoding.
        span: The part of the input that was restored.

    Raises:
        UserError: The input is broken, or the output cannot be written.
    """
    options = {}
    if form in ("mp4", "mov"):
        # Starts and lengths of tracks have the film's unit, which is a millisecond by default.
        timescale = _timescale(made.video.time_base)
        options = {"movflags": "+faststart", "movie_timescale": str(timescale)}
        options["video_track_timescale"] = str(timescale)
    notes: list[str] = []
    with opened(source) as given:
        if any(key.startswith("com.") for key in given.metadata) and form in ("mp4", "mov"):
            options["movflags"] += "+use_metadata_tags"  # the place and the model of a phone
        try:
            with av.open(f"file:{target}", "w", format=form, container_options=options) as output:
                _write(given, output, parts, made, span, notes)
        except (av.error.FFmpegError, OSError) as error:
            raise UserError(f"Cannot write the video ({error.strerror or error}).") from error
    return notes


def _write(
    given: InputContainer,
    output: OutputContainer,
    parts: Parts,
    made: Encoding,
    span: Span,
    notes: list[str],
) -> None:
    video, copies = made.video, []
    output.metadata.update(_tags(given.metadata))
    pictures = None
    for stream in given.streams:
        if stream.index == video.index:
            pictures = target = add_stream(output, made)
        elif _is_written_anyway(stream, given):
            continue
        elif _is_taken(stream, output.format.name):
            target = _add_copy(output, stream)
            copies.append(_Copy(stream, target))
        else:
            codec = getattr(stream.codec_context, "name", None) or "of an unknown codec"
            notes.append(
                f"its {stream.type} stream {stream.index} ({codec}) is left out, since "
                f"{output.format.name} does not hold it; .mkv may"
            )
            continue
        target.metadata.update(_tags(stream.metadata))
        target.disposition = stream.disposition
    assert pictures is not None
    if chapters := _chapters(given, span):
        output.set_chapters(chapters)
    output.start_encoding()
    shift = span.shift(video.time_base)
    merged = heapq.merge(
        _pictures(parts, pictures, output.format.name, shift, made),
        _copied(given, copies, video.origin, span),
        key=lambda timed: timed[0],
    )
    for _, packet in merged:
        output.mux_one(packet)


def decode_times(times: Sequence[int] | np.ndarray, end: int) -> np.ndarray:
    """Decoding times: they rise, and none is later than the display of its frame.

    The first and the last differ by less than the length of the video.

    Args:
        times: The display times of frames, in decoding order.
        end: The end of the last displayed frame.
    """
    times = np.asarray(times, np.int64)
    shown = np.sort(times)
    delay = int(np.max(np.arange(len(times)) - np.searchsorted(shown, times)))
    step = int(end - shown[-1 - delay]) // (delay + 1)
    if len(shown) > 1:
        step = min(step, int(np.median(np.diff(shown))))
    early = shown[0] - max(1, step) * np.arange(delay, 0, -1)
    return np.concatenate([early, shown])[: len(times)]


def _pictures(
    parts: Parts, stream: Any, form: str, shift: int, made: Encoding
) -> Iterator[tuple[Fraction, av.Packet]]:
    """The packets of all parts, each with its time in seconds."""
    unit, count = made.video.time_base, parts.count()
    stamps = [parts.times(number) for number in range(count)]
    times = np.concatenate([part for part, _ in stamps]) - shift
    end = stamps[-1][1] - shift
    shown = np.append(np.sort(times), end)
    decoded, place = decode_times(times, end), 0
    # The length that MP4 states is the sum of the durations in decoding order.
    rest = int(end - shown[0] - (decoded[-1] - decoded[0]))
    of_decoding = form in ("mp4", "mov")
    for number in range(count):
        packets = parts.read(number).packets
        if packets.header != (stream.codec_context.extradata or b""):
            raise UserError(f"The parts in {parts.folder} are of another encoder: remove them.")
        for data, key in zip(packets.data, packets.keys, strict=True):
            packet = av.Packet(data)
            time = int(times[place])
            after = int(np.searchsorted(shown, time, side="right"))
            packet.stream, packet.time_base = stream, unit
            packet.pts, packet.dts = time, int(decoded[place])
            packet.duration = int(shown[after]) - time
            if of_decoding and place == len(times) - 1:
                packet.duration = rest
            packet.is_keyframe = bool(key)
            yield packet.dts * unit, packet
            place += 1


def _copied(
    given: InputContainer, copies: Sequence[_Copy], origin: Fraction, span: Span
) -> Iterator[tuple[Fraction, av.Packet]]:
    """The packets of the copied streams, each with its time in seconds."""
    if not copies:
        return
    targets = {copy.source.index: copy.target for copy in copies}
    early: dict[int, int] = {}  # by how much a stream starts before 0
    latest = Fraction(-(2**40))
    for packet in _demuxed(given, copies):
        source, unit = packet.stream, packet.time_base
        if is_cover(source) and packet.size:
            packet.pts = packet.dts = 0
        if packet.dts is None and packet.pts is None:  # the end of a stream
            continue
        time = packet.pts if packet.pts is not None else packet.dts
        assert time is not None
        before = early.setdefault(source.index, max(0, -time))
        if not is_cover(source) and not span.whole:
            first, last = span.limits(origin, unit)
            # A subtitle that is visible at the start is kept. A sound decoder gets as much sound
            # before the start as in the input.
            lasts = (packet.duration or 0) if source.type == "subtitle" else before
            reaches = time + lasts
            if (first is not None and reaches < first) or (last is not None and time >= last):
                continue
            shift = span.shift(unit)
            if source.type == "subtitle":
                _clip(packet, shift, last)
            else:
                packet.pts = None if packet.pts is None else packet.pts - shift
                packet.dts = None if packet.dts is None else packet.dts - shift
        packet.stream = targets[source.index]
        # No packet is earlier than the last one: merged packets must be in order.
        latest = max(latest, (packet.dts if packet.dts is not None else packet.pts or 0) * unit)
        yield latest, packet


def _demuxed(given: InputContainer, copies: Sequence[_Copy]) -> Iterator[av.Packet]:
    with named(Path(given.name.removeprefix("file:"))):  # else the error would name the output
        yield from given.demux([copy.source for copy in copies])


def _clip(packet: av.Packet, shift: int, last: int | None) -> None:
    """Moves a subtitle back by ``shift``, and clips it to 0 and ``last``."""
    start = packet.pts if packet.pts is not None else packet.dts or 0
    end = start + (packet.duration or 0)
    end = end if last is None else min(end, last)
    start = max(start, shift)
    packet.pts = packet.dts = start - shift
    packet.duration = max(0, end - start)


def _chapters(given: InputContainer, span: Span) -> list[Any]:
    """The chapters of the restored part, in its time."""
    chapters = []
    for chapter in given.chapters():
        unit = chapter["time_base"] or Fraction(1, 1000)
        start, end = chapter["start"] * unit, chapter["end"] * unit
        if not span.whole:
            last = end if span.end is None else min(end, span.end)
            start, end = max(start, span.start) - span.start, last - span.start
            if end <= start:
                continue
            chapter = {**chapter, "start": round(start / unit), "end": round(end / unit)}
        chapters.append(chapter)
    return chapters


def _is_written_anyway(stream: Any, given: InputContainer) -> bool:
    """Whether FFmpeg writes a data stream of an MP4 or MOV itself: chapter text or time code."""
    if stream.type != "data" or stream.codec_context is not None:
        return False
    return "timecode" in stream.metadata or bool(given.chapters())


def _is_taken(stream: Any, form: str) -> bool:
    """Whether a container can hold a stream."""
    trial = av.open(io.BytesIO(), "w", format=form)
    try:
        _add_copy(trial, stream)
        trial.start_encoding()
    except (av.error.FFmpegError, ValueError, TypeError, AttributeError):
        return False
    finally:
        trial.close()
    return True


def _add_copy(output: OutputContainer, stream: Any) -> Any:
    """Adds a stream for copied packets."""
    return output.add_stream_from_template(stream, opaque=True)


def _tags(metadata: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key.lower() not in _OWN_TAGS}


def _timescale(unit: Fraction) -> int:
    """The ticks per second with which an MP4 holds times of a unit; at least 1000."""
    ticks = unit.denominator
    return ticks * math.ceil(1000 / ticks) if ticks <= _MOST_TIMESCALE else 90_000
