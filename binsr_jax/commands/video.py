"""Enlarge or clean videos and animated pictures, frame by frame.

Sound, subtitles, chapters, covers, rotation, pixel aspect, colours and time stamps are kept; sound
is copied without a change. Outputs are named video_x2.mp4, or video_restored.mp4 if no step
enlarges. The same command continues an interrupted run, whatever stopped it.

Without -m and --steps, videos are enlarged 2 times, or -s times. -m is as in binsr upscale, and
--steps as in binsr restore. Animated GIF, WebP and PNG keep their times, loops and transparency.

    binsr video holiday.mp4 -o holiday_large.mp4
    binsr video old.avi --steps dejpeg,denoise,upscale --codec hevc --crf 22
    binsr video film.mkv --from 1:02:10 --to 1:02:40 -m x2-fast
    binsr video dance.gif
"""

import argparse
import hashlib
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from binsr_jax.commands import pictures
from binsr_jax.commands.restore import networks_of
from binsr_jax.deploy.choice import for_video
from binsr_jax.deploy.jobs import Outcome, failure
from binsr_jax.deploy.listing import Job, distinct
from binsr_jax.deploy.steps import load_steps
from binsr_jax.deploy.upscaler import Upscaler
from binsr_jax.enhance import parse
from binsr_jax.errors import UserError
from binsr_jax.kept import keep_compiled_programs
from binsr_jax.pretrained import KINDS, file_of, find
from binsr_jax.video import animation, require_av

