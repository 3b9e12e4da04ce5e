"""Remove JPEG artifacts from images: blocks, ringing and false colours.

Outputs have the size of their images and are named photo_dejpeg.png and so on. --strength 0.5
applies half of the change. By default, JPEG files of quality 95 or more get a part of it.
Everything else is as in binsr upscale.

    binsr dejpeg photo.jpg
    binsr dejpeg photos/ -o clean/ -f png --strength 0.7
"""

import argparse

from binsr_jax.commands import cleaning


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of ``binsr dejpeg``."""
    cleaning.add_arguments(parser, "dejpeg")


def run(args: argparse.Namespace) -> int:
    """Runs ``binsr dejpeg``."""
    return cleaning.run(args, "dejpeg")
