"""The built wheel, installed in a new environment and used from an empty folder."""

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TINY = (
    "--config.model.features=4",
    "--config.model.blocks=1",
    "--config.data.patch=16",
    "--config.train.steps=2",
    "--config.train.batch=2",
    "--config.train.warmup=0",
    "--config.eval.every=2",
)


def run(folder: Path, *command: str | Path) -> str:
    """What a command prints; no code of the clone is on its path."""
    environment = {name: v for name, v in os.environ.items() if name != "PYTHONPATH"}
    environment["HOME"] = str(folder / "home")
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="needs hatchling")
def test_the_quick_start_needs_the_wheel_alone(tmp_path):
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    build = ("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", "dist", ROOT)
    run(tmp_path, *pip, *build)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    run(tmp_path, sys.executable, "-m", "venv", "--without-pip", "new")
    python = tmp_path / "new" / "bin" / "python"
    (site,) = (tmp_path / "new" / "lib").glob("python*/site-packages")
    run(tmp_path, *pip, "--python", python, "install", "--no-deps", "--no-index", wheel)
    # Behind the wheel: the libraries of this environment, without what its own .pth files add.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")

    home = tmp_path / "empty"
    home.mkdir()
    where = run(home, python, "-c", "import binsr_jax; print(binsr_jax.__file__)")
    assert where.startswith(str(site))
    binsr = tmp_path / "new" / "bin" / "binsr"
    assert "| quickstart |" in run(home, binsr, "configs", "--no-cost")
    run(home, binsr, "train", "--config", "quickstart", "--workdir", "runs/quickstart", *TINY)
    table = run(home, binsr, "evaluate", "--workdir=runs/quickstart", "--save-images=pictures")
    assert "| samples | edsr" in table
    run(home, binsr, "pack", "--workdir", "runs/quickstart", "-o", "quickstart.binsr")
    picture = next((home / "pictures" / "samples").glob("*.png"))
    run(home, binsr, "upscale", "-m", "quickstart.binsr", picture, "-o", "large.png")
    assert (home / "large.png").is_file()
