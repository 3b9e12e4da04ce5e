"""Scores the JPEG network at several strengths, to choose the default for files of high quality.

    python benchmarks/strength.py --data-dir FOLDER --sets LIVE1 --qualities 90,93,95,97,99

Prints PSNR on RGB of ``input + strength (output - input)``, rounded to 8 bits, for both kinds of
chroma. Strength 0 is the JPEG file itself.
"""

import argparse

import numpy as np
from tqdm import tqdm

import binsr_jax
from binsr_jax.evaluation.metrics import psnr
from binsr_jax.evaluation.sets import load_set
from binsr_jax.recipes import open_recipe
from binsr_jax.tasks import task_of

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
TASKS = {"4:2:0": "jpeg_colour", "4:4:4": "jpeg_444"}


def main() -> None:
    """Scores and prints."""
    parser = argparse.ArgumentParser(description="PSNR over strength.")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--sets", default="LIVE1")
    parser.add_argument("--qualities", default="90,93,95,97,99")
    parser.add_argument("--model", default="dejpeg", help="a name or a model file")
    options = parser.parse_args()
    network = binsr_jax.load(options.model)
    config = open_recipe("dejpeg").config
    names = options.sets.split(",")
    print(f"| quality | chroma | {' | '.join(map(str, STRENGTHS))} |")
    print(f"|---|---|{'---|' * len(STRENGTHS)}")
    for quality in map(int, options.qualities.split(",")):
        for chroma, config.task in TASKS.items():
            task = task_of(config)
            sets = [load_set(name, options.data_dir, task, quality) for name in names]
            examples = (example for one in sets for example in one)
            scores = []
            for example in tqdm(examples, total=sum(map(len, sets)), leave=False, disable=None):
                lq, hq = example.lq, example.hq
                change = network.upscale(lq).astype(np.float64) - lq
                blends = [np.rint(lq + strength * change) for strength in STRENGTHS]
                scores.append(
                    [psnr(blend.astype(np.uint8), hq, border=0, luma=False) for blend in blends]
                )
            row = [f"{score:.2f}" for score in np.mean(scores, axis=0)]
            print(f"| {quality} | {chroma} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
