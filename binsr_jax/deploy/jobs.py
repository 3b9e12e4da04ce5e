"""Runs the jobs of enlarging or restoring image files."""

import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from binsr_jax.deploy.listing import Job, Options
from binsr_jax.deploy.picture_files import picture_size, read_picture, write_restored
from binsr_jax.deploy.pictures import canvas, enhance_canvas, finish, fitted, paste
from binsr_jax.deploy.upscaler import Upscaler, Work
from binsr_jax.errors import UserError
from binsr_jax.files import printable


@dataclass(frozen=True)
class Ending:
    """How a job ended.

    Attributes:
        job: The job.
        state: ``done``, ``skipped`` (its output existed) or ``failed``.
        size: Width and height of the image, if it was done.
        output_size: Those of the output.
        seconds: The time that it took, if it was done.
        notes: Unexpected changes to the image, as short clauses.
        error: A sentence, if it failed.
    """

    job: Job
    state: str
    size: tuple[int, int] | None = None
    output_size: tuple[int, int] | None = None
    seconds: float | None = None
    notes: tuple[str, ...] = ()
    error: str | None = None


@dataclass
class Outcome:
    """The outcome of the jobs; ``failed`` has a sentence for each job that failed."""

    done: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)

    def add(self, ending: Ending) -> None:
        """Counts a job that has ended."""
        self.done += ending.state == "done"
        self.skipped += ending.state == "skipped"
        if ending.error is not None:
            self.failed.append(ending.error)


def run_jobs(
    upscaler: Upscaler, jobs: Sequence[Job], options: Options, tell: Callable[[Ending], object]
) -> None:
    """Enlarges or restores the images of jobs; see ``run_each``."""

    def work(job: Job, bar: tqdm) -> tuple[str, ...]:
        notes = restore_file(upscaler, job, options, bar.update)
        if notes:
            say(f"{job.source}: {'; '.join(notes)}.")
        return notes

    def require_memory(height: int, width: int) -> None:
        upscaler.require_memory(height, width, options.pre)

    run_each(jobs, options, require_memory, work, tell)


def run_each(
    jobs: Sequence[Job],
    options: Options,
    require_memory: Callable[[int, int], None],
    work: Callable[[Job, tqdm], tuple[str, ...]],
    tell: Callable[[Ending], object],
) -> None:
    """Runs the jobs, with progress; if one fails, the others still run.

    An existing output is skipped, unless ``options.overwrite``. So the same command continues an
    interrupted run, and two runs can share the work.

    Args:
        jobs: The images and their outputs.
        options: Only ``overwrite`` and ``most_pixels`` are used.
        require_memory: Takes height and width, and raises UserError if an image is too large.
        work: Makes an output, advances the bar by the finished megapixels, and returns the notes
            of an ``Ending``.
        tell: Called with each job's ending.
    """
    sizes: dict[Job, tuple[int, int]] = {}
    for job in jobs:
        ending = None
        try:
            if job.problem is not None:
                raise UserError(job.problem)
            if not options.overwrite and _is_there(job.target):
                ending = Ending(job, "skipped")
            else:
                width, height = picture_size(job.source, options.most_pixels)
                require_memory(height, width)
                sizes[job] = width, height
        except Exception as error:
            ending = failure(job, error)
        if ending is not None:
            tell(ending)
    terminal = sys.stderr.isatty()
    with tqdm(
        total=sum(map(_megapixels, sizes.values())),
        unit="MP",
        disable=not terminal,
        leave=False,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {n:.2f}/{total:.2f} MP, {rate_fmt}, "
        "{remaining} left",
    ) as bar:
        before = 0.0
        for job, size in sizes.items():
            bar.set_description(printable(job.source.name))
            try:
                ending = _ended(job, size, options, work, bar)
            except Exception as error:
                ending = failure(job, error)
            if ending.seconds is not None and not terminal:
                speed = f"{ending.seconds:.1f} s, {_megapixels(size) / ending.seconds:.2f} MP/s"
                say(f"{job.source} -> {job.target} ({speed})")
            tell(ending)
            before += _megapixels(size)
            bar.update(before - bar.n)  # a failed image has no output


