"""Measures the error of an RRDBNet's tiles against the whole picture, for several overlaps.

python benchmarks/overlap.py realesrgan_x4plus_anime_6b.safetensors photo.png --side 192

The top left of the picture is restored as a whole, and its left half with some columns of the right
half. The error of an overlap is the largest difference in the left half, in levels of 255.
"""

import argparse
from pathlib import Path

import jax
import numpy as np

from binsr_jax.data.images import read_rgb
from binsr_jax.models.building import build, shapes
from binsr_jax.models.esrgan_weights import rrdbnet_config, rrdbnet_names
from binsr_jax.models.torch_files import read_state
from binsr_jax.models.torch_weights import from_torch


def main() -> None:
    """Prints a line for each overlap."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--side", type=int, default=192, help="columns of the whole; half the rows")
    parser.add_argument("--overlaps", type=int, nargs="+", default=[16, 32, 48, 64])
    args = parser.parse_args()
    state = read_state(args.weights)
    config = rrdbnet_config(state)
    network = build(config)
    params = from_torch(state, shapes(config)["params"], rrdbnet_names(state))
    variables = {"params": params}
    run = jax.jit(network.apply)
    half = args.side // 2
    x = read_rgb(args.picture)[:half, : args.side].astype(np.float32)[None] / 255

    def left(columns: int) -> np.ndarray:
        y = np.asarray(run(variables, x[:, :, :columns]))
        return np.clip(y[:, :, : half * config.scale], 0, 1) * 255

    whole = left(args.side)
    for overlap in args.overlaps:
        tile = left(half + overlap)
        difference, changed = np.abs(tile - whole), np.mean(np.rint(whole) != np.rint(tile))
        print(
            f"overlap {overlap}: at most {difference.max():.2f} of 255, {changed:.2%} of the bytes",
            flush=True,
        )


if __name__ == "__main__":
    main()
