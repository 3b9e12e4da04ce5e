"""Which image files are worked, and into which files their outputs go."""

import glob
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
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
    pre: tuple["Step", ...] = ()
    post: tuple["Step", ...] = ()


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
        path = expanded(name)
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
            ``image_files.FORMATS``, and otherwise means PNG.

    Raises:
        UserError: An image would be its own output; or the output has an unsupported format.
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
    jobs = distinct(jobs, suffix)
    _check_targets(jobs)
    return jobs


def _is_picture(ending: str) -> bool:
    """Whether a file with this ending is a picture, of whatever format, and no folder."""
    from PIL import Image  # here, so that a missing file is answered without waiting for it

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
