"""Restores one video file."""

import functools
import importlib.metadata
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import numpy as np

from binsr_jax.deploy.jobs import say
from binsr_jax.deploy.listing import Job
from binsr_jax.errors import UserError
from binsr_jax.video import encoder, parts
from binsr_jax.video.colour import to_rgb
from binsr_jax.video.encoder import Encoding
from binsr_jax.video.frames import Frame, Span, read_frames
from binsr_jax.video.mux import mux, require_container
from binsr_jax.video.progress import Progress
from binsr_jax.video.source import Video, probe

Restore = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Settings:
    """How a video is restored and encoded.

    Attributes:
        codec: A key of ``encoder.CODECS``.
        crf: The quality, or None for the codec's default.
        preset: The compromise of speed and size, or None for the codec's default.
        span: The part of the input to restore.
        most_pixels: A video of larger frames is refused.
        network: The network and how it is applied, as JSON values: all else that a frame depends
            on.
    """

    codec: str
    crf: int | None
    preset: str | None
    span: Span
    most_pixels: int
    network: dict[str, Any]


def restore_video(job: Job, restore: Restore, scale: int, settings: Settings) -> None:
    """Restores a video; continues an interrupted run.

    Args:
        job: The two files.
        restore: Restores a frame: float32 ``[H, W, 3]`` to ``[scale H, scale W, 3]``, both in
            0..1.
        scale: The upscaling factor.
        settings: How the video is restored and encoded.

    Raises:
        UserError: The input cannot be read, or the output cannot be written.
    """
    form = require_container(job.target, settings.codec)
    video = probe(job.source, settings.most_pixels)
    made = encoder.encoding(video, scale, settings.codec, settings.crf, settings.preset)
    with parts.claim(job.target, _identity(job.source, made, settings)) as folder:
        notes = list(made.notes)
        _restore_frames(job, video, made, restore, settings.span, folder, notes)
        beside = folder.folder / "whole"
        notes += mux(job.source, beside, form, folder, made, settings.span)
        _put(beside, job.target)
    for note in notes:
        say(f"{job.source}: {note}.")


def _restore_frames(
    job: Job,
    video: Video,
    made: Encoding,
    restore: Restore,
    span: Span,
    folder: parts.Parts,
    notes: list[str],
) -> None:
    """Restores the frames that are in no finished part."""
    finished = folder.count() * parts.LENGTH
    if finished:
        say(f"{job.target}: continues after {finished} frames.")
    frames = itertools.islice(read_frames(job.source, video, span, notes), finished, None)
    with Progress(job.source.name, _count(video, span), finished) as progress:
        planes = _restored(frames, made, restore, progress)
        while (first := next(planes, None)) is not None:
            end = 0

            def part(first: tuple[Frame, list[np.ndarray]]) -> Iterator[tuple[int, list]]:
                nonlocal end
                for frame, result in itertools.chain(
                    [first], itertools.islice(planes, parts.LENGTH - 1)
                ):
                    end = frame.time + frame.duration
                    yield frame.time, result

            packets = encoder.encode(part(first), made)
            folder.add(parts.Part(packets, end))
    if not folder.count():
        raise UserError(f"{job.source}: there is no frame between --from and --to.")


def _restored(
    frames: Iterator[Frame], made: Encoding, restore: Restore, progress: Progress
) -> Iterator[tuple[Frame, list[np.ndarray]]]:
    """Each frame with the planes of its output; a repeated frame is not computed again."""
    before: Frame | None = None
    planes: list[np.ndarray] = []
    for frame in frames:
        if before is None or not _equal(before, frame):
            try:
                planes = encoder.planes(restore(to_rgb(frame.planes, made.video.coding)), made)
            except (MemoryError, jax.errors.JaxRuntimeError) as error:
                raise UserError("The memory ran out: give less with --memory.") from error
        before = frame
        progress.step()
        yield frame, planes


def _equal(one: Frame, other: Frame) -> bool:
    return all(map(np.array_equal, one.planes, other.planes))


def _count(video: Video, span: Span) -> int:
    """The approximate number of frames in a part."""
    if span.whole or not video.frames:
        return video.frames
    seconds = Fraction(video.frames) / video.rate
    end = seconds if span.end is None else min(seconds, span.end)
    return max(0, round((end - span.start) * video.rate))


def _identity(source: Path, made: Encoding, settings: Settings) -> dict[str, Any]:
    """All that the parts of a video depend on."""
    return {
        "input": parts.fingerprint(source),
        "encoding": [made.codec, made.crf, made.preset, made.width, made.height, made.form],
        "span": [str(settings.span.start), str(settings.span.end)],
        "network": settings.network,
        "length": parts.LENGTH,
        "versions": {name: _version(name) for name in ("binsr-jax", "av", "jax")},
        "cores": os.cpu_count(),  # on which the number of the encoder's threads depends
    }


@functools.cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _put(written: Path, target: Path) -> None:
    """Gives a complete file its name."""
    try:
        with written.open("rb") as file:
            os.fsync(file.fileno())  # the name must not reach the disk before the bytes
        os.replace(written, target)
    except OSError as error:
        raise UserError(f"Cannot write {target} ({error.strerror}).") from error
