"""Measures the effect of single choices in the network and in its training.

    python benchmarks/experiments.py --data "folder:IMAGES" --steps 1000 -o experiments

Trains a small network for x2 once for each seed, and again with one change at a time. Prints a
Markdown table of PSNR on Y of 100 validation crops (DIV2K_valid_c256 in $BINSR_DATA), of the time
of the training, and of the time that the packed network takes for a megapixel. The crops belong to
no benchmark, so choices by this table leave the benchmarks unseen. The same command continues
a stopped program. ``--only`` chooses rows by their names.
"""

import argparse
import statistics
import sys
from pathlib import Path

from binsr_jax.errors import UserError
from binsr_jax.recipes import Published, open_recipe
from binsr_jax.studies.pruning import measured
from binsr_jax.studies.rows import Row, assign
from binsr_jax.studies.runs import Result, StudyStoppedError, check, train_rows

VALIDATION = "DIV2K_valid_c256"
BASE = (
    "model.blocks=3",
    "model.image_skip=bilinear",
    "model.residual_attention=spatial",
    "data.patch=64",
    "train.batch=8",
    "train.loss=psnr",
    "train.loss_epsilon=0.005",
    "train.learning_rate=0.001",
    "train.schedule=cosine",
    "train.warmup=100",
    "train.final_rate=0.00001",
    "train.ema=0.998",
    "train.compute=bfloat16",
)
# Of each experiment, what differs from the base. A network that starts from the packaged one gets
# its first blocks.
EXPERIMENTS: dict[str, tuple[str, ...]] = {
    "base": (),
    "no attention": ("model.residual_attention=none",),
    "SE on the residual": ("model.residual_attention=se",),
    "pixel attention on the residual": ("model.residual_attention=pixel",),
    "SE on the binary branch too": ("model.binary_attention=se",),
    "narrower and deeper, 32 x 9": ("model.features=32", "model.blocks=9"),
    "wider and shallower, 96 x 1": ("model.features=96", "model.blocks=1"),
    "float upsampler": ("model.upsampler=float",),
    "no upsampler": ("model.upsampler=direct",),
    "learnable weight scales": ("model.weight_scale=learnable",),
    "L1": ("train.loss=l1",),
    "luma counts twice": ("train.luma_weight=1.0",),
    "products in float32": ("train.compute=float32",),
    "twice the learning rate": ("train.learning_rate=0.002",),
    "Muon": ("train.optimizer=muon",),
    "Muon at half its rate": ("train.optimizer=muon", "train.muon_rate=0.4"),
    "Muon, and twice the learning rate": ("train.optimizer=muon", "train.learning_rate=0.002"),
    "the average over fewer steps": ("train.ema=0.99",),
    "half the batch, patches of 90": ("train.batch=4", "data.patch=90"),
    "starts from x2-photo": ("train.init_from=models/x2-photo.safetensors",),
    "learns from x2 too": ("train.teacher=binsr_jax/pretrained/sr_x2.binsr",),
}


def row(name: str, seed: int, options: argparse.Namespace) -> Row:
    """The training of an experiment with a seed."""
    config = open_recipe("bin_edsr").config
    config.train.steps = config.eval.every = options.steps
    config.train.keep = 1
    config.data.source, config.data.sources = "folder", tuple(options.data.split(","))
    config.eval.sets = (VALIDATION,)
    for setting in (*BASE, f"seed={seed}", *EXPERIMENTS[name]):
        assign(config, setting)
    folder = "".join(c if c.isalnum() else "_" for c in name)
    return Row(f"{folder}-{seed}", "bin_edsr", f"{name}, seed {seed}", config, Published(name))


def line(name: str, results: list[Result], folder: Path, base: float) -> str:
    """A row of the table."""
    if any(result.error for result in results):
        return f"| {name} | failed: {results[0].error} | | | |"
    scores = [result.scores[f"{VALIDATION}/psnr"] for result in results]
    minutes = statistics.mean((result.seconds or 0) / 60 for result in results)
    cost = measured(folder / results[0].row.name, folder / f"{results[0].row.name}.binsr", 256)
    mean = statistics.mean(scores)
    return (
        f"| {name} | {' / '.join(f'{score:.2f}' for score in scores)} | {mean - base:+.2f} | "
        f"{minutes:.1f} | {cost['seconds_per_megapixel']:.2f} |"
    )


def main() -> None:
    """Trains what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description="What a choice gives, all else equal.")
    parser.add_argument("--data", required=True, metavar="SOURCE,...", help="as data.sources")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2, help="how many")
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()

    # Seed by seed, so that a stopped program leaves whole tables of fewer seeds.
    names = ["base", *(name for name in options.only if name != "base")]
    rows = [row(name, seed, options) for seed in range(options.seeds) for name in names]
    found: dict[str, list[Result]] = {name: [] for name in names}
    for result in train_rows(rows, options.output, check(rows)):
        found[result.row.published.title].append(result)

    print(f"\n{options.steps:,} steps, PSNR of {options.seeds} seeds on {VALIDATION}\n")
    print("| changed | PSNR | against the base | minutes | s per megapixel |")
    print("|---|---|---|---|---|")
    base = statistics.mean(result.scores[f"{VALIDATION}/psnr"] for result in found["base"])
    for name, results in found.items():
        print(line(name, results, options.output, base), flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except StudyStoppedError as stopped:
        sys.exit(stopped.status)
