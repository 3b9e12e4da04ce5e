"""Small videos with sound, subtitles and chapters, and what is found in one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from worker import HEIGHT, WIDTH


@dataclass
class Found:
    """What a file holds.

    Attributes:
        packets: By the kind of their stream: (time, duration, bytes).
        chapters: (start, end, title).
        frames: Of the video.
        length: Of the video as the file says, in seconds.
    """

    packets: dict[str, list[tuple[Fraction, Fraction, bytes]]] = field(default_factory=dict)
    chapters: list[tuple[Fraction, Fraction, str]] = field(default_factory=list)
    frames: list[Any] = field(default_factory=list)
    length: Fraction = Fraction(0)

    @property
    def times(self) -> list[Fraction]:
        """When its frames are shown, in seconds."""
        return [frame.pts * frame.time_base for frame in self.frames]


@pytest.fixture(scope="session")
def look() -> Callable[[Path], Found]:
    """Reads a file as FFmpeg does."""

    def look(file: Path) -> Found:
        found = Found()
        with av.open(str(file)) as container:
            for chapter in container.chapters():
                unit = chapter["time_base"] or Fraction(1, 1000)
                start, end = chapter["start"] * unit, chapter["end"] * unit
                found.chapters.append((start, end, chapter["metadata"].get("title", "")))
            video = container.streams.video[0]
            if video.duration is not None and video.time_base is not None:
                found.length = video.duration * video.time_base
            elif "DURATION" in video.metadata:  # of Matroska, 00:00:00.000000000
                found.length = Fraction(video.metadata["DURATION"].rpartition(":")[2])
            for packet in container.demux():
                if packet.pts is None:
                    continue
                time, duration = packet.pts * packet.time_base, packet.duration or 0
                row = (time, duration * packet.time_base, bytes(packet))
                found.packets.setdefault(packet.stream.type, []).append(row)
        with av.open(str(file)) as container:
            found.frames = list(container.decode(video=0))
        return found

    return look


def picture(number: int, shape: tuple[int, int], bits: int, height: float) -> np.ndarray:
    """A smooth picture that moves: a plane of a frame."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    waves = 0.5 + height * np.sin(x / 7 + number / 5) * np.cos(y / 9 + number / 7)
    return np.rint(waves * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)


def frame(number: int, form: str = "yuv420p", size: tuple[int, int] = (WIDTH, HEIGHT)) -> Any:
    """A frame of the moving picture."""
    made = av.VideoFrame(*size, form)
    for place, plane in enumerate(made.planes):
        bits = 10 if form.endswith("10le") else 8
        height = 0.08 if place else 0.25  # of chroma so little that all are colours of RGB
        values = picture(number + 9 * place, (plane.height, plane.width), bits, height)
        rows = np.zeros((plane.height, plane.line_size // values.itemsize), values.dtype)
        rows[:, : plane.width] = values
        plane.update(rows.tobytes())
    return made


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Path]:
    """Writes a video: ``make_video(file, times, ...)``."""

    def make(
        file: Path,
        times: Sequence[int] = range(12),
        unit: Fraction = Fraction(1, 25),
        *,
        codec: str = "libx264",
        form: str = "yuv420p",
        size: tuple[int, int] = (WIDTH, HEIGHT),
        pictures: Sequence[int] | None = None,
        sound: bool = False,
        subtitles: bool = False,
        chapters: Sequence[tuple[int, int, str]] = (),
        options: dict[str, str] | None = None,
        set_up: Callable[[Any], None] | None = None,
    ) -> Path:
        with av.open(str(file), "w") as container:
            stream: Any = container.add_stream(codec, rate=25, options=options or {})
            stream.width, stream.height, stream.pix_fmt = *size, form
            stream.codec_context.time_base = unit
            if set_up is not None:
                set_up(stream)
            voice: Any = container.add_stream("aac", rate=16_000) if sound else None
            text: Any = None
            if subtitles:
                text = container.add_mux_stream("subrip", time_base=Fraction(1, 1000))
            if chapters:
                unit_of = Fraction(1, 1000)
                container.set_chapters(
                    [
                        {
                            "id": number,
                            "start": start,
                            "end": end,
                            "time_base": unit_of,
                            "metadata": {"title": title},
                        }
                        for number, (start, end, title) in enumerate(chapters)
                    ]
                )
            for place, time in enumerate(times):
                picked = frame(place if pictures is None else pictures[place], form, size)
                picked.pts, picked.time_base = time, unit
                container.mux(stream.encode(picked))
            container.mux(stream.encode(None))
            if sound:
                _sound(container, voice, int((times[-1] + 1) * unit * 16_000))
            if subtitles:
                for start, words in ((100, b"one"), (300, b"two")):
                    packet = av.Packet(words)
                    packet.stream, packet.time_base = text, Fraction(1, 1000)
                    packet.pts = packet.dts = start
                    packet.duration = 150
                    container.mux(packet)
        return file

    return make


def _sound(container: Any, stream: Any, samples: int) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (1, samples)).astype(np.float32)
    for start in range(0, samples, 1024):
        part = np.repeat(noise[:, start : start + 1024], 2, axis=0)
        sound = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), "fltp", "stereo")
        sound.sample_rate, sound.pts, sound.time_base = 16_000, start, Fraction(1, 16_000)
        container.mux(stream.encode(sound))
    container.mux(stream.encode(None))
