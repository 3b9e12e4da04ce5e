"""Draws the pictures of the model cards: details before and after a network.

    python benchmarks/cards.py --data-dir FOLDER -o docs/images [--only denoise dejpeg]

A row shows a detail of a Kodak photograph (the set Kodak24 in FOLDER): the network's input, at
scale by bicubic, its output and the original. No packaged network learned from these photographs.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import binsr_jax
from binsr_jax.data.degradations import DEGRADATIONS, as_image

SIDE, GAP = 240, 4  # of a detail and between details, in pixels
# Photographs, and the top left of a detail in each.
DETAILS = {"kodim08": (150, 250), "kodim19": (380, 180)}
# The degradation of a network's input and its level, by the network.
INPUTS = {
    "x2-fast": ("bicubic", 0),
    "x3": ("bicubic", 0),
    "x4": ("bicubic", 0),
    "x2-photo-commercial": ("photo", 60),
    "x4-photo": ("photo", 60),
    "denoise": ("noise", 25),
    "dejpeg": ("jpeg_420", 15),
}


def row(name: str, original: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
    """Details of the input, the output and the original, side by side, uint8 ``[SIDE, W, 3]``."""
    network = binsr_jax.load(name)
    degradation, level = INPUTS[name]
    scale = binsr_jax.pretrained.NETWORKS[name].scale
    lq, hq = DEGRADATIONS[degradation].benchmark(original, scale, level)
    output = network.upscale(as_image(lq, 1))
    top, left = corner
    gap = np.full((SIDE, GAP, 3), 255, np.uint8)
    details = [
        picture[top : top + SIDE, left : left + SIDE]
        for picture in (as_image(lq, scale), output, hq)
    ]
    return np.hstack([details[0], gap, details[1], gap, details[2]])


def main() -> None:
    """Draws and writes."""
    parser = argparse.ArgumentParser(description="The pictures of the model cards.")
    parser.add_argument("--data-dir", type=Path, required=True, help="has Kodak24")
    parser.add_argument("--only", nargs="+", choices=INPUTS, default=list(INPUTS))
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    for name in options.only:
        rows = []
        for file, corner in DETAILS.items():
            with Image.open(options.data_dir / "Kodak24" / f"{file}.png") as picture:
                rows.append(row(name, np.asarray(picture.convert("RGB")), corner))
        gap = np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)
        sheet = np.vstack([part for detail in rows for part in (gap, detail)][1:])
        target = options.output / f"{name}.webp"
        Image.fromarray(sheet).save(target, quality=90, method=6)
        print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
