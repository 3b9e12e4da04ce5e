"""Pack a trained network into a model file: its binary weights become bits.

binsr pack --workdir runs/quickstart -o model.binsr
binsr pack --workdir runs/mine -o mine.binsr --trainable mine.safetensors
binsr pack --workdir mine.safetensors -o mine.binsr
binsr pack --workdir runs/mine -o mine.binsr --floats int8

The second command also writes a trainable file with the latent weights, from which training can
continue (--config.train.init_from=mine.safetensors). The third makes the same model file from it.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from binsr_jax import models
from binsr_jax.commands.info import describe
from binsr_jax.deploy.model_file import PackedModel, fingerprint
from binsr_jax.deploy.pack import from_network, network_at, pack
from binsr_jax.errors import UserError
from binsr_jax.evaluation.benchmark import score_set
from binsr_jax.evaluation.metrics import SCORES
from binsr_jax.evaluation.sets import BenchmarkSet, load_set
from binsr_jax.files import printable
from binsr_jax.models.restoring import restorer
from binsr_jax.nn.packed import PackedConv
from binsr_jax.ops.quantise import FLOATS
from binsr_jax.training.trainable import SUFFIX


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``binsr pack``."""
    add = parser.add_argument
    add("--workdir", required=True, metavar="DIR", help="a work dir, or a trainable file")
    add("--trainable", type=Path, metavar="FILE", help="also write this trainable file")
    add("--name", help="a name for the network, stored in the file")
    add("--terms", help="the terms of the weights, stored in the file")
    add("--scores", type=Path, metavar="FILE", help="a results.jsonl, whose mean scores are stored")
    add("-o", "--output", required=True, type=Path, metavar="FILE", help="the model file")
    add("--which", choices=("best", "latest"), default="best", help="checkpoint (default: best)")
    floats = (
        "the type of stored floats; another one than float32 also prints the PSNR that it costs "
    )
    floats += (
        "(default: float32). int8: kernels in int8, with a step per output channel, and all other "
    )
    floats += "floats in float16"
    add("--floats", choices=FLOATS, default=FLOATS[0], help=floats)
    add(
        "--half",
        dest="floats",
        action="store_const",
        const="float16",
        help="the same as --floats float16",
    )
    add(
        "--set",
        default="samples",
        metavar="NAME",
        help="benchmark set of that PSNR (default: samples)",
    )
    add("--data-dir", default="", metavar="DIR", help="folder of the set (default: $BINSR_DATA)")


def run(args: argparse.Namespace) -> None:
    """Runs ``binsr pack``."""
    if args.trainable is not None and args.trainable.suffix != SUFFIX:
        raise UserError(f"A trainable file ends in {SUFFIX}: name {args.trainable} so.")
    about: dict[str, Any] = {key: text for key in ("name", "terms") if (text := getattr(args, key))}

    def packed() -> PackedModel:
        return pack(args.workdir, args.output, args.which, args.floats, args.trainable, about)

    model = packed()
    if args.scores is not None:
        scores = _scores(args.scores, model)
        about["scores"] = {**model.provenance.get("scores", {}), **scores}
        model = packed()
    print(describe(model, args.output))
    if args.trainable is not None:
        print(f"trainable:  {args.trainable}, {args.trainable.stat().st_size:,} bytes")
    if args.floats != FLOATS[0]:
        images = load_set(args.set, args.data_dir, model.task)
        exact = from_network(network_at(args.workdir, args.which))
        before, after = (_psnr(m, images) for m in (exact, model))
        print(
            f"{args.floats + ':':12}{after:.4f} dB on {printable(args.set)} ({images.protocol}), "
            f"{after - before:+.4f} dB against float32"
        )


def _scores(path: Path, model: PackedModel) -> dict[str, float]:
    """The means of the sets in a results.jsonl of ``binsr evaluate``, by set and score.

    The scores of other networks and of the input are left out. Scores by another task's protocol
    have its name in front. If a set was scored several times, the last scores are used.
    """
    network = fingerprint(model)
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        means = [row for row in rows if "images" in row and row.get("network") == network]
        scores = {}
        for row in means:
            before = "" if row["task"] == model.task.name else f"{row['task']}: "
            for score in SCORES:
                if isinstance(row.get(score), float):
                    scores[f"{before}{row['set']}/{score}"] = round(row[score], 4)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read: name the results.jsonl of binsr evaluate --model."
        ) from error
    if not scores:
        raise UserError(
            f"{path} holds no scores of this network, which was packed without them: run binsr "
            "evaluate --model on it first."
        )
    return scores


def _psnr(model: PackedModel, images: BenchmarkSet) -> float:
    config = model.config
    network = models.build(config, conv=PackedConv)
    restore = restorer(network, {"params": model.params}, model.task.channels)
    return score_set(images, restore)[-1]["psnr"]
