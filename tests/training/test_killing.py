"""SIGKILL at random moments: a run that goes on each time ends as one that was never stopped."""

import multiprocessing
import random
import time
from pathlib import Path

import jax
import numpy as np

from binsr_jax.training.loop import train
from binsr_jax.training.scores import Validation
from binsr_jax.training.trained import load_model

KILLS = 20
STEPS = 10


def _scores(variables, step):
    return Validation({"samples/psnr": 20.0 + step % 7}, {}, {})


def _train(config, workdir: str, compiled: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_compilation_cache_dir", compiled)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    raise SystemExit(train(config, workdir, _scores))


def test_killed_at_random_moments_a_run_ends_with_the_same_parameters(tiny, tmp_path):
    config = tiny(
        **{
            "model.unit": "bbcu",
            "model.upsampler": "float",
            "model.body_end": "conv",
            "train.steps": STEPS,
            "train.batch": 2,
            "train.ema": 0.9,
            "train.checkpoint_every": 1,
            "eval.every": 3,
        }
    )
    # Children of a process that has imported everything, and started nothing yet, start at once.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["binsr_jax.training.loop", "tensorboardX"])

    def start(workdir: Path):
        process = context.Process(target=_train, args=(config, str(workdir), str(tmp_path / "jax")))
        process.start()
        return process

    def end(workdir: Path) -> float:
        """Lets a run go to its end; how long that took."""
        began = time.monotonic()
        process = start(workdir)
        process.join()
        assert process.exitcode == 0
        return time.monotonic() - began

    end(tmp_path / "compiling")
    whole = end(tmp_path / "once")
    expected = load_model(tmp_path / "once", "latest")[2]

    def check(workdir: Path) -> None:
        _, _, variables, step = load_model(workdir, "latest")
        killed = f"killed after {moments} seconds"
        assert step == STEPS, killed
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, killed), variables, expected)

    draw, moments, kills, run = random.Random(0), [], 0, 0
    workdir = tmp_path / "killed0"
    while kills < KILLS:
        moment = draw.uniform(0, whole)
        moments.append(round(moment, 3))
        process = start(workdir)
        process.join(moment)
        if process.is_alive():
            process.kill()
            process.join()
            kills += 1
            continue
        assert process.exitcode == 0, f"killed after {moments} seconds"
        check(workdir)
        run, moments = run + 1, []
        workdir = tmp_path / f"killed{run}"
    end(workdir)
    check(workdir)
