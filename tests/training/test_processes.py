"""Two processes train one network together, talking over this machine's loopback alone."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from binsr_jax.config import config_to_json
from binsr_jax.training.checkpoint import Checkpoints
from binsr_jax.training.loop import train
from binsr_jax.training.scores import Validation
from binsr_jax.training.trained import load_model

ROOT = Path(__file__).parents[2]
PATIENCE = 120  # seconds; on a quiet machine a few are enough


def _validate(variables, step):
    return Validation({"samples/psnr": float(step)}, {}, {"samples": "f00d"})


@contextlib.contextmanager
def _processes(config, workdir: Path, devices: int = 1) -> Iterator[list[subprocess.Popen]]:
    """Two processes of some CPU devices each; none is left at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    fields = json.dumps(config_to_json(config))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    log = workdir.with_suffix(".log")
    with log.open("w") as output, contextlib.ExitStack() as started:
        processes = []
        for index in range(2):
            command = [sys.executable, str(Path(__file__).with_name("worker.py"))]
            command += [address, "2", str(index), str(devices), fields, str(workdir)]
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            started.callback(process.wait)
            started.callback(process.kill)
            processes.append(process)
        try:
            yield processes
        except AssertionError as error:
            raise AssertionError(f"{error}\n{log.read_text()[-4000:]}") from error


def _wait(done: Callable[[], bool], processes: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert all(process.poll() in (None, 0) for process in processes), "a process died"
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def _ended(processes: list[subprocess.Popen]) -> list[int]:
    try:
        return [process.wait(PATIENCE) for process in processes]
    except subprocess.TimeoutExpired:
        raise AssertionError("a process does not end") from None


def _steps(workdir: Path) -> list[int]:
    """Steps of the checkpoints that are complete: others have a longer name."""
    return sorted(int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdigit())


def _variables(workdir: Path, step: int):
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.variables(step)


def _assert_close(a, b) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), a, b)


@pytest.mark.parametrize(("parallel", "devices"), [("mesh", 1), ("pmap", 2)])
def test_two_killed_processes_go_on_as_one(tiny, tmp_path, parallel, devices):
    # The rounding of sums differs, and Adam's usual epsilon would make it a step of full size.
    fields = {
        "parallel": parallel,
        "devices": 0,
        "train.epsilon": 1e-2,
        "train.ema": 0.9,
        "train.checkpoint_every": 2,
    }
    together, alone = tmp_path / "together", tmp_path / "alone"
    with _processes(tiny(**fields, **{"train.steps": 100_000}), together, devices) as processes:
        _wait(lambda: bool(_steps(together)), processes)
        for process in processes:
            process.kill()
        assert _ended(processes) == [-signal.SIGKILL] * 2
    saved = _steps(together)[-1]

    fields |= {"train.steps": saved + 3, "devices": 2 * devices}
    assert train(tiny(**fields), str(alone), _validate) == 0
    assert train(tiny(**fields), str(together), _validate) == 0
    _assert_close(_variables(together, saved + 3), _variables(alone, saved + 3))


def test_two_processes_end_and_score_together(tiny, tmp_path):
    fields = {"devices": 0, "train.epsilon": 1e-2, "eval.every": 2}
    together, alone = tmp_path / "together", tmp_path / "alone"
    with _processes(tiny(**fields), together) as processes:
        assert _ended(processes) == [0, 0]
    assert train(tiny(**{**fields, "devices": 1}), str(alone), _validate) == 0
    assert load_model(together, "best")[3] == 4
    _assert_close(_variables(together, 4), _variables(alone, 4))
    rows = [json.loads(line) for line in (together / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "scores" in row] == [2, 4]


def test_a_signal_to_one_process_stops_both_at_the_same_step(tiny, tmp_path):
    fields = {"devices": 0, "train.steps": 100_000, "train.checkpoint_every": 2}
    with _processes(tiny(**fields), tmp_path / "run") as processes:
        _wait(lambda: bool(_steps(tmp_path / "run")), processes)
        processes[1].send_signal(signal.SIGTERM)
        assert _ended(processes) == [128 + signal.SIGTERM] * 2
    assert load_model(tmp_path / "run", "latest")[3] == _steps(tmp_path / "run")[-1]
