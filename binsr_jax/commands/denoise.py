"""Remove noise from images; the noise level need not be known.

Outputs have the size of their images and are named photo_denoised.png and so on. --strength 0.5
applies half of the change. Everything else is as in binsr upscale.

    binsr denoise photo.jpg
    binsr denoise photos/ -o clean/ -f png --strength 0.7
"""

import argparse

from binsr_jax.commands import cleaning


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of ``binsr denoise``."""
    cleaning.add_arguments(parser, "denoise")


def run(args: argparse.Namespace) -> int:
    """Runs ``binsr denoise``."""
    return cleaning.run(args, "denoise")
