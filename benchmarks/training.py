"""Measures time and memory of a training step, beside the same network in PyTorch.

    python benchmarks/training.py                                   # everything, about ten minutes
    python benchmarks/training.py --cases bbcu --rounds 20 --grow "" --no-memory --no-start

The network is EDSR for x2 of 64 channels with 32 binary convolutions in its body (the shape of
BBCU-L), a float upsampler and float ends; patches are 32 pixels wide and a batch is 16. Cases are
bbcu, float (EDSR of 16 blocks), and residual/binary pairs of attentions. Both sides start from the
same parameters, and loss and gradient of their first step are compared. In a round each side makes
one step. Ratios are computed within a round, so that other work on the machine affects both. Memory
and start are measured in new processes. Prints Markdown. Needs the extra ``bench``.
"""

import argparse
import functools
import itertools
import json
import os
import resource
import tempfile
import time
from collections.abc import Callable
from typing import Any

from inference import print_machine, print_table, run_job

CASES = "bbcu,float,none/none,spatial/none,none/se,spatial/se,pixel/none"
GROW = "depth,width,patch,batch"
SHAPE = {"depth": 32, "width": 64, "patch": 32, "batch": 16}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=CASES)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--grow", default=GROW, help="half and double these, or nothing")
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak memory")
    parser.add_argument("--no-start", action="store_true", help="leave out the time to a step")
    for name, size in SHAPE.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        print(json.dumps(JOBS[(job := json.loads(args.job)).pop("kind")](**job)))
        return

    shape = {name: getattr(args, name) for name in SHAPE}
    base = {"threads": args.threads, "shape": shape}
    run = functools.partial(run_job, threads=args.threads, script=__file__)
    print_machine()
    rows = []
    for case in filter(None, args.cases.split(",")):
        times = run(base | {"kind": "time", "case": case, "rounds": args.rounds})
        row = [case, times["ours"], times["torch"], _ratio(times["ratio"])]
        if not args.no_memory:
            peaks = [
                run(base | {"kind": "memory", "case": case, "side": side})["peak"]
                for side in ("ours", "torch")
            ]
            row += [*peaks, f"{peaks[0] / peaks[1]:.2f}"]
        rows.append(row)
    columns = ["case", "ours, ms", "PyTorch, ms", "ours / PyTorch (10 % .. 90 %)"]
    if not args.no_memory:
        columns += ["ours, MB", "PyTorch, MB", "ratio"]
    print(f"### A step: {_text(shape)}; threads: {args.threads}, rounds: {args.rounds}\n")
    print_table(columns, rows)

    rows = []
    for name, factor in itertools.product(filter(None, args.grow.split(",")), (0.5, 1, 2)):
        grown = shape | {name: int(shape[name] * factor)}
        job = base | {"case": "bbcu", "shape": grown}
        times = run(job | {"kind": "time", "rounds": max(3, args.rounds // 2)})
        peak = run(job | {"kind": "memory", "side": "ours"})["peak"]
        rows.append([_text(grown), times["ours"], times["torch"], _ratio(times["ratio"]), peak])
    if rows:
        print("### How a step of bbcu grows\n")
        print_table(["shape", "ours, ms", "PyTorch, ms", "ratio", "ours, MB"], rows)

    if not args.no_start:
        rows = []
        for case in filter(None, args.cases.split(",")):
            with tempfile.TemporaryDirectory() as cache:
                seconds = []
                for _ in ("cold", "warm"):
                    start = time.perf_counter()
                    run(base | {"kind": "start", "case": case, "cache": cache})
                    seconds.append(time.perf_counter() - start)
            rows.append([case, *seconds])
        print("### Seconds of a process that makes one step\n")
        print_table(["case", "nothing compiled before", "compiled before"], rows)


def make_side(side: str, case: str, shape: dict[str, int], threads: int) -> Callable[[], Any]:
    """A function that makes one training step and returns its loss and its gradient's norm."""
    import jax
    import numpy as np

    from binsr_jax.config import default
    from binsr_jax.models import build
    from binsr_jax.training.devices import make_mesh, place_batch, place_state
    from binsr_jax.training.state import create_state, make_optimizer
    from binsr_jax.training.step import make_step

    config = default()
    config.devices = 1
    config.train.batch, config.train.schedule = shape["batch"], "constant"
    config.model.features, config.model.blocks = shape["width"], shape["depth"] // 2
    config.model.body_end, config.model.upsampler = "conv", "float"
    config.model.unit = {"bbcu": "bbcu", "float": "residual"}.get(case, "attention")
    if "/" in case:
        config.model.residual_attention, config.model.binary_attention = case.split("/")
    model, optimizer = build(config), make_optimizer(config.train)
    state = jax.tree.map(np.asarray, create_state(config, model, optimizer))
    draw = np.random.default_rng(0).random
    low = (shape["batch"], shape["patch"], shape["patch"], 3)
    high = (low[0], config.scale * low[1], config.scale * low[2], 3)
    batch = {"lq": draw(low, np.float32), "hq": draw(high, np.float32)}
    if side == "torch":
        from training_peer import training_step

        return training_step(config, state.params, batch, threads)
    mesh = make_mesh(config)
    update = make_step(config, model, optimizer, mesh)
    state = place_state(state, mesh)

    def step() -> tuple[float, float]:
        nonlocal state
        state, metrics = update(state, place_batch(config, batch, mesh))
        return float(metrics["loss"]), float(metrics["gradient_norm"])

    return step


def time_job(case: str, shape: dict[str, int], threads: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of a step of both sides, and their ratio in every round."""
    import numpy as np

    steps = {side: make_side(side, case, shape, threads) for side in ("ours", "torch")}
    first = {side: step() for side, step in steps.items()}
    if not np.allclose(first["ours"], first["torch"], rtol=1e-3):
        raise SystemExit(f"{case}: not the same loss and gradient norm: {first}")
    times: dict[str, list[float]] = {side: [] for side in steps}
    for _ in range(rounds + 1):
        for side, step in steps.items():
            start = time.perf_counter()
            step()
            times[side].append(1e3 * (time.perf_counter() - start))
    ours, peer = (np.array(times[side][1:]) for side in ("ours", "torch"))  # the first warms up
    return {
        "ours": float(np.median(ours)),
        "torch": float(np.median(peer)),
        "ratio": np.percentile(ours / peer, [10, 50, 90]).tolist(),
    }


def memory_job(side: str, case: str, shape: dict[str, int], threads: int) -> dict[str, float]:
    """Megabytes of this process at its peak, when one side has made three steps."""
    step = make_side(side, case, shape, threads)
    for _ in range(3):
        step()
    return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000}  # of kB on Linux


def start_job(case: str, shape: dict[str, int], threads: int, cache: str) -> dict[str, float]:
    """Makes a first step, with the compiled programs of a folder."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache  # looked at when JAX is imported
    from binsr_jax.kept import keep_compiled_programs

    keep_compiled_programs()
    loss, _ = make_side("ours", case, shape, threads)()
    return {"loss": loss}


JOBS: dict[str, Callable[..., Any]] = {"time": time_job, "memory": memory_job, "start": start_job}


def _ratio(percentiles: list[float]) -> str:
    low, middle, high = percentiles
    return f"{middle:.2f} ({low:.2f} .. {high:.2f})"


def _text(shape: dict[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in shape.items())


if __name__ == "__main__":
    main()
