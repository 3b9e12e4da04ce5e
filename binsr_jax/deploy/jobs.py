"""Jobs of enlarging or restoring image files: finds inputs, names outputs, and runs each job."""

import contextlib
import errno
import glob
import itertools
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax
from PIL import Image
from tqdm import tqdm

from binsr_jax.data.images import IMAGE_SUFFIXES, list_images
from binsr_jax.deploy.picture_files import picture_size, read_picture, write_picture
from binsr_jax.deploy.pictures import FORMATS, canvas, enhance_canvas, finish, fitted, paste
from binsr_jax.deploy.upscaler import Upscaler, Work
from binsr_jax.enhance import Step
from binsr_jax.errors import UserError
from binsr_jax.files import printable

Image.init()
# Endings of pictures, which distinguish an output file from a folder.
_PICTURES = {
    *IMAGE_SUFFIXES,
    *Image.registered_extensions(),
    *(".jxl", ".heic", ".heif", ".hif", ".svg", ".dng", ".raw", ".jxr", ".exr", ".webm", ".mp4"),
}


@dataclass(frozen=True)
class Job:
    """One image file and its output file."""

    source: Path
    target: Path


@dataclass(frozen=True)
class Options:
    """How image files are processed.

    Attributes:
        tile: The side of tiles; 0 chooses it by the memory.
        ensemble: Whether to average over flips and rotations.
        overwrite: Whether to replace existing outputs.
        quality: 1 to 100, for JPEG and WebP.
        most_pixels: Larger images are refused.
        pre: Steps before the network.
        post: Steps after the network.
    """

    tile: int = 0
    ensemble: bool = False
    overwrite: bool = False
    quality: int = 95
    most_pixels: int = 200_000_000
    pre: tuple[Step, ...] = ()
    post: tuple[Step, ...] = ()


@dataclass
class Outcome:
    """The outcome of the jobs; ``failed`` has a sentence for each job that failed."""

    done: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)


def find_images(inputs: Sequence[str]) -> list[Path]:
    """The image files that files, folders and patterns name, each once.

    A folder stands for the images directly in it; ``**`` in a pattern matches folders of any depth.

    Raises:
        UserError: A name does not exist, or has no images.
    """
    found: dict[str, Path] = {}
    for name in inputs:
        if not name:
            raise UserError("A PATH is empty: is it a variable that is not set?")
        path = Path(os.path.expanduser(name))
        if os.path.isdir(path):
            files = list_images(path)
        elif os.path.lexists(path) or not glob.has_magic(name):
            files = [path] if os.path.lexists(path) else []
        else:
            matches = map(Path, sorted(glob.glob(str(path), recursive=True)))
            files = [file for file in matches if file.suffix.lower() in IMAGE_SUFFIXES]
        if not files:
            raise UserError(
                f"There are no images in the folder {path}."
                if os.path.isdir(path)
                else f"There is no file, folder or pattern of images {name!r}: check the PATH."
            )
        for file in files:
            found.setdefault(os.path.realpath(file), file)
    return list(found.values())


def plan_jobs(
    files: Sequence[Path], output: str | None, suffix: str, form: str | None
) -> list[Job]:
    """Names the output of each image: ``NAME`` + suffix, beside it or in the output folder.

    An image that is the output of another one, in any format, is left out, since an earlier run
    made it. If several images would have the same output, the first that keeps its ending gets that
    name. The others get their ending or their folder into the name.

    Args:
        files: The images.
        output: A folder; or a file, for one image; or None for the image's own folder.
        suffix: Goes between an output's name and its ending.
        form: The ending of outputs, such as "png"; None keeps an image's own if it is one of
            ``pictures.FORMATS``, and otherwise means PNG.

    Raises:
        UserError: An image would be its own output; or the output has an unsupported format.
    """
    if "/" in suffix or "\\" in suffix:
        raise UserError(
            f"The suffix {suffix!r} is part of a name, and cannot name a folder: use -o."
        )
    if output == "":
        raise UserError("The output -o is empty: is it a variable that is not set?")
    folder = Path(os.path.expanduser(output)) if output is not None else None
    if output is not None and folder is not None and not os.path.isdir(folder):
        ending = folder.suffix.lower()
        if ending in FORMATS and not output.endswith("/"):
            return [_only_job(files, folder, form)]
        if os.path.lexists(folder) or (ending in _PICTURES and not output.endswith("/")):
            raise UserError(
                f"The output {folder} is neither a folder nor a file of a format that is written: "
                f"choose one of {', '.join(FORMATS)}, or end a folder's name in /."
            )
    makers: dict[tuple[str, str], str] = {}
    for file in files:
        where = os.path.realpath(folder or file.parent)
        for stem in _stems(file):
            makers.setdefault((where, stem + suffix), _real(file))
    jobs: list[Job] = []
    for file in files:
        maker = makers.get((os.path.realpath(file.parent), file.stem), _real(file))
        if not suffix or maker == _real(file):
            ending = file.suffix if file.suffix.lower() in FORMATS else ".png"
            name = f"{file.stem}{suffix}{f'.{form}' if form else ending}"
            jobs.append(Job(file, (folder or file.parent) / name))
    jobs = _distinct(jobs, suffix)
    _check_targets(jobs)
    return jobs


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
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
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
    except (UserError, OSError, MemoryError) as error:
        sentence = str(error)
        if isinstance(error, MemoryError):
            sentence = f"{job.source}: out of memory; cut the image into parts."
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
    sources = {_real(job.source) for job in jobs}
    for job in jobs:
        if _real(job.target) == _real(job.source):
            raise UserError(f"{job.source} would be replaced by its output: give --suffix or -o.")
        if _real(job.target) in sources:
            raise UserError(
                f"{job.target}, an image itself, would be replaced by the output of {job.source}: "
                "give another --suffix or -o."
            )


def _distinct(jobs: Sequence[Job], suffix: str) -> list[Job]:
    """The jobs with distinct targets, independent of the order of the images."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(_real(job.target), []).append(job)
    taken = {target for target, group in groups.items() if len(group) == 1}
    targets: dict[Job, Path] = {}
    for target, group in groups.items():
        # The image that keeps its ending gets the plain name.
        first, *others = sorted(
            group, key=lambda job: (job.source.suffix != job.target.suffix, str(job.source))
        )
        targets[first] = first.target
        taken.add(target)
        for job in others:
            _, *stems = _stems(job.source)
            if (
                job.source.suffix.lower() == first.source.suffix.lower()
            ):  # the ending does not distinguish them
                stems = stems[1:]
            numbered = (f"{stems[-1]}_{number}" for number in itertools.count(2))
            paths = (
                job.target.with_name(f"{stem}{suffix}{job.target.suffix}")
                for stem in itertools.chain(stems, numbered)
            )
            path = next(path for path in paths if _real(path) not in taken)
            targets[job] = path
            taken.add(_real(path))
    return [Job(job.source, targets[job]) for job in jobs]


def _stems(file: Path) -> tuple[str, ...]:
    """Possible names of an image's output, before the suffix, the plainest first."""
    ending, folder = file.suffix[1:].lower(), file.absolute().parent.name
    return (
        file.stem,
        f"{file.stem}_{ending}",
        f"{folder}_{file.stem}",
        f"{folder}_{file.stem}_{ending}",
    )


def _real(file: Path) -> str:
    """The real path of a name; unlike ``Path.resolve`` it accepts links that form a cycle."""
    return os.path.realpath(file)
