"""Scores the JPEG network at several strengths, to choose the default for files of high quality.

    python benchmarks/strength.py --data-dir FOLDER --sets LIVE1 --qualities 90,93,95,97,99

Prints PSNR on RGB of ``input + strength (output - input)``, rounded to 8 bits, for both kinds of
chroma. Strength 0 is the JPEG file itself.
"""

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

import binsr_jax
from binsr_jax.data.degradations import DEGRADATIONS
from binsr_jax.data.images import read_image
from binsr_jax.evaluation.metrics import psnr
from binsr_jax.image_files import list_images

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def main() -> None:
    """Scores and prints."""
    parser = argparse.ArgumentParser(description="PSNR over strength.")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--sets", default="LIVE1")
    parser.add_argument("--qualities", default="90,93,95,97,99")
    parser.add_argument("--model", default="dejpeg", help="a name or a model file")
    options = parser.parse_args()
    network = binsr_jax.load(options.model)
    files = [file for name in options.sets.split(",") for file in images(options.data_dir / name)]
    print(f"| quality | chroma | {' | '.join(map(str, STRENGTHS))} |")
    print(f"|---|---|{'---|' * len(STRENGTHS)}")
    for quality in map(int, options.qualities.split(",")):
        for chroma in ("4:2:0", "4:4:4"):
            degradation = DEGRADATIONS[f"jpeg_{chroma.replace(':', '')}"].benchmark
            scores = []
            for file in tqdm(files, leave=False, disable=None):
                lq, hq = degradation(read_image(file, 3), 1, quality)
                change = network.upscale(lq).astype(np.float64) - lq
                blends = [np.rint(lq + strength * change) for strength in STRENGTHS]
                scores.append(
                    [psnr(blend.astype(np.uint8), hq, border=0, luma=False) for blend in blends]
                )
            row = [f"{score:.2f}" for score in np.mean(scores, axis=0)]
            print(f"| {quality} | {chroma} | {' | '.join(row)} |", flush=True)


def images(folder: Path) -> list[Path]:
    """The images of a benchmark set."""
    return list_images(folder / "HR" if (folder / "HR").is_dir() else folder)


if __name__ == "__main__":
    main()
