"""Counts a network's parameters, operations and bytes, of a recipe, a work dir or a model file.

binsr cost --config configs/bin_edsr.py:residual=spatial --size 360x640
binsr cost --model model.binsr
"""

import argparse
import re
import runpy
from pathlib import Path

from binsr_jax import cost
from binsr_jax.config import Config
from binsr_jax.deploy.model_file import load_model_file
from binsr_jax.errors import UserError
from binsr_jax.training.checkpoint import load_model

_MAX_SIDE = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``binsr cost``."""
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--config", metavar="FILE[:VARIANT]", help="a recipe")
    network.add_argument("--workdir", metavar="DIR", help="where a network was trained")
    network.add_argument("--model", type=Path, metavar="FILE", help="a model file of binsr pack")
    parser.add_argument(
        "--size",
        type=_size,
        default=cost.DEFAULT_SIZE,
        metavar="HxW",
        help="of the network's input; default: 180x320",
    )


def run(args: argparse.Namespace) -> None:
    """Runs ``binsr cost``."""
    print(cost.markdown(cost.count(_config(args), args.size)))


def _config(args: argparse.Namespace) -> Config:
    if args.config:
        return _recipe(args.config)
    return load_model(args.workdir)[0] if args.workdir else load_model_file(args.model).config


def _recipe(argument: str) -> Config:
    """The config of ``FILE`` or ``FILE:VARIANT``."""
    file, *variant = argument.split(":", 1)
    if not Path(file).is_file():
        raise UserError(f"There is no config file {file!r}: name a recipe such as configs/NAME.py.")
    try:
        return runpy.run_path(file)["get_config"](*variant)
    except UserError:
        raise
    except Exception as error:  # a recipe is Python: it can raise anything
        raise UserError(f"The recipe {file} fails: {type(error).__name__}: {error}.") from error


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,7})x(\d{1,7})", text)
    sides = tuple(int(side) for side in match.groups()) if match else ()
    if len(sides) != 2 or not all(0 < side <= _MAX_SIDE for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 180x320")
    return sides[0], sides[1]
