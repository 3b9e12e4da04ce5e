"""train.py as a user starts, kills and mistypes it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from binsr_jax.commands import main
from binsr_jax.training.trained import load_model

ROOT = Path(__file__).parent.parent

_RECIPE = """
from binsr_jax.config import default

def get_config():
    config = default()
    config.model.features, config.model.blocks = 8, 1
    config.data.patch, config.data.cache_dir = 16, {cache!r}
    config.train.steps, config.train.batch = 8, 4
    config.train.schedule = "cosine"
    config.train.log_every, config.train.checkpoint_every = 2, 1
    config.eval.every = 1000
    return config
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe, decoded images and compiled programs."""
    folder = tmp_path_factory.mktemp("train")
    (folder / "tiny.py").write_text(_RECIPE.format(cache=str(folder / "cache")))
    return folder


def _start(shared: Path, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "train.py", *flags],
        cwd=ROOT,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(shared / "compiled")},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # its signals reach its workers as a terminal's do
    )


def _end(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, lines = process.communicate(timeout=120)
    return process.returncode, lines


def _flags(shared: Path, workdir: Path, *others: str) -> tuple[str, ...]:
    return f"--config={shared / 'tiny.py'}", f"--workdir={workdir}", *others


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ((), "Missing --config and --workdir: --help lists all flags."),
        (
            ("--config=configs/quickstart.py", "--workdir=x", "--config.trian.steps=3"),
            "The config has no field config.trian.steps: did you mean config.train.steps?",
        ),
        (
            ("--config=configs/quickstart.py", "--workdir=x", "--config.train.steps=many"),
            "config.train.steps cannot be 'many': it is a whole number, such as 1000.",
        ),
        (
            (
                *("--config=configs/quickstart.py", "--workdir=x"),
                *("--config.train.steps=100", "--config.train.steps=1e3"),
            ),
            "config.train.steps cannot be '1e3': it is a whole number, such as 1000.",
        ),
        (
            ("--config=configs/quickstart.py", "--workdir=x", "--config.eval.levels=low"),
            "config.eval.levels cannot be 'low': it is a list, such as 15,50.",
        ),
        (
            ("--config=configs/quickstrat.py", "--workdir=x"),
            "There is no config file 'configs/quickstrat.py': did you mean configs/quickstart.py?",
        ),
        (
            ("--config", "configs/quickstart.py", "--workdir=x", "--wrkdir=y"),
            "Unknown command line flag 'wrkdir'. Did you mean: workdir ?",
        ),
        (
            ("--config=configs/quickstart.py:huge", "--workdir=x"),
            "This recipe has no variants: leave out the colon after its file name, and the rest.",
        ),
        (
            ("--config=configs/quickstart.py", "--workdir=x", "--config.train.steps=0"),
            "config.train.steps is 0, but must be at least 1.",
        ),
    ],
)
def test_a_mistyped_command_is_one_sentence(flags, sentence, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["train", *flags]) == 1
    assert capsys.readouterr().err == f"error: {sentence}\n"
    assert not (ROOT / "x").exists()


def test_the_program_in_the_root_passes_mistakes_on(shared):
    status, lines = _end(_start(shared))
    assert lines == "error: Missing --config and --workdir: --help lists all flags.\n"
    assert status == 1


def test_killed_while_saving_it_goes_on_to_the_same_parameters(shared, tmp_path):
    status, lines = _end(_start(shared, *_flags(shared, tmp_path / "once")))
    assert status == 0, lines
    assert "Training is complete after 8 steps" in lines

    checkpoints = tmp_path / "killed" / "checkpoints"
    for _ in range(2):
        process = _start(shared, *_flags(shared, tmp_path / "killed"))
        complete = _complete(checkpoints)
        while not (_complete(checkpoints) > complete and _unfinished(checkpoints)):
            assert process.poll() is None, process.communicate()
            time.sleep(0.0005)
        os.killpg(process.pid, signal.SIGKILL)
        _end(process)
        assert _complete(checkpoints)
    status, lines = _end(_start(shared, *_flags(shared, tmp_path / "killed")))
    assert status == 0, lines
    assert "Continuing from step" in lines
    assert not _unfinished(checkpoints)

    once, killed = (load_model(tmp_path / name, "latest") for name in ("once", "killed"))
    assert once[3] == killed[3] == 8
    jax.tree.map(np.testing.assert_array_equal, once[2], killed[2])
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("once", "killed")]
    assert logs[0].count("loss") == logs[1].count("loss") == 4


def _complete(checkpoints: Path) -> set[int]:
    if not checkpoints.is_dir():
        return set()
    return {int(path.name) for path in checkpoints.iterdir() if path.name.isdigit()}


def _unfinished(checkpoints: Path) -> list[str]:
    return [path.name for path in checkpoints.iterdir() if "orbax-checkpoint-tmp" in path.name]


def test_control_c_saves_and_says_so(shared, tmp_path):
    flags = _flags(
        shared,
        tmp_path,
        "--config.train.steps=100000",
        "--config.train.checkpoint_every=50000",
        "--config.data.workers=1",
    )
    process = _start(shared, *flags)
    log = tmp_path / "log.jsonl"
    while not log.exists() or log.stat().st_size == 0:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    status, lines = _end(process)
    assert status == 128 + signal.SIGINT
    step = load_model(tmp_path, "latest")[3]
    assert f"saved at step {step} of 100000; the same command continues from there" in lines
    assert "Traceback" not in lines
