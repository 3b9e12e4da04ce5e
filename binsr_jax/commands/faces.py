"""Restore the faces in images with DFDNet; the rest of an image is not changed.

dlib finds the faces and their landmarks (pip install 'binsr-jax[faces]'). Each face is rotated
upright into a square of 512 pixels, restored, and pasted back with soft edges. An image without
faces is copied to its output. The weights are not part of this package: docs/faces.md explains how
to get them.

    binsr faces portrait.jpg
    binsr faces album/ -o restored/ -m dfdnet.safetensors
"""

import argparse
import shutil
from pathlib import Path

import jax
from tqdm import tqdm

from binsr_jax.commands.pictures import (
    add_file_arguments,
    named_images,
    report,
    sigterm_interrupts,
    whole,
)
from binsr_jax.deploy.jobs import Outcome, run_each, say
from binsr_jax.deploy.listing import Job, Options, plan_jobs
from binsr_jax.deploy.picture_files import read_picture, write_restored
from binsr_jax.deploy.pictures import canvas, finish, fitted, paste
from binsr_jax.errors import UserError
from binsr_jax.faces.finding import SEARCH_SIDE, FaceFinder
from binsr_jax.faces.model import load_face_network, usual_file
from binsr_jax.faces.restoring import FaceNetwork, Finder, restore_faces
from binsr_jax.files import open_regular, printable, replacing
from binsr_jax.image_files import FORMATS
from binsr_jax.kept import keep_compiled_programs
from binsr_jax.memory import available_memory

# An image and its copies, some of them as floats.
_BYTES_PER_PIXEL = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of ``binsr faces``."""
    add_file_arguments(parser, "_faces")
    add = parser.add_argument
    add("-m", "--model", type=Path, metavar="FILE", help=f"the weights (default: {usual_file()})")
    add(
        "--search",
        type=whole(64, 8192),
        default=SEARCH_SIDE,
        metavar="PIXELS",
        help="longest side of the image in the face search; a larger one finds smaller faces and "
        "takes longer (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs ``binsr faces``."""
    files, problems = named_images(args)
    suffix = "_faces" if args.suffix is None else args.suffix
    jobs = plan_jobs(files, args.output, suffix, args.format)
    keep_compiled_programs()
    finder = FaceFinder(args.search)
    network = load_face_network(args.model or usual_file())
    options = Options(
        overwrite=args.overwrite,
        quality=args.quality,
        most_pixels=int(args.max_megapixels * 1e6),
    )

    def work(job: Job, bar: tqdm) -> tuple[str, ...]:
        return _restore(job, options, finder, network, bar)

    outcome = Outcome(failed=problems)
    with sigterm_interrupts():
        run_each(jobs, options, _require_memory, work, outcome.add)
    return report(outcome, "done")


def _restore(
    job: Job, options: Options, finder: Finder, network: FaceNetwork, bar: tqdm
) -> tuple[str, ...]:
    """Makes the output of one image, and returns notes on it."""
    picture = fitted(read_picture(job.source, options.most_pixels), job.target, 1)
    megapixels = picture.pixels.shape[0] * picture.pixels.shape[1] / 1e6

    def progress(done: int, faces: int) -> None:
        bar.set_description(printable(f"{job.source.name}, face {done} of {faces}"))
        if done:
            bar.update(megapixels / faces)

    try:
        pixels, faces = restore_faces(picture.pixels, finder, network, progress)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        raise UserError(f"{job.source}: out of memory; give a smaller --search.") from error
    found = {0: "no faces; it stays as it is", 1: "1 face"}.get(faces, f"{faces} faces")
    notes = (found, *picture.notes)
    say(f"{job.source}: {'; '.join(notes)}.")
    if not faces and picture.form == FORMATS[job.target.suffix.lower()]:
        _copy(job)
        return notes
    image = canvas(picture, 1)
    height, width = pixels.shape[:2]
    paste(image, slice(0, height), slice(0, width), pixels)
    finish(image, picture)
    write_restored(image, picture, job.target, options.quality)
    return notes


def _copy(job: Job) -> None:
    """Copies an image file to its output."""
    with open_regular(job.source) as source:
        try:
            job.target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(job.target) as target:
                shutil.copyfileobj(source, target)
        except OSError as error:
            raise UserError(f"Cannot write {job.target} ({error.strerror or error}).") from error


def _require_memory(height: int, width: int) -> None:
    """Raises UserError if the machine has too little memory for an image."""
    needed, available = height * width * _BYTES_PER_PIXEL, available_memory()
    if available is not None and needed > available:
        raise UserError(
            f"{width}x{height} pixels take {needed / 2**30:.2g} GiB of memory, but only "
            f"{available / 2**30:.2g} GiB are available; cut the image into parts."
        )
