"""Finds the image files to process, and names their outputs."""

import glob
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from binsr_jax.errors import UserError
from binsr_jax.files import expanded
from binsr_jax.image_files import FORMATS, IMAGE_SUFFIXES, list_images

if TYPE_CHECKING:
    from binsr_jax.enhance import Step

# Endings of pictures that Pillow does not know.
_PICTURES = (
    ".jxl",
    ".heic",
    ".heif",
    ".hif",
    ".svg",
    ".dng",
    ".raw",
    ".jxr",
    ".exr",
    ".webm",
    ".mp4",
)


@dataclass(frozen=True)
class Job:
    """One image file and its output file.

    Attributes:
        source: The image.
        target: Its output.
        problem: A sentence that says why the image must not be processed, or None.
    """

    source: Path
    target: Path
    problem: str | None = None


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
    pre: tuple["Step", ...] = ()
    post: tuple["Step", ...] = ()


def find_images(inputs: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The image files that files, folders and patterns name, each once.

    A folder stands for the images directly in it; ``**`` in a pattern matches folders of any depth.

    Returns:
        The files, and a sentence about each folder that is empty or cannot be read. A shell's
        pattern may match many folders, and one of them must not stop the others.

    Raises:
        UserError: A name does not exist, or no name has images.
    """
    found: dict[str, Path] = {}
    problems: list[str] = []
    for name in inputs:
        if not name:
            raise UserError("A PATH is empty: is it a variable that is not set?")
        path = expanded(name)
        if os.path.isdir(path):
            try:
                files = list_images(path)
                problem = "" if files else f"There are no images in the folder {path}."
            except UserError as error:
                files, problem = [], str(error)
            if problem:
                problems.append(problem)
                continue
        elif os.path.lexists(path) or not glob.has_magic(name):
            files = [path] if os.path.lexists(path) else []
        else:
            matches = sorted(map(Path, _matches(str(path))))
            files = [file for file in matches if file.suffix.lower() in IMAGE_SUFFIXES]
        if not files:
            raise UserError(
                f"There is no file, folder or pattern of images {name!r}: check the PATH."
            )
        for file in files:
            found.setdefault(os.path.realpath(file), file)
    if problems and not found:
        raise UserError(problems[0])
    return list(found.values()), problems


def _matches(pattern: str) -> Iterator[str]:
    """The paths that a pattern matches. ``**`` enters no links, which may form cycles."""
    parts = Path(pattern).parts
    if "**" not in parts:
        yield from glob.glob(pattern)
        return
    place = parts.index("**")
    within = parts[place + 1 :] or ("*",)
    for top in glob.glob(os.path.join(*parts[:place])) if place else ["."]:
        for folder, inner, _ in os.walk(top):
            inner[:] = [name for name in inner if not name.startswith(".")]
            yield from _matches(os.path.join(glob.escape(folder), *within))


def plan_jobs(
    files: Sequence[Path], output: str | None, suffix: str, form: str | None
) -> list[Job]:
    """Names the output of each image: ``NAME`` + suffix, beside it or in the output folder.

    An image that is the output of another one, in any format, or a link to it, is left out, since
    an earlier run made it. If several images would have the same output, the first that keeps its
    ending gets that name. The others get their ending or their folder into the name.

    Args:
        files: The images.
        output: A folder; or a file, for one image; or None for the image's own folder.
        suffix: Goes between an output's name and its ending.
        form: The ending of outputs, such as "png"; None keeps an image's own if it is one of
            ``image_files.FORMATS``, and otherwise means PNG.

    Returns:
        The jobs. One whose output would replace an image has a ``problem``.

    Raises:
        UserError: Every output would replace an image; or the output has an unsupported format.
    """
    if "/" in suffix or "\\" in suffix:
        raise UserError(
            f"The suffix {suffix!r} is part of a name, and cannot name a folder: use -o."
        )
    if output == "":
        raise UserError("The output -o is empty: is it a variable that is not set?")
    folder = expanded(output) if output is not None else None
    if output is not None and folder is not None and not os.path.isdir(folder):
        ending = folder.suffix.lower()
        if ending in FORMATS and not output.endswith("/"):
            return [_only_job(files, folder, form)]
        if os.path.lexists(folder) or (_is_picture(ending) and not output.endswith("/")):
            raise UserError(
                f"The output {folder} is neither a folder nor a file in a format that can be "
                f"written: choose one of {', '.join(FORMATS)}, or end a folder's name in /."
            )
    makers: dict[tuple[str, str], str] = {}
    for file in files:
        where = os.path.realpath(folder or file.parent)
        for stem in _stems(file):
            makers.setdefault((where, stem + suffix), _real(file))
    jobs: list[Job] = []
    for file in files:
        real = Path(_real(file))
        names = {(os.path.realpath(file.parent), file.stem), (str(real.parent), real.stem)}
        if not suffix or all(makers.get(name, str(real)) == str(real) for name in names):
            ending = file.suffix if file.suffix.lower() in FORMATS else ".png"
            name = f"{file.stem}{suffix}{f'.{form}' if form else ending}"
            jobs.append(Job(file, (folder or file.parent) / name))
    return _checked(distinct(jobs, suffix))


def _is_picture(ending: str) -> bool:
    """Whether this is the ending of a picture of any format, and not part of a folder's name."""
    from PIL import Image  # here, so that a missing file is reported without this import

    Image.init()
    return ending in {*IMAGE_SUFFIXES, *_PICTURES, *Image.registered_extensions()}


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
    (job,) = _checked([Job(files[0], target)])
    return job


def _checked(jobs: Sequence[Job]) -> list[Job]:
    """The jobs; those whose outputs would replace images have a problem.

    Raises:
        UserError: All of them have.
    """
    sources = {_real(job.source) for job in jobs}
    checked = []
    for job in jobs:
        problem = None
        if _real(job.target) == _real(job.source):
            problem = f"{job.source} would be replaced by its output: give --suffix or -o."
        elif _real(job.target) in sources:
            problem = (
                f"{job.target}, an image itself, would be replaced by the output of {job.source}: "
                "give another --suffix or -o."
            )
        checked.append(replace(job, problem=problem))
    if jobs and all(job.problem for job in checked):
        raise UserError(str(checked[0].problem))
    return checked


def distinct(jobs: Sequence[Job], suffix: str) -> list[Job]:
    """The jobs with distinct targets, independent of the order of their sources.

    Args:
        jobs: The jobs.
        suffix: Goes between a target's name and its ending.
    """
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
