"""Flags and file handling that the subcommands for pictures share."""

import argparse
import contextlib
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

from binsr_jax.deploy.arrivals import arrivals
from binsr_jax.deploy.listing import Options, find_images, plan_jobs
from binsr_jax.errors import UserError
from binsr_jax.files import expanded, printable
from binsr_jax.image_files import FORMATS
from binsr_jax.kept import keep_compiled_programs

if TYPE_CHECKING:  # numpy and Pillow are imported when there is an image to restore
    from binsr_jax.deploy.jobs import Ending, Outcome
    from binsr_jax.deploy.upscaler import Upscaler

_LOOK = 1.0  # seconds between two looks into the folders of --watch


class Group(NamedTuple):
    """Some of the images, and what restores them.

    Attributes:
        network: The name of the network or its file; names of several are joined with commas.
        upscaler: Runs it.
        images: The images.
    """

    network: str
    upscaler: "Upscaler"
    images: Sequence[Path]


def add_arguments(parser: argparse.ArgumentParser, suffix: str) -> None:
    """Declares the flags of a command that runs networks on images, except for the network itself.

    Args:
        parser: The subcommand's parser.
        suffix: The suffix in the names of outputs, in words.
    """
    add_file_arguments(parser, suffix)
    add_network_arguments(parser)
    add = parser.add_argument
    add(
        "--json",
        action="store_true",
        help="print a line of JSON for each image (see docs/upscale.md)",
    )
    add("--watch", action="store_true", help="wait for more images in the folders, until Ctrl-C")


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags that say how a network is run on an image."""
    add = parser.add_argument
    add(
        "-t",
        "--tile",
        type=whole(1),
        default=0,
        help="side of a tile in pixels (default: as --memory allows)",
    )
    add(
        "-x",
        "--ensemble",
        action="store_true",
        help="average over 8 flips and rotations, in 8 times the time",
    )
    add(
        "--memory",
        type=amount,
        metavar="GIB",
        help="memory for a tile (default: 1, or 1/4 of the free memory)",
    )
    steps = "steps {} the network, such as {} (see docs/enhance.md)"
    add("--pre", default="", metavar="STEPS", help=steps.format("before", "median=0.5,clahe=0.3"))
    add("--post", default="", metavar="STEPS", help=steps.format("after", "unsharp=0.5,colour=1"))


def add_file_arguments(parser: argparse.ArgumentParser, suffix: str) -> None:
    """Declares the flags of a command that makes images from images.

    Args:
        parser: The subcommand's parser.
        suffix: The suffix in the names of outputs, in words.
    """
    defaults = Options()
    add = parser.add_argument
    add("images", nargs="*", metavar="PATH", help="images: files, folders or patterns")
    add("-i", "--input", nargs="+", default=[], metavar="PATH", help="more images")
    add("-o", "--output", metavar="PATH", help="the output: a folder, or a file for one image")
    formats = [ending[1:] for ending in FORMATS]
    add("-f", "--format", choices=formats, help="format of outputs (default: the image's, or png)")
    add("--suffix", help=f"suffix of output names (default: {suffix})")
    add("--overwrite", action="store_true", help="replace existing outputs")
    add(
        "--quality",
        type=whole(1, 100),
        default=defaults.quality,
        help="quality of JPEG and WebP outputs (default: %(default)s)",
    )
    add_most_pixels(parser)


def add_most_pixels(parser: argparse.ArgumentParser) -> None:
    """Declares ``--max-megapixels``."""
    parser.add_argument(
        "--max-megapixels",
        type=amount,
        default=Options().most_pixels / 1e6,
        metavar="MP",
        help="larger images are refused (default: %(default)g)",
    )


def named_images(args: argparse.Namespace) -> tuple[list[Path], list[str]]:
    """The images that the arguments name, and a sentence about each folder without any.

    Raises:
        UserError: They name none, or one that does not exist.
    """
    inputs = [*args.images, *args.input]
    if not inputs:
        raise UserError(
            f"No image is named: binsr {args.command} PATH takes files, folders and patterns."
        )
    return find_images(inputs)


def add_strength(parser: argparse.ArgumentParser, default: float | None = 1.0) -> None:
    """Declares ``--strength``; without a default it depends on the picture."""
    usual = "all of it, 1" if default else "all of it; less for JPEG files of high quality"
    parser.add_argument(
        "--strength",
        type=share,
        default=default,
        metavar="0..1",
        help=f"how much of the change is applied (default: {usual})",
    )


def run(
    args: argparse.Namespace,
    choose: Callable[[list[Path], int | None], list[Group]],
    suffix: str | None = None,
) -> int:
    """Restores the named images, and returns the exit status.

    Args:
        args: The flags of ``add_arguments``.
        choose: ``(images, memory) -> groups``, from the images and the bytes for a tile.
        suffix: The suffix of outputs of the same size; ``_restored`` by default.
    """
    if not args.json:
        return _run(args, choose, suffix, None)
    rows = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        return _run(args, choose, suffix, rows)


def _run(
    args: argparse.Namespace,
    choose: Callable[[list[Path], int | None], list[Group]],
    suffix: str | None,
    rows: TextIO | None,
) -> int:
    """``run``, which writes rows of JSON to a file if there is one."""
    files, problems = ([], []) if args.watch else named_images(args)
    batches = _watched(args) if args.watch else iter([files])
    memory = round(args.memory * 2**30) if args.memory else None
    from binsr_jax.deploy.jobs import Outcome, run_jobs
    from binsr_jax.enhance import parse

    options = Options(
        tile=args.tile,
        ensemble=args.ensemble,
        overwrite=args.overwrite,
        quality=args.quality,
        most_pixels=int(args.max_megapixels * 1e6),
        pre=parse(args.pre, "pre"),
        post=parse(args.post, "post"),
    )
    keep_compiled_programs()
    outcome, left_out, enlarges = Outcome(failed=problems), 0, False
    interruptible = (
        contextlib.suppress(KeyboardInterrupt) if args.watch else contextlib.nullcontext()
    )
    with interruptible, sigterm_interrupts():
        for files in batches:
            groups = choose(files, memory)
            scale = groups[0].upscaler.scale
            enlarges = scale > 1
            usual = f"_x{scale}" if enlarges else (suffix or "_restored")
            usual = usual if args.suffix is None else args.suffix
            jobs = plan_jobs(files, args.output, usual, args.format)
            left_out += len(files) - len(jobs)
            for group in groups:

                def tell(ending: "Ending", network: str = group.network) -> None:
                    outcome.add(ending)
                    if rows is not None:
                        print(json.dumps(_row(ending, network)), file=rows, flush=True)
                    if args.watch and ending.error:
                        _print_error(ending.error)

                part = [job for job in jobs if job.source in group.images]
                run_jobs(group.upscaler, part, options, tell)
    if left_out:
        print(f"{left_out} left out, as the outputs of others.")
    done = "enlarged" if enlarges else "restored"
    if args.watch:
        print(_summary(outcome, done))
        return 0
    return report(outcome, done)


def _watched(args: argparse.Namespace) -> Iterator[list[Path]]:
    """Lists of images that arrive in the named folders; the first one is empty.

    Raises:
        UserError: The arguments name no folders, or no other one for the outputs.
    """
    folders = [expanded(name) for name in [*args.images, *args.input]]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--watch takes folders, and {folder} is not one.")
    if not folders or not args.output:
        raise UserError(
            f"--watch takes a folder to watch, and another one for the outputs: binsr "
            f"{args.command} FOLDER --watch -o OUTPUTS."
        )
    output = expanded(args.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make the folder {output} ({error.strerror}).") from error
    if any(output.samefile(folder) for folder in folders):
        raise UserError(f"{output} is watched: choose another folder for the outputs with -o.")
    print(printable(f"Waiting for images in {', '.join(map(str, folders))}; Ctrl-C ends."))

    def images() -> Iterator[list[Path]]:
        yield []  # so that a wrong model is reported before an image arrives
        yield from arrivals(folders, _pause)

    return images()


def _pause() -> None:
    time.sleep(_LOOK)


def _row(ending: "Ending", network: str) -> dict[str, object]:
    """What ``--json`` prints about an image."""
    return {
        "input": str(ending.job.source),
        "output": str(ending.job.target),
        "state": ending.state,
        "model": network,
        "size": ending.size,
        "output_size": ending.output_size,
        "seconds": None if ending.seconds is None else round(ending.seconds, 3),
        "notes": ending.notes,
        "error": ending.error,
    }


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Makes SIGTERM end its block like Ctrl-C, which leaves no half-written files."""
    ends = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, ends)