_CODECS = ("h264", "hevc", "av1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of ``binsr video``."""
    add = parser.add_argument
    add("videos", nargs="+", metavar="FILE", help="videos and animated pictures")
    add("-o", "--output", metavar="PATH", help="a folder, or a file for one video")
    add("--suffix", help="of an output's name (default: _x and the scale, or _restored)")
    add("--overwrite", action="store_true", help="replace existing outputs")
    add("-m", "--model", metavar="MODEL", help=f"{', '.join(KINDS)}, a name, or a model file")
    add("--steps", metavar="STEP,...", help="dejpeg, denoise, upscale, names, or model files")
    add(
        "-s",
        "--scale",
        type=pictures.whole(1),
        help="how many times larger (default: 2, or the model file's)",
    )
    add("--from", dest="start", type=_time, default=Fraction(0), metavar="TIME", help=_TIME_HELP)
    add(
        "--to",
        dest="end",
        type=_time,
        metavar="TIME",
        help="end of the part to process, in the same form",
    )
    add("--codec", choices=_CODECS, help="codec of the output (default: h264, or av1 in WebM)")
    add("--crf", type=int, help="quality, smaller is better (default: h264 18, hevc 20, av1 28)")
    add(
        "--preset",
        help="preset of the encoder: such as slow, or 0 to 13 for av1 (default: medium, 8)",
    )
    add(
        "--quality",
        type=pictures.whole(1, 100),
        default=95,
        help="quality of animated WebP (default: %(default)s)",
    )
    pictures.add_network_arguments(parser)
    pictures.add_strength(parser)
    pictures.add_most_pixels(parser)


_TIME_HELP = "start of the part to process: seconds, M:SS or H:MM:SS, with decimals"


def run(args: argparse.Namespace) -> int:
    """Runs ``binsr video``."""
    if args.end is not None and args.end <= args.start:
        raise UserError("--to is not after --from.")
    files = [Path(name) for name in dict.fromkeys(args.videos)]
    models = _models(args)
    pre, post = parse(args.pre, "pre"), parse(args.post, "post")  # here, where it is early
    del pre, post
    keep_compiled_programs()
    memory = round(args.memory * 2**30) if args.memory else None
    upscaler = load_steps(models, strength=args.strength, memory=memory)
    if args.scale not in (None, upscaler.scale):
        raise UserError(f"The model enlarges {upscaler.scale} times, not {args.scale}.")
    outcome = Outcome()
    with pictures.sigterm_interrupts():
        for job in _jobs(files, args, upscaler.scale, outcome):
            try:
                _do(job, args, models, upscaler, outcome)
            except Exception as error:
                outcome.add(failure(job, error))
    return pictures.report(outcome, "enlarged" if upscaler.scale > 1 else "restored")


def _jobs(files: list[Path], args: argparse.Namespace, scale: int, outcome: Outcome) -> list[Job]:
    """The files with their outputs; the others are counted as failed."""
    usual = f"_x{scale}" if scale > 1 else "_restored"
    suffix = usual if args.suffix is None else args.suffix
    jobs = []
    for file in files:
        try:
            jobs.append(Job(file, _target(file, args, suffix, alone=len(files) == 1)))
        except (UserError, OSError) as error:
            outcome.add(failure(Job(file, file), error))
    return distinct(jobs, suffix)


def _do(
    job: Job, args: argparse.Namespace, models: list[str], upscaler: Upscaler, outcome: Outcome
) -> None:
    """Makes the output of one file."""
    if job.target.exists() and not args.overwrite:
        outcome.skipped += 1
        return
    most_pixels = int(args.max_megapixels * 1e6)

    def restore(image: np.ndarray) -> np.ndarray:
        return upscaler.upscale(
            image, tile=args.tile, ensemble=args.ensemble, pre=args.pre, post=args.post
        )

    if animation.is_animation(job.source):
        if args.start or args.end is not None:
            raise UserError(f"{job.source}: --from and --to are for videos, not for pictures.")
        animation.restore_animation(job, restore, upscaler.scale, most_pixels, args.quality)
    else:
        _video(job, args, models, restore, upscaler.scale, most_pixels)
    outcome.done += 1


def _video(
    job: Job,
    args: argparse.Namespace,
    models: list[str],
    restore: Callable[[np.ndarray], np.ndarray],
    scale: int,
    most_pixels: int,
) -> None:
    require_av()
    from binsr_jax.video.frames import Span
    from binsr_jax.video.job import Settings, restore_video

    network: dict[str, Any] = {
        "models": [hashlib.sha256(file_of(model).read_bytes()).hexdigest() for model in models],
        **{name: getattr(args, name) for name in _OF_A_FRAME},
    }
    settings = Settings(
        codec=args.codec or ("av1" if job.target.suffix.lower() == ".webm" else "h264"),
        crf=args.crf,
        preset=args.preset,
        span=Span(args.start, args.end),
        most_pixels=most_pixels,
        network=network,
    )
    restore_video(job, restore, scale, settings)


# Flags on which the pixels of a frame depend.
_OF_A_FRAME = ("strength", "pre", "post", "ensemble", "tile", "memory")


def _models(args: argparse.Namespace) -> list[str]:
    """The names or files of the networks that frames go through."""
    if args.steps and args.model:
        raise UserError("Give --steps or -m, not both.")
    if args.steps:
        return networks_of(args.steps, args.scale)
    if args.model is None:
        return [for_video(args.scale or 2)]
    if args.model in KINDS:
        return [find("upscale", args.scale or 2, args.model).name]
    return [args.model]


def _target(file: Path, args: argparse.Namespace, suffix: str, *, alone: bool) -> Path:
    """The file that the output of a video goes to."""
    moving = animation.is_animation(file)
    endings = animation.FORMATS if moving else _KEPT
    ending = file.suffix if file.suffix.lower() in endings else (".png" if moving else ".mkv")
    name = f"{file.stem}{suffix}{ending}"
    if args.output is None:
        target = file.with_name(name)
    elif Path(args.output).is_dir() or args.output.endswith("/"):
        target = Path(args.output) / name
    elif alone:
        target = Path(args.output)
    else:
        raise UserError(f"The output {args.output} is no folder, but there are several videos.")
    if target.exists() and file.exists() and target.samefile(file):
        raise UserError(f"{file} would be replaced by its output: give --suffix or -o.")
    return target


# Endings of videos that an output can have too; others become Matroska.
_KEPT = (".mp4", ".m4v", ".mov", ".mkv", ".webm")


def _time(text: str) -> Fraction:
    """A time in seconds, of a text such as 90, 1:30 or 0:01:30.5."""
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text} is no time such as 90, 1:30 or 0:01:30.5")
    seconds = Fraction(0)
    for part in text.split(":"):
        seconds = 60 * seconds + Fraction(part)
    return seconds
