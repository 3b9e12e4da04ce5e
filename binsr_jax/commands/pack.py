"""Makes a model file of a trained network: its binary weights become bits.

binsr pack --workdir runs/quickstart -o model.binsr
"""

import argparse
from pathlib import Path

from binsr_jax import models
from binsr_jax.commands.info import describe
from binsr_jax.deploy.model_file import PackedModel
from binsr_jax.deploy.pack import from_workdir, pack
from binsr_jax.evaluation.benchmark import restorer, score_set
from binsr_jax.evaluation.sets import BenchmarkSet, load_set
from binsr_jax.files import printable
from binsr_jax.nn.packed import PackedConv


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``binsr pack``."""
    add = parser.add_argument
    add("--workdir", required=True, metavar="DIR", help="where it was trained")
    add("-o", "--output", required=True, type=Path, metavar="FILE", help="the model file")
    add("--which", choices=("best", "latest"), default="best", help="checkpoint (default: best)")
    add("--half", action="store_true", help="store floats in 16 bits, and print the PSNR it costs")
    add("--set", default="samples", metavar="NAME", help="for that PSNR (default: samples)")
    add("--data_dir", default="", metavar="DIR", help="folder of the set (default: $BINSR_DATA)")


def run(args: argparse.Namespace) -> None:
    """Runs ``binsr pack``."""
    model = pack(args.workdir, args.output, args.which, args.half)
    print(describe(model, args.output))
    if args.half:
        images = load_set(args.set, args.data_dir, model.task)
        before, after = (_psnr(m, images) for m in (from_workdir(args.workdir, args.which), model))
        print(
            f"float16:    {after:.4f} dB on {printable(args.set)} ({images.protocol}), "
            f"{after - before:+.4f} dB against float32"
        )


def _psnr(model: PackedModel, images: BenchmarkSet) -> float:
    config = model.config
    network = models.build(config, conv=PackedConv)
    restore = restorer(network, {"params": model.params}, model.task.channels)
    return score_set(images, restore)[-1]["psnr"]