def say(line: str) -> None:
    """Prints a line above the bar; a failure to print does not stop the images."""
    with contextlib.suppress(OSError):
        tqdm.write(printable(line))


def _ended(
    job: Job,
    size: tuple[int, int],
    options: Options,
    work: Callable[[Job, tqdm], tuple[str, ...]],
    bar: tqdm,
) -> Ending:
    """Runs a job, and returns how it ended."""
    if not options.overwrite and _is_there(job.target):  # another run has written it
        return Ending(job, "skipped")
    started = time.monotonic()
    notes = work(job, bar)
    seconds = time.monotonic() - started
    output_size = picture_size(job.target, sys.maxsize)
    return Ending(job, "done", size, output_size, seconds, notes)


def _megapixels(size: tuple[int, int]) -> float:
    width, height = size
    return width * height / 1e6


def restore_file(
    upscaler: Upscaler,
    job: Job,
    options: Options,
    progress: Callable[[float], object] = lambda megapixels: None,
) -> tuple[str, ...]:
    """Enlarges or restores one image file.

    Args:
        upscaler: Restores the image.
        job: The image file and its output file.
        options: How the image is processed.
        progress: Called after each tile with its finished megapixels of the input. If it raises an
            exception, the work ends, and no file is written.

    Returns:
        Unexpected changes to the image, as short clauses.

    Raises:
        UserError: The image cannot be read or written, or there is too little memory.
    """
    picture = fitted(read_picture(job.source, options.most_pixels), job.target, upscaler.scale)
    try:
        work = upscaler.plan(
            *picture.pixels.shape[:2], tile=options.tile, pre=options.pre, deep=picture.deep
        )
        image = canvas(picture, upscaler.scale)
        pixels, before = upscaler.prepared(picture.pixels, options.pre, options.post)
        for piece in upscaler.run(pixels, work, ensemble=options.ensemble):
            paste(image, piece.rows, piece.columns, piece.pixels)
            height, width = piece.pixels.shape[:2]
            progress(height * width / upscaler.scale**2 / 1e6)
        enhance_canvas(image, options.post, before)
        finish(image, picture)
    except MemoryError as error:
        raise UserError(f"{job.source}: out of memory; give a smaller --memory.") from error
    write_restored(image, picture, job.target, options.quality)
    return (*picture.notes, *_note_of(work))


def _is_there(target: Path) -> bool:
    """Whether the file exists.

    Raises:
        UserError: It cannot exist, for example because its name is too long.
    """
    try:
        return stat.S_ISREG(os.stat(target).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        way = "give a shorter --suffix, or a name with -o"
        if error.errno != errno.ENAMETOOLONG:
            way = "choose another -o"
        raise UserError(f"Cannot write {target} ({error.strerror}): {way}.") from error


def _note_of(work: Work) -> Iterator[str]:
    if work.overlap:
        yield (
            f"its tiles overlap by {work.overlap} pixels, so the result is nearly exact; exact "
            "tiles do not fit into --memory"
        )
    if work.reduction > 1:
        yield (
            "its squeeze-and-excitation uses the means of the image reduced "
            f"{work.reduction} times, since the whole does not fit into --memory"
        )


def failure(job: Job, error: Exception) -> Ending:
    """The ending of a job with an error; a fault of this package must not stop the others."""
    sentence = str(error)
    if isinstance(error, MemoryError):
        sentence = f"{job.source}: out of memory; cut the image into parts."
    elif not isinstance(error, UserError | OSError):
        what = f"{type(error).__name__}: {error}".rstrip(".")
        sentence = f"{job.source}: a fault of binsr itself, please report it ({what})."
    named = str(job.source) in sentence or str(job.target) in sentence
    return Ending(job, "failed", error=sentence if named else f"{job.source}: {sentence}")
