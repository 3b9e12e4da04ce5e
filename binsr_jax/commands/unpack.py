"""Makes a work dir of a model file, from which another run can start.

binsr unpack -o runs/box
binsr train --config bin_edsr --workdir runs/mine --config.train.init_from=runs/box

Without a FILE it is the model that comes with the package. The work dir gets the file's settings of
training, or the defaults if those make no sense.
"""

import argparse
import sys
from pathlib import Path

from binsr_jax.deploy.description import without_training
from binsr_jax.deploy.model_file import load_model_file
from binsr_jax.deploy.unpack import unpack_params
from binsr_jax.deploy.upscaler import PRETRAINED
from binsr_jax.errors import UserError
from binsr_jax.files import printable
from binsr_jax.training.settings import check_settings
from binsr_jax.training.transfer import digest, start_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``binsr unpack``."""
    add = parser.add_argument
    add("file", type=Path, nargs="?", default=PRETRAINED, metavar="FILE", help="the model file")
    add("-o", "--output", required=True, type=Path, metavar="DIR", help="the work dir to make")


def run(args: argparse.Namespace) -> None:
    """Runs ``binsr unpack``."""
    model = load_model_file(args.file)
    try:
        params = unpack_params(model)
    except UserError as error:
        raise UserError(f"{args.file}: {error}") from error
    config = model.config
    try:
        check_settings(config)
    except UserError as error:
        sentence = f"{args.file}: its settings of training are left out: {error}"
        print(printable(sentence), file=sys.stderr)
        config = without_training(config)
    start_run(args.output, config, params, f"unpacked {digest(args.file)}")
    settings = model.config.model
    print(
        f"{printable(str(args.output))}: {model.task.name}, {settings.name} of {settings.blocks} "
        f"blocks of {settings.features} channels"
    )
