"""Enlarging or restoring image files: which ones, into which, and whatever one of them does."""

import contextlib
import glob
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
from tqdm import tqdm

from binsr_jax.data.images import IMAGE_SUFFIXES, list_images
from binsr_jax.deploy.pictures import (
    FORMATS,
    canvas,
    finish,
    fitted,
    paste,
    picture_size,
    read_picture,
    write_picture,
)
from binsr_jax.deploy.upscaler import Upscaler, Work
from binsr_jax.errors import UserError


@dataclass(frozen=True)
class Job:
    """One image file and the file that its enlargement goes to."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Options:
    """How image files are enlarged.

    Attributes:
        tile: the side of tiles, 0 for one chosen by the memory.
        ensemble: whether to average over flips and rotations.
        overwrite: whether to make outputs again that are there.
        quality: 1 to 100, of JPEG and WebP.
        most_pixels: images of more are refused.
    """

    tile: int = 0
    ensemble: bool = False
    overwrite: bool = False
    quality: int = 95
    most_pixels: int = 200_000_000


@dataclass
class Outcome:
    """What became of the jobs; ``failed`` holds a sentence for each that was not done."""

    done: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)


def find_images(inputs: Sequence[str]) -> list[Path]:
    """The image files that files, folders and patterns stand for, each once.

    Of a folder these are the images directly in it; ``**`` in a pattern stands for folders of any
    depth.

    Raises:
        UserError: something is not there, or there are no images in it.
    """
    found: dict[Path, Path] = {}
    for name in inputs:
        path = Path(name).expanduser()
        if path.is_dir():
            files = list_images(path)
        elif path.exists() or not glob.has_magic(name):
            files = [path] if path.exists() else []
        else:
            matches = map(Path, sorted(glob.glob(str(path), recursive=True)))
            files = [file for file in matches if file.suffix.lower() in IMAGE_SUFFIXES]
        if not files:
            raise UserError(
                f"There are no images in the folder {path}."
                if path.is_dir()
                else f"There is no file, folder or pattern of images {name!r}: check -i."
            )
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def plan_jobs(
    files: Sequence[Path], output: str | None, suffix: str, form: str | None
) -> list[Job]:
    """Says which file each image goes to: ``NAME`` + suffix, beside it or in the output folder.

    An image that is the output of another one is left out: it was made by an earlier run.

    Args:
        files: the images.
        output: a folder; or a file, for one image; or None for the image's own folder.
        suffix: goes between an output's name and its ending.
        form: the ending of outputs, such as "png"; None keeps an image's own where it is one of
            ``pictures.FORMATS``, else takes PNG.

    Raises:
        UserError: two images would go to one file, or one to itself; or the output is of a format
            that is not written.
    """
    if "/" in suffix or "\\" in suffix:
        raise UserError(
            f"The suffix {suffix!r} is part of a name, and cannot name a folder: use -o."
        )
    folder = Path(output).expanduser() if output is not None else None
    if folder is not None and not folder.is_dir():
        if folder.suffix.lower() in FORMATS:
            return [_only_job(files, folder, form)]
        if folder.is_file() or folder.suffix.lower() in (*IMAGE_SUFFIXES, ".gif"):
            raise UserError(
                f"The output {folder} is neither a folder nor a file of a format that is written: "
                f"choose one of {', '.join(FORMATS)}."
            )
    jobs = []
    for file in files:
        ending = file.suffix if file.suffix.lower() in FORMATS else ".png"
        name = f"{file.stem}{suffix}{f'.{form}' if form else ending}"
        jobs.append(Job(file, (folder or file.parent) / name))
    earlier = {job.target.resolve() for job in jobs if job.target.resolve() != job.source.resolve()}
    jobs = [job for job in jobs if job.source.resolve() not in earlier]
    _check_targets(jobs)
    return jobs


def run_jobs(upscaler: Upscaler, jobs: Sequence[Job], options: Options) -> Outcome:
    """Does the jobs, with progress; one that fails does not keep the others from being done.

    An output that is there is not made again, unless ``options.overwrite``; so an interrupted run
    goes on where it was.
    """
    outcome = Outcome()
    sizes: dict[Job, float] = {}
    for job in jobs:
        if job.target.is_file() and not options.overwrite:
            outcome.skipped += 1
            continue
        with _noted(outcome, job):
            width, height = picture_size(job.source, options.most_pixels)
            upscaler.require_memory(height, width)
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
            bar.set_description(job.source.name)
            started = time.monotonic()
            with _noted(outcome, job):
                _do(upscaler, job, options, bar)
                outcome.done += 1
                seconds = time.monotonic() - started
                if not terminal:
                    speed = f"{seconds:.1f} s, {megapixels / seconds:.2f} MP/s"
                    tqdm.write(f"{job.source} -> {job.target} ({speed})")
            before += megapixels
            bar.update(before - bar.n)  # nothing is left of an image that failed
    return outcome


def _do(upscaler: Upscaler, job: Job, options: Options, bar: tqdm) -> None:
    picture = fitted(read_picture(job.source, options.most_pixels), job.target, upscaler.scale)
    try:
        work = upscaler.plan(*picture.pixels.shape[:2], tile=options.tile)
        notes = [*picture.notes, *_note_of(work)]
        if notes:
            tqdm.write(f"{job.source}: {'; '.join(notes)}.")
        image = canvas(picture, upscaler.scale)
        for piece in upscaler.run(picture.pixels, work, ensemble=options.ensemble):
            paste(image, piece.rows, piece.columns, piece.pixels)
            height, width = piece.pixels.shape[:2]
            bar.update(height * width / upscaler.scale**2 / 1e6)
        finish(image, picture)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        raise UserError(f"{job.source}: the memory ran out; give less with --memory.") from error
    write_picture(image, job.target, exif=picture.exif, quality=options.quality)


def _note_of(work: Work) -> Iterator[str]:
    if work.reduction > 1:
        yield (
            "its squeeze-and-excitation takes the means of the image reduced "
            f"{work.reduction} times, since the whole does not fit into --memory"
        )


@contextlib.contextmanager
def _noted(outcome: Outcome, job: Job) -> Iterator[None]:
    """Turns a user's mistake in its block into a sentence of the outcome."""
    try:
        yield
    except UserError as error:
        sentence = str(error)
        named = str(job.source) in sentence or str(job.target) in sentence
        outcome.failed.append(sentence if named else f"{job.source}: {sentence}")


def _only_job(files: Sequence[Path], target: Path, form: str | None) -> Job:
    """The job of an output that is one file."""
    if len(files) > 1:
        raise UserError(
            f"The output {target} is one file, but there are {len(files)} images: name a folder."
        )
    if form is not None and FORMATS[target.suffix.lower()] != FORMATS[f".{form}"]:
        raise UserError(
            f"The output {target} is not of the format {form}: leave out -f or change -o."
        )
    job = Job(files[0], target)
    _check_targets([job])
    return job


def _check_targets(jobs: Sequence[Job]) -> None:
    sources: dict[Path, Path] = {}
    for job in jobs:
        target = job.target.resolve()
        if target == job.source.resolve():
            raise UserError(f"{job.source} would be replaced by its output: give --suffix or -o.")
        if target in sources:
            raise UserError(
                f"{sources[target]} and {job.source} would both become {job.target}: enlarge them "
                "into different folders, or without -f."
            )
        sources[target] = job.source
