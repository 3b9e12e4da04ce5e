"""A disk that is really full: one sentence, and nothing around it."""

import gc
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from binsr_jax.config import Config
from binsr_jax.errors import UserError
from binsr_jax.training.checkpoint import Checkpoints, _drop_late_tracebacks
from binsr_jax.training.state import TrainState


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"cannot mount a file system: {error}")
    if mounted.returncode:
        pytest.skip(f"cannot mount a file system: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def _state(step: int) -> TrainState:
    rng = np.random.default_rng(step)
    kernels = rng.normal(size=(12, 3, 3, 8, 8)).astype(np.float32)  # 28 KB
    params = {f"layer_{i}": {"kernel": kernel} for i, kernel in enumerate(kernels)}
    return TrainState(np.array(step, np.int32), params, {}, (), None)  # pyright: ignore[reportArgumentType]


def _save_until_full(workdir: Path, config: Config, room: int) -> None:
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(_state(1), config, "")
        checkpoints.wait()
        free = shutil.disk_usage(workdir).free
        (workdir.parent / "others").write_bytes(bytes(free - room))
        for step in (2, 3, 4):
            checkpoints.save(_state(step), config, "")


@pytest.mark.parametrize("room", [0, 44_000, 56_000])
def test_it_is_one_sentence_and_the_last_checkpoint_stays(tiny, small_disk, capfd, room):
    """``room``: bytes that are left; the most are enough for the arrays, not for the checkpoint."""
    workdir = small_disk / "run"
    with pytest.raises(UserError, match=r"cannot be written .No space left on device"):
        _save_until_full(workdir, tiny(), room)
    gc.collect()
    assert "Traceback" not in capfd.readouterr().err
    with Checkpoints(workdir, read_only=True) as checkpoints:
        assert checkpoints.latest_step() == 1
        assert checkpoints.variables(1)["params"].keys() == _state(1).params.keys()


def test_only_what_comes_too_late_is_left_out(monkeypatch):
    printed = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: printed.append(error))
    monkeypatch.setattr(sys, "unraisablehook", lambda what: printed.append(what.exc_value))
    _drop_late_tracebacks.__wrapped__()
    late = RuntimeError("Event loop is closed")
    others = [RuntimeError("no such loop"), ValueError("Event loop is closed")]
    for error in (late, *others):
        sys.excepthook(type(error), error, None)
    assert printed == others
    for error in (late, *others):
        ignored: Any = SimpleNamespace(exc_value=error)
        sys.unraisablehook(ignored)
    assert printed == 2 * others
