"""Remove noise or JPEG artifacts from images with a packed model.

Outputs have the size of their images and are called like them with a suffix, photo_restored.png,
beside them or in the folder given with -o. A model for JPEG works an image's luma and leaves its
chroma as it is. All else is as in binsr upscale.

    binsr restore photo.png -m denoise.binsr
    binsr restore 'album/**/*.jpg' -o clean/ -f png -m jpeg.binsr
"""

import argparse

from binsr_jax.commands import upscale
from binsr_jax.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of ``binsr restore``: those of ``binsr upscale``."""
    upscale.add_arguments(parser)
    parser.set_defaults(model=None, scale=1)  # the packaged model enlarges


def run(args: argparse.Namespace) -> int:
    """Runs ``binsr restore``."""
    if args.model is None:
        raise UserError("No model is named: give a model file of binsr pack with -m.")
    if args.scale != 1:
        raise UserError("binsr restore keeps the size of images: leave out -s.")
    return upscale.run(args)
