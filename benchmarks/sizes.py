"""Measures the cost of pictures of many sizes, beside the arithmetic of their network.

    python benchmarks/sizes.py --data-dir FOLDER --sets Set5,LIVE1,B100

A packaged network enlarges all pictures of the sets, and as many crops of odd sizes, in one
process. Then it enlarges them again; by then all that is made once for a size exists, so this is
the time of the arithmetic. The results must be equal. The ratio of CPU times is also given, since a
busy machine changes it less. Prints Markdown.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np
from inference import print_machine, print_table

import binsr_jax
from binsr_jax.data.images import read_rgb
from binsr_jax.image_files import list_images


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--sets", default="Set5,LIVE1,B100")
    parser.add_argument("--model", default="x2", help="a packaged network, or a model file")
    args = parser.parse_args()
    print_machine()
    pictures = varied([p for name in args.sets.split(",") for p in read(args.data_dir / name)])
    upscaler = binsr_jax.load(args.model)
    upscaler.upscale(pictures[0][:32, :32])  # what is made once for a network
    before = peak()
    first, again = passed(upscaler, pictures), passed(upscaler, pictures)
    equal = all(np.array_equal(a, b) for a, b in zip(first[1], again[1], strict=True))
    megapixels = sum(p.shape[0] * p.shape[1] for p in pictures) / 1e6
    shapes = len({p.shape for p in pictures})
    columns = ["pictures", "sizes", "megapixels", "first time, s", "again, s", "ratio", "of CPU"]
    ratios = [f"{one / other:.2f}" for one, other in zip(first[0], again[0], strict=True)]
    row = [len(pictures), shapes, megapixels, first[0][0], again[0][0], *ratios, peak() - before]
    print_table([*columns, "MB more"], [row])
    if not equal:
        raise SystemExit("The results differ.")


def read(folder: Path) -> list[np.ndarray]:
    hr = folder / "HR"
    return [read_rgb(file) for file in list_images(hr if hr.is_dir() else folder)]


def varied(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """The pictures, cropped to sizes of their own."""
    return [
        picture[: max(32, picture.shape[0] - 2 * i), : max(32, picture.shape[1] - 3 * i % 100)]
        for i, picture in enumerate(pictures)
    ]


def passed(upscaler, pictures: list[np.ndarray]) -> tuple[tuple[float, float], list[np.ndarray]]:
    """Seconds for all pictures, also of the CPU, and corners of the results, to tell them apart."""
    clocks, corners = (time.perf_counter, time.process_time), []
    started = [clock() for clock in clocks]
    for picture in pictures:
        corners.append(upscaler.upscale(picture)[-64:, -64:].copy())
    wall, cpu = (clock() - start for clock, start in zip(clocks, started, strict=True))
    return (wall, cpu), corners


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000  # of kB on Linux


if __name__ == "__main__":
    main()
