"""Jobs of enlarging or restoring image files: finds inputs, names outputs, and runs each job."""

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
from binsr_jax.deploy.picture_files import picture_size, read_picture, write_picture
from binsr_jax.deploy.pictures import canvas, enhance_canvas, finish, fitted, paste
from binsr_jax.deploy.upscaler import Upscaler, Work
from binsr_jax.errors import UserError
from binsr_jax.files import printable


@dataclass
class Outcome:
    """The outcome of the jobs; ``failed`` has a sentence for each job that failed."""

    done: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)


def run_jobs(upscaler: Upscaler, jobs: Sequence[Job], options: Options) -> Outcome:
    """Enlarges or restores the images of jobs; see ``run_each``."""

    def work(job: Job, bar: tqdm) -> None:
        notes = restore_file(upscaler, job, options, bar.update)
        if notes:
            tqdm.write(printable(f"{job.source}: {'; '.join(notes)}."))

    def require_memory(height: int, width: int) -> None:
        upscaler.require_memory(height, width, options.pre)

    return run_each(jobs, options, require_memory, work)


def run_each(
    jobs: Sequence[Job],
    options: Options,
    require_memory: Callable[[int, int], None],
    work: Callable[[Job, tqdm], None],
) -> Outcome:
    """Runs the jobs, with progress; if one fails, the others still run.

    An existing output is skipped, unless ``options.overwrite``. So the same command continues an
    interrupted run, and two runs can share the work.

    Args:
        jobs: The images and their outputs.
        options: Only ``overwrite`` and ``most_pixels`` are used.
        require_memory: Takes height and width, and raises UserError if an image is too large.
        work: Makes an output, and advances the bar by the finished megapixels.
    """
    outcome = Outcome()
    sizes: dict[Job, float] = {}
    for job in jobs:
        with _noted(outcome, job):
            if not options.overwrite and _is_there(job.target):
                outcome.skipped += 1
                continue
            width, height = picture_size(job.source, options.most_pixels)
            require_memory(height, width)
            sizes[job] = width * height / 1e6
    terminal = sys.stderr.isatty()
    with tqdm(
        total=sum(sizes.values()),
        unit="MP",
        disable=not terminal,
        leave=False,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {n:.2f}/{total:.2f} MP, {rate_fmt}, "
        "{remaining} left",
    ) as bar:
        before = 0.0
        for job, megapixels in sizes.items():
            bar.set_description(printable(job.source.name))
            started = time.monotonic()
            with _noted(outcome, job):
                if not options.overwrite and _is_there(job.target):  # another run has written it
                    outcome.skipped += 1
                else:
                    work(job, bar)
                    outcome.done += 1
                    seconds = time.monotonic() - started
                    if not terminal:
                        speed = f"{seconds:.1f} s, {megapixels / seconds:.2f} MP/s"
                        tqdm.write(printable(f"{job.source} -> {job.target} ({speed})"))
            before += megapixels
            bar.update(before - bar.n)  # a failed image has no output
    return outcome


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
        work = upscaler.plan(*picture.pixels.shape[:2], tile=options.tile, pre=options.pre)
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
    write_picture(image, job.target, exif=picture.exif, dpi=picture.dpi, quality=options.quality)
    return (*picture.notes, *_note_of(work))


def _is_there(target: Path) -> bool:
    """Whether there is such a file.

    Raises:
        UserError: There can be none, for example because the name is too long.
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


@contextlib.contextmanager
def _noted(outcome: Outcome, job: Job) -> Iterator[None]:
    """Turns an error of one image in its block into a sentence of the outcome."""
    try:
        yield
    except Exception as error:  # also a fault of ours, which must not keep the others undone
        sentence = str(error)
        if isinstance(error, MemoryError):
            sentence = f"{job.source}: out of memory; cut the image into parts."
        elif not isinstance(error, UserError | OSError):
            what = f"{type(error).__name__}: {error}".rstrip(".")
            sentence = f"{job.source}: a fault of binsr itself, please report it ({what})."
        named = str(job.source) in sentence or str(job.target) in sentence
        outcome.failed.append(sentence if named else f"{job.source}: {sentence}")
