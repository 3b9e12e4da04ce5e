"""Measures the time of ``binsr`` from start to end, for a picture of 384x256 pixels.

    python benchmarks/start.py              # add --rounds 3 for fewer runs of each

Each figure is the median over rounds, and the range, each in a new process. A "new machine" has
empty caches, so the compiler runs. A "first picture" finds the native code only, so the network is
traced. "cached" finds everything. "CPU" is the time of all cores, with the compiler's; a busy
machine changes it less. The machine should be idle. Prints Markdown.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from inference import print_machine, print_table
from PIL import Image

from binsr_jax.data.sources import SAMPLES
from binsr_jax.image_files import list_images

SIZE = (384, 256)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", default="x2", help="a packaged network, or a model file")
    args = parser.parse_args()
    print_machine()
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(Path(folder), args.model, args.rounds)
    print_table(["what", "median, s", "range, s", "CPU, median, s"], rows)


def measured(folder: Path, model: str, rounds: int) -> list[list[str]]:
    """A row for each case."""
    home, picture, output = folder / "home", folder / "picture.png", folder / "picture_x2.png"
    with Image.open(list_images(SAMPLES / "valid")[0]) as image:
        image.convert("RGB").resize(SIZE).save(picture)
    cache = home / ".cache" / "binsr-jax"
    upscale = ["upscale", str(picture), "-m", model, "-o", str(output)]

    def clear(*names: str) -> None:
        output.unlink(missing_ok=True)
        for name in names:
            shutil.rmtree(cache / name, ignore_errors=True)

    cases = {
        "new machine, with the compiler's run": (upscale, ("native", "programs", "jax"), 0),
        "first picture of a network": (upscale, ("programs", "jax"), 0),
        "a picture, everything cached": (upscale, (), 0),
        "nothing to do, the output is there": (upscale, None, 0),
        "a missing file": (["upscale", str(folder / "none.png")], (), 1),
        "binsr --help": (["--help"], (), 0),
    }
    environment = {**os.environ, "HOME": str(home)}
    home.mkdir()
    rows = []
    for what, (arguments, cleared, status) in cases.items():
        seconds, cpu = [], []
        for _ in range(rounds):
            if cleared is not None:
                clear(*cleared)
            before = cpu_of_children()
            seconds.append(run(arguments, environment, status))
            cpu.append(cpu_of_children() - before)
        low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
        row = [what, f"{middle:.2f}", f"{low:.2f} .. {high:.2f}", f"{statistics.median(cpu):.2f}"]
        rows.append(row)
    return rows


def run(arguments: list[str], environment: dict[str, str], status: int) -> float:
    """Seconds of a process of ``binsr``, which must end with this status."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "binsr_jax", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode != status:
        raise SystemExit(f"binsr {' '.join(arguments)}: {done.stderr}")
    return seconds


def cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
