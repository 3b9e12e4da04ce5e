"""Enlarge images: twice with the network that comes with the package, or as a model file says.

Outputs are called like their images with a suffix, such as photo_x2.png or photo_restored.png, and
lie beside them or in the folder given with -o. Outputs that are there are left alone, so a run that
was interrupted goes on where it was. An image that cannot be read does not stop the others: it is
named at the end, and the exit status is 1. Of images that would go to one file the second gets its
ending or its folder into its name.

Large images are worked in tiles that overlap by as far as the network looks, with the same result
as in one piece. Memory: about 8 + 8 scale^2 bytes for each pixel of an image, and --memory.

    binsr upscale photo.jpg
    binsr upscale photos/ 'scans/**/*.tif' -o large/ -f png -m model.binsr
"""

import argparse
import math
import signal
import sys
from collections.abc import Callable

from binsr_jax.deploy.jobs import FORMATS, Options, find_images, plan_jobs, run_jobs
from binsr_jax.deploy.upscaler import PRETRAINED, load
from binsr_jax.errors import UserError
from binsr_jax.files import printable
from binsr_jax.launcher import check_kernel, keep_compiled_programs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of ``binsr upscale``."""
    defaults = Options()
    add = parser.add_argument
    add("images", nargs="*", metavar="PATH", help="files, folders, patterns")
    add("-i", "--input", nargs="+", default=[], metavar="PATH", help="more of them")
    add("-o", "--output", metavar="PATH", help="a folder, or a file for one image")
    add("-m", "--model", metavar="FILE", default=PRETRAINED, help="a model file of binsr pack")
    add("-s", "--scale", type=int, help="refuse a model that enlarges another number of times")
    add("-t", "--tile", type=_whole(1), default=0, help="side of tiles (default: by the memory)")
    formats = [ending[1:] for ending in FORMATS]
    add("-f", "--format", choices=formats, help="of outputs (default: the image's, or png)")
    add("--suffix", help="of an output's name (default: _x and the scale, or _restored)")
    add("--overwrite", action="store_true", help="make outputs again that are there")
    add("-x", "--ensemble", action="store_true", help="average over 8 flips and rotations: 8x time")
    add(
        "--memory",
        type=_amount,
        metavar="GIB",
        help="for a tile (default: 1, or 1/4 of what is free)",
    )
    add("--quality", type=_whole(1, 100), default=defaults.quality, help="of JPEG and WebP")
    add(
        "--max-megapixels",
        type=_amount,
        default=defaults.most_pixels / 1e6,
        metavar="MP",
        help="larger images are refused (default: %(default)g)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs ``binsr upscale``."""
    memory = round(args.memory * 2**30) if args.memory else None
    inputs = [*args.images, *args.input]
    if not inputs:
        raise UserError("No image is named: binsr upscale PATH takes files, folders and patterns.")
    files = find_images(inputs)
    keep_compiled_programs()
    check_kernel()
    upscaler = load(args.model, memory=memory)
    if args.scale not in (None, upscaler.scale):
        otherwise = "leave out -s" if args.command == "upscale" else "enlarge with binsr upscale"
        raise UserError(
            f"The model {args.model} enlarges {upscaler.scale} times, not {args.scale}: take "
            f"another with -m, or {otherwise}."
        )
    enlarges = upscaler.scale > 1
    usual = f"_x{upscaler.scale}" if enlarges else "_restored"
    suffix = usual if args.suffix is None else args.suffix
    jobs = plan_jobs(files, args.output, suffix, args.format)
    options = Options(
        tile=args.tile,
        ensemble=args.ensemble,
        overwrite=args.overwrite,
        quality=args.quality,
        most_pixels=int(args.max_megapixels * 1e6),
    )
    ends = signal.signal(signal.SIGTERM, signal.default_int_handler)  # leaves no half files either
    try:
        outcome = run_jobs(upscaler, jobs, options)
    finally:
        signal.signal(signal.SIGTERM, ends)
    if len(jobs) < len(files):
        print(f"{len(files) - len(jobs)} left out, as the outputs of others.")
    counts = [f"{outcome.done} {'enlarged' if enlarges else 'restored'}"]
    if outcome.skipped:
        counts.append(f"{outcome.skipped} left as they were (--overwrite makes them again)")
    if outcome.failed:
        counts.append(f"{len(outcome.failed)} failed")
    print(", ".join(counts) + ".")
    for sentence in outcome.failed:
        print(printable("error: " + " ".join(sentence.split())), file=sys.stderr)
    return 1 if outcome.failed else 0


def _whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """A parser of whole numbers in a range."""

    def parse(text: str) -> int:
        value = int(text)
        if value < least or (most is not None and value > most):
            limits = f"at least {least}" if most is None else f"{least} to {most}"
            raise argparse.ArgumentTypeError(f"{value} is not {limits}")
        return value

    return parse


def _amount(text: str) -> float:
    value = float(text)
    if not (0 < value < math.inf):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
