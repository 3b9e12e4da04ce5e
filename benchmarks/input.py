"""Measures the pictures per second of the training input, beside the training step.

    python benchmarks/input.py                               # everything, a few minutes
    python benchmarks/input.py --images 8 --workers 0 --batches 100 --no-step

Pictures are synthetic, of DIV2K's size (2040x1404), with the detail and noise that make a PNG file
of it as slow to decode as a photograph's. They are decoded once, with their LR images, into a cache
folder. A cold start finds none, a warm one finds it; either is the time of a new process from its
config to its first batch. The rate is that of 16 patches of 64x64 pixels a batch after that. Memory
is that of the process and its workers together: their own at its highest, and pages of the cache,
which the system takes back when it needs them. The step is that of BBCU in benchmarks/training.py,
whose options of a shape are its defaults here. Prints Markdown.
"""

import argparse
import functools
import itertools
import json
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inference import print_machine, print_table, run_job

SIZE = (1404, 2040)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", default="16,64", help="how many pictures, one or more counts")
    parser.add_argument("--workers", default="0,1,2", help="config.data.workers, one or more")
    parser.add_argument("--batches", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-step", action="store_true", help="leave out the training step")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        print(json.dumps(JOBS[(job := json.loads(args.job)).pop("kind")](**job)))
        return

    run = functools.partial(run_job, threads=args.threads, script=__file__)
    print_machine()
    eaten = None
    if not args.no_step:
        eaten = run({"kind": "step", "threads": args.threads})["rate"]
        print(f"The step takes {eaten:.1f} pictures a second.\n")
    counts, workers = ([int(n) for n in text.split(",")] for text in (args.images, args.workers))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            make_pictures(Path(folder), count)
            for number, worker in enumerate(workers):
                job = {"kind": "input", "folder": folder, "workers": worker}
                cold = None
                if number == 0:
                    cold = run(job | {"batches": 1})["start"]
                warm = run(job | {"batches": args.batches})
                times = "" if eaten is None else f"{warm['rate'] / eaten:.1f}"
                started = "" if cold is None else f"{cold:.1f}"
                row = [count, worker, started, warm["start"], warm["rate"], times]
                rows.append([*row, warm["own"], warm["pages"]])
    columns = ["pictures", "workers", "cold start, s", "warm start, s", "pictures a second"]
    columns += ["times the step's", "own memory, MB", "pages of the cache, MB"]
    print(f"### Input; threads: {args.threads}, batches: {args.batches}\n")
    print_table(columns, rows)


def make_pictures(folder: Path, count: int) -> None:
    """Adds PNG files to a folder until it holds so many."""
    import numpy as np
    from PIL import Image

    height, width = SIZE
    for i in range(count):
        path = folder / f"{i:04}.png"
        if path.exists():
            continue
        rng = np.random.default_rng(i)
        picture = rng.normal(0, 3, (height, width, 3))
        for cell in (4, 16, 64):  # shapes of several sizes
            coarse = rng.integers(0, 80, (height // cell + 1, width // cell + 1, 3), np.uint8)
            enlarged = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
            picture += np.asarray(enlarged)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, compress_level=1)


def input_job(folder: str, workers: int, batches: int) -> dict[str, float]:
    """Seconds to the first batch, pictures a second after it, and megabytes."""
    from binsr_jax.config import default
    from binsr_jax.data.pipeline import training_batches

    config = default()
    config.data.source, config.data.dir = "folder", folder
    config.data.cache_dir, config.data.workers = f"{folder}/cache", workers
    start = time.perf_counter()
    with training_batches(config) as iterator:
        next(iterator)
        first = time.perf_counter()
        own, pages = _memory()
        for step, batch in enumerate(itertools.islice(iterator, batches)):
            assert len(batch["hq"]) == config.train.batch
            if step % 50 == 0:
                own, pages = (max(pair) for pair in zip((own, pages), _memory(), strict=True))
        rate = batches * config.train.batch / (time.perf_counter() - first)
    return {"start": first - start, "rate": rate, "own": own, "pages": pages}


def _memory() -> tuple[float, float]:
    """Megabytes of this process and its children: their own, and pages of files."""
    children = " ".join(p.read_text() for p in Path("/proc/self/task").glob("*/children")).split()
    texts = [Path(f"/proc/{process}/status").read_text() for process in ("self", *children)]

    def total(field: str) -> float:
        found = (re.search(rf"{field}:\s+(\d+) kB", text) for text in texts)
        return sum(int(match[1]) for match in found if match) / 1000

    return total("RssAnon"), total("RssFile")


def step_job(threads: int) -> dict[str, float]:
    """Pictures a second that a training step takes."""
    from training import SHAPE, make_side

    step = make_side("ours", "bbcu", SHAPE, threads)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return {"rate": SHAPE["batch"] / sorted(times[1:])[2]}  # the first compiles


JOBS: dict[str, Callable[..., Any]] = {"input": input_job, "step": step_job}


if __name__ == "__main__":
    main()