def report(outcome: "Outcome", done: str) -> int:
    """Prints a summary of the jobs, and returns the exit status.

    Args:
        outcome: The outcome of the jobs.
        done: What was done with the images, such as ``enlarged``.
    """
    print(_summary(outcome, done))
    for sentence in outcome.failed:
        _print_error(sentence)
    return 1 if outcome.failed else 0


def _summary(outcome: "Outcome", done: str) -> str:
    """How many jobs have ended in which way."""
    counts = [f"{outcome.done} {done}"]
    if outcome.skipped:
        counts.append(f"{outcome.skipped} skipped: the output exists (--overwrite replaces it)")
    if outcome.failed:
        counts.append(f"{len(outcome.failed)} failed")
    return ", ".join(counts) + "."


def _print_error(sentence: str) -> None:
    print(printable("error: " + " ".join(sentence.split())), file=sys.stderr)


def load(model: str | Path, memory: int | None) -> "Upscaler":
    """Loads a network: see ``deploy.upscaler.load``."""
    from binsr_jax.deploy import upscaler

    return upscaler.load(model, memory=memory)


def load_one(
    model: str | Path, scale: int | None, memory: int | None, otherwise: str, strength: float = 1.0
) -> "Upscaler":
    """Loads a network, and refuses one with another scale.

    Args:
        model: A model file, or the name of a packaged network.
        scale: The requested scale; None accepts any.
        memory: Bytes for a tile.
        otherwise: The alternative to another network, for the error message.
        strength: How much of the change is applied.
    """
    if strength == 1:
        upscaler = load(model, memory=memory)
    else:
        from binsr_jax.deploy.steps import load_steps

        upscaler = load_steps([model], strength=strength, memory=memory)
    if scale not in (None, upscaler.scale):
        does = f"enlarges {upscaler.scale} times" if upscaler.scale > 1 else "keeps the size"
        wanted = f"enlarge {scale} times" if scale != 1 else "keep the size"
        raise UserError(
            f"The model {model} {does}, and does not {wanted}: take another with -m, or "
            f"{otherwise}."
        )
    return upscaler


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Returns a parser of integers in a range."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from error
        if value < least or (most is not None and value > most):
            limits = f"at least {least}" if most is None else f"{least} to {most}"
            raise argparse.ArgumentTypeError(f"{value} is not {limits}")
        return value

    return parse


def amount(text: str) -> float:
    """Parses a number above 0."""
    value = _number(text)
    if not (0 < value < math.inf):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def share(text: str) -> float:
    """Parses a number in 0..1."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not in 0..1")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error
