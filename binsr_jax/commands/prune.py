"""Make a smaller network from a trained binary one: remove the parts that matter least.

binsr prune --workdir runs/x2 --features 48 -o pruned.safetensors
binsr train --config mine.py --workdir runs/small --config.train.init_from=pruned.safetensors \\
    --config.model.features=48
binsr pack --workdir runs/small -o small.binsr

The result is a network of fewer blocks or channels, which trains, packs and runs like any other. It
is written as a trainable file, or as a work dir if -o has another ending. It has lost some PSNR;
more training recovers most of that (docs/compress.md). --by chooses how parts are scored: by the
size of their scales (scale), by a first-order Taylor expansion of the loss (taylor), or by the loss
without them (loss).
"""

import argparse
from pathlib import Path

from binsr_jax import cost
from binsr_jax.compress.importance import METHODS
from binsr_jax.compress.prune import prune
from binsr_jax.deploy.unpack import read_network
from binsr_jax.errors import UserError
from binsr_jax.files import printable
from binsr_jax.training.trainable import SUFFIX, save_trainable
from binsr_jax.training.transfer import start_run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``binsr prune``."""
    add = parser.add_argument
    source = "a work dir, a trainable file, or a model file"
    add("--workdir", required=True, metavar="DIR", help=source)
    add("--blocks", type=int, metavar="N", help="blocks to keep (default: all)")
    add("--features", type=int, metavar="N", help="channels to keep (default: all)")
    add("--by", choices=METHODS, default="taylor", help="how parts are scored (default: taylor)")
    images = "a folder of pictures to measure with (default: those in the package)"
    add("--images", default="", metavar="DIR", help=images)
    add(
        "-o",
        "--output",
        required=True,
        type=Path,
        metavar="FILE",
        help="the file or work dir to write",
    )


def run(args: argparse.Namespace) -> None:
    """Runs ``binsr prune``."""
    if args.blocks is None and args.features is None:
        raise UserError("Say how much is to be kept: --blocks N, --features N, or both.")
    network = read_network(args.workdir)
    pruned = prune(network, args.blocks, args.features, args.by, args.images)
    if args.output.suffix == SUFFIX:
        save_trainable(args.output, pruned.network)
    else:
        config, variables = pruned.network.config, pruned.network.variables
        start_run(args.output, config, variables, f"pruned {Path(args.workdir).name}")
    lines = {"units": _numbers(pruned.units), "channels": _numbers(pruned.channels)}
    print("\n".join(f"{name} kept: {numbers}" for name, numbers in lines.items()))
    before, after = (cost.count(n.config) for n in (network, pruned.network))
    for name, field in (("bytes in a model file", "file_bytes"), ("binary MACs", "binary_macs")):
        old, new = getattr(before, field), getattr(after, field)
        print(f"{name}: {new:,}, of {old:,} before ({new / max(old, 1):.0%})")
    model = pruned.network.config.model
    flags = ["--config.train.init_from"]
    if model.image_skip != "none":
        flags.append(f"--config.model.image_skip={model.image_skip}")
    flags.append(f"--config.model.blocks={model.blocks}")
    print(
        printable(str(args.output))
        + f": {model.blocks} blocks of {model.features} channels; train on from it with "
        f"{', '.join(flags)} and --config.model.features={model.features}"
    )


def _numbers(numbers: list[int]) -> str:
    """Whole numbers with runs in one: ``0-3, 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)
