"""Remove JPEG artifacts from images: blocks, ringing and false colours.

Outputs have the size of their images and are named photo_dejpeg.png and so on. --strength 0.5
applies half of the change. Everything else is as in binsr upscale.

    binsr dejpeg photo.jpg
    binsr dejpeg photos/ -o clean/ -f png --strength 0.7
"""

import argparse
from pathlib import Path

from binsr_jax.commands import pictures
from binsr_jax.pretrained import find


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of ``binsr dejpeg``."""
    pictures.add_arguments(parser, "_dejpeg")
    pictures.add_strength(parser)
    help_ = "a name, or a model file (default: the packaged network)"
    parser.add_argument("-m", "--model", metavar="MODEL", help=help_)


def run(args: argparse.Namespace) -> int:
    """Runs ``binsr dejpeg``."""
    model = args.model or find("dejpeg").name

    def choose(files: list[Path], memory: int | None) -> list[pictures.Group]:
        otherwise = "enlarge with binsr upscale"
        upscaler = pictures.load_one(model, 1, memory, otherwise, args.strength)
        return [pictures.Group(model, upscaler, files)]

    return pictures.run(args, choose, "_dejpeg")
