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
from binsr_jax.data.images import read_image
from binsr_jax.deploy.upscaler import Upscaler

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


def details(
    network: Upscaler, name: str, original: np.ndarray, corner: tuple[int, int]
) -> list[np.ndarray]:
    """Details of the input, the output and the original, uint8 ``[SIDE, SIDE, 3]`` each."""
    degradation, level = INPUTS[name]
    lq, hq = DEGRADATIONS[degradation].benchmark(original, network.scale, level)
    output = network.upscale(as_image(lq, 1))
    top, left = corner
    return [
        picture[top : top + SIDE, left : left + SIDE]
        for picture in (as_image(lq, network.scale), output, hq)
    ]


def main() -> None:
    """Draws and writes."""
    parser = argparse.ArgumentParser(description="The pictures of the model cards.")
    parser.add_argument("--data-dir", type=Path, required=True, help="has Kodak24")
    parser.add_argument("--only", nargs="+", choices=INPUTS, default=list(INPUTS))
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    for name in options.only:
        network = binsr_jax.load(name)
        step = SIDE + GAP
        sheet = Image.new("RGB", (3 * step - GAP, len(DETAILS) * step - GAP), "white")
        for i, (file, corner) in enumerate(DETAILS.items()):
            original = read_image(options.data_dir / "Kodak24" / f"{file}.png", 3)
            for j, detail in enumerate(details(network, name, original, corner)):
                sheet.paste(Image.fromarray(detail), (j * step, i * step))
        target = options.output / f"{name}.webp"
        sheet.save(target, quality=90, method=6)
        print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
