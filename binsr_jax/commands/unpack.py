"""Make a work dir from a model file, from which another run can start.

binsr unpack x4 -o runs/box
binsr train --config bin_edsr:scale=4 --workdir runs/mine --config.train.init_from=runs/box

The default is the packaged network x2. The work dir gets the file's training settings, or the
defaults if these are invalid.

A model file has only the signs of the binary weights. Their latent weights start with one magnitude
per channel, and training has to learn again which of them are close to a change of sign. A
trainable file (binsr pack --trainable) still has them; the trainable files of the packaged networks
are in the repository's folder models/. --config.train.init_from takes either file, or a work dir.
"""

import argparse
import sys
from pathlib import Path

from binsr_jax.deploy.description import without_training
from binsr_jax.deploy.unpack import read_network
from binsr_jax.errors import UserError
from binsr_jax.files import printable
from binsr_jax.pretrained import file_of
from binsr_jax.tasks import task_of
from binsr_jax.training.settings import check_settings
from binsr_jax.training.trainable import SUFFIX
from binsr_jax.training.transfer import digest, start_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``binsr unpack``."""
    add = parser.add_argument
    add(
        "file",
        nargs="?",
        default="x2",
        metavar="FILE",
        help="a model file, a trainable file, or a name of binsr models (default: x2)",
    )
    add("-o", "--output", required=True, type=Path, metavar="DIR", help="the work dir to make")


def run(args: argparse.Namespace) -> None:
    """Runs ``binsr unpack``."""
    file = file_of(args.file)
    network = read_network(file)
    config = network.config
    try:
        check_settings(config)
    except UserError as error:
        sentence = f"{file}: its training settings are ignored: {error}"
        print(printable(sentence), file=sys.stderr)
        config = without_training(config)
    start_run(args.output, config, network.variables, f"unpacked {digest(file)}")
    settings = config.model
    print(
        f"{printable(str(args.output))}: {task_of(config).name}, {settings.name} of "
        f"{settings.blocks} "
        f"blocks of {settings.features} channels"
    )
    if file.suffix != SUFFIX:
        print(
            "Its latent weights are lost: each starts as its sign times its channel's scale. "
            "A trainable file of the network, if there is one, keeps them."
        )
