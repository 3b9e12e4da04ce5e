"""evaluate.py as a user calls it."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binsr_jax import models
from binsr_jax.commands import main
from binsr_jax.config import default
from binsr_jax.data.images import read_pixels
from binsr_jax.data.sources import SAMPLES
from binsr_jax.deploy.model_file import fingerprint
from binsr_jax.deploy.pack import pack
from binsr_jax.evaluation.metrics import psnr
from binsr_jax.training.checkpoint import Checkpoints
from binsr_jax.training.scores import Score
from binsr_jax.training.state import create_state, make_optimizer

ROOT = Path(__file__).parent.parent
# One of the packaged samples, the spiral galaxy, is a picture of greys in three equal channels.
PROTOCOLS = {
    "Mine": "SR x3: Y, border 3, bicubic LR",
    "samples": "SR x3: Y, border 3, bicubic LR; 1 grey as it is",
}


Evaluate = Callable[..., subprocess.CompletedProcess[str]]


def _program(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What the program in the root does as a process of its own."""
    environment = {key: value for key, value in os.environ.items() if key != "BINSR_DATA"}
    return subprocess.run(
        [sys.executable, ROOT / "evaluate.py", *arguments],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Evaluate:
    """Runs ``binsr evaluate`` in this process, which has imported and compiled much already."""

    def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.chdir(folder)
        monkeypatch.delenv("BINSR_DATA", raising=False)
        status = main(["evaluate", *arguments])
        return subprocess.CompletedProcess(arguments, status, *capsys.readouterr())

    return run


def test_bicubic_prints_a_table_and_writes_rows_and_pictures(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "data/Mine").mkdir(parents=True)
    for name in ("a", "b"):
        image = rng.integers(0, 256, (31, 40, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / f"data/Mine/{name}.png")
    arguments = ("--sets=Mine,samples", "--data_dir=data", "--scale=3", "--output=out")
    done = _program(tmp_path, "--bicubic", *arguments, "--save_images=pictures")
    assert done.returncode == 0, done.stderr
    assert "comparisons to pictures/Mine, pictures/samples" in done.stderr

    rows = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    assert [row["image"] for row in rows[:2]] == ["a", "b"]
    totals = [row for row in rows if "images" in row]
    table = done.stdout.splitlines()[2:]
    for line, total in zip(table, totals, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        numbers = (str(total["images"]), f"{total['psnr']:.2f}", f"{total['ssim']:.4f}")
        assert cells == [total["set"], "bicubic", *numbers, PROTOCOLS[total["set"]]]
        assert total["method"] == "bicubic"
    restored = np.asarray(Image.open(tmp_path / "pictures/Mine/a.png"))
    assert restored.shape == (30, 39, 3)
    assert (tmp_path / "pictures/Mine/b_comparison.png").is_file()


@pytest.mark.parametrize("task", ["denoise", "jpeg"])
def test_degraded_input_is_scored_at_the_levels_asked_for(
    tmp_path: Path, evaluate: Evaluate, task: str
) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "data/Classic5").mkdir(parents=True)
    image = np.clip(128 + 40 * np.sin(np.arange(40 * 36) / 90) + rng.normal(0, 9, 1440), 0, 255)
    Image.fromarray(image.reshape(36, 40).astype(np.uint8)).save(tmp_path / "data/Classic5/a.png")
    arguments = ("--sets=Classic5", "--data_dir=data", "--levels=30,12", "--save_images=pictures")
    done = evaluate(tmp_path, "--degraded", f"--task={task}", *arguments)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    totals = [row for row in rows if "images" in row]
    assert [row["set"] for row in totals] == ["Classic5-30", "Classic5-12"]
    assert {row["method"] for row in rows} == {"noisy input" if task == "denoise" else "JPEG input"}
    lines = done.stdout.splitlines()
    for line, total in zip(lines[2:4], totals, strict=True):
        assert f"| {total['psnr']:.2f} |" in line
        assert total["protocol"] in line
        assert ("psnrb" in total) == (task == "jpeg")
    assert ("BBCU repository" in done.stdout) == (task == "jpeg")
    assert (tmp_path / "pictures/Classic5-12/a_comparison.png").is_file()


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work dir with a better first and a worse last checkpoint of a tiny network."""
    folder = tmp_path_factory.mktemp("work")
    config = default()
    config.model.features, config.model.blocks, config.scale = 4, 1, 3
    config.model.image_skip = "bilinear"
    model = models.build(config)
    state = create_state(config, model, make_optimizer(config.train))
    with Checkpoints(folder, keep=2) as checkpoints:
        for step, score in ((10, 30.0), (20, 20.0)):
            at_step = dataclasses.replace(state, step=np.int32(step))
            checkpoints.save(at_step, config, "", Score(score, "samples"))
            checkpoints.wait()
    return folder


@pytest.mark.parametrize(("which", "step"), [("best", 10), ("latest", 20)])
def test_work_dir_is_scored_beside_bicubic(
    tmp_path: Path, evaluate: Evaluate, workdir: Path, which: str, step: int
) -> None:
    arguments = (f"--workdir={workdir}", f"--which={which}")
    done = evaluate(tmp_path, *arguments, "--save_images=pictures")
    assert done.returncode == 0, done.stderr
    _, _, before, ours = done.stdout.splitlines()
    assert re.match(rf"\| samples \| bicubic +\|.* {PROTOCOLS['samples']} \|", before)
    assert re.match(rf"\| samples \| edsr +\|.* {PROTOCOLS['samples']} \|", ours)
    rows = [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]
    assert (rows[-1]["set"], rows[-1]["step"], rows[-1]["method"]) == ("samples", step, "edsr")
    count = len(list((SAMPLES / "valid").glob("*.png")))
    assert rows[-1]["images"] == count
    before = rows[-2 - count]  # the input's own row comes first
    assert (before["method"], before["set"], before["images"]) == ("bicubic", "samples", count)
    assert (before["psnr"], before["ssim"]) == (rows[-1]["bicubic_psnr"], rows[-1]["bicubic_ssim"])
    assert "step" not in before
    for row in rows[-1 - count : -1]:
        name = row["image"]
        original = read_pixels(SAMPLES / "valid" / f"{name}.png")
        restored = np.asarray(Image.open(tmp_path / f"pictures/samples/{name}.png"))
        restored = restored.reshape(*restored.shape[:2], -1)
        height, width = restored.shape[:2]
        assert row["psnr"] == psnr(restored, original[:height, :width], 3, luma=True)


def test_a_model_file_is_scored_packed_and_in_floats(
    tmp_path: Path, evaluate: Evaluate, workdir: Path
) -> None:
    model = pack(workdir, tmp_path / "model.binsr", which="latest")
    scores = {}
    for engine in ("packed", "float"):
        done = evaluate(tmp_path, "--model=model.binsr", f"--engine={engine}", "--output=.")
        assert done.returncode == 0, done.stderr
        assert "SR x3: Y, border 3, bicubic LR" in done.stdout
        row = json.loads((tmp_path / "results.jsonl").read_text().splitlines()[-1])
        assert (row["set"], row["engine"]) == ("samples", engine)
        scores[engine] = row["psnr"]
        assert row["network"] == fingerprint(model)
    assert scores["packed"] == pytest.approx(scores["float"], abs=1e-3)
    done = evaluate(tmp_path, f"--workdir={workdir}", "--which=latest")
    row = json.loads((workdir / "results.jsonl").read_text().splitlines()[-1])
    assert scores["packed"] == pytest.approx(row["psnr"], abs=1e-3)


def test_a_network_is_scored_on_photographs_with_it_and_the_input_degraded(
    tmp_path: Path, evaluate: Evaluate, workdir: Path
) -> None:
    arguments = ("--task=photo", "--levels=30", "--output=.")
    done = evaluate(tmp_path, f"--workdir={workdir}", "--which=latest", *arguments)
    assert done.returncode == 0, done.stderr
    _, _, before, ours = done.stdout.splitlines()
    for line in (before, ours):
        assert "samples-30" in line
        assert "Photo x3: Y, border 3, blur 0.25, bicubic, noise 3, JPEG quality 30" in line
    assert evaluate(tmp_path, "--degraded", "--scale=3", *arguments).returncode == 0
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    (network,) = (row for row in rows if "images" in row and "step" in row)
    inputs = [row["psnr"] for row in rows if "images" in row and "step" not in row]
    assert inputs == [network["photo_psnr"]] * 2
    assert network["psnr"] != network["photo_psnr"]
    done = evaluate(tmp_path, f"--workdir={workdir}", "--task=denoise")
    assert done.returncode != 0
    assert re.search(r"--task is denoise, but the network is for SR x3", done.stderr)


def test_scale_that_disagrees_with_the_work_dir(
    tmp_path: Path, evaluate: Evaluate, workdir: Path
) -> None:
    done = evaluate(tmp_path, f"--workdir={workdir}", "--scale=2")
    assert done.returncode != 0
    assert re.search(r"--scale is 2, .* scale 3", done.stderr)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), r"--workdir=DIR.* --bicubic"),
        (("--model=m", "--workdir=x"), r"--workdir=DIR.* --bicubic"),
        (("--bicubic", "--degraded"), r"--workdir=DIR.* --degraded and --bicubic"),
        (("--degraded", "--task=denoising"), r"task=denoising"),
        (("--degraded", "--task=jpeg", "--levels=10,x"), r"eval.levels .*whole numbers in 1..100"),
        (("--degraded", "--task=jpeg", "--scale=2"), r"jpeg does not enlarge"),
        (("--bicubic", "--task=denoise"), r"--task does not go with --bicubic"),
        (("--bicubic", "--levels=10"), r"no levels"),
        (("--bicubic", "--engine=float"), r"--engine goes with --model"),
        (("--model=m", "--engine=int4"), r"engine=int4"),
        (("--model=absent.binsr",), r"absent.binsr.*binsr pack"),
        (("--bicubic", "--workdir=x"), r"--workdir=DIR.* --bicubic"),
        (("--bicubic", "--scael=2"), r"scael.*scale"),
        (("--bicubic", "--scale=7"), r"scale=7"),
        (("--bicubic", "--sets=Set5"), r"Set5.*BINSR_DATA"),
        (("--bicubic", "--sets=Set5", "--data_dir=."), r"Set5/HR"),
        (("--workdir=absent",), r"absent.*checkpoint"),
    ],
)
def test_mistakes_are_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BINSR_DATA", raising=False)
    assert main(["evaluate", *arguments]) != 0
    printed, errors = capsys.readouterr()
    assert printed == ""
    (line,) = errors.splitlines()
    assert re.search(sentence, line), line
    assert not list(tmp_path.iterdir())


def test_the_program_in_the_root_passes_mistakes_on(tmp_path: Path) -> None:
    done = _program(tmp_path, "--bicubic", "--scael=2")
    assert done.returncode != 0
    assert done.stdout == ""
    assert re.fullmatch(r"error: .*scael.*scale.*\n", done.stderr)
