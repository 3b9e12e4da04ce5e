"""``binsr runs`` and ``binsr plot``, on work dirs as training leaves them."""

import json

import numpy as np
import pytest
from PIL import Image

from binsr_jax.commands import main
from binsr_jax.commands.plot import curves
from binsr_jax.training.workdir import claim


@pytest.fixture
def runs(tmp_path):
    """Two runs below a folder: one is complete, one has just begun."""

    def write(name, steps, saved, rows):
        folder = tmp_path / "runs" / name
        for step in saved:
            (folder / "checkpoints" / str(step)).mkdir(parents=True)
            (folder / "checkpoints" / str(step) / "state").write_bytes(bytes(150_000))
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"train": {"steps": steps}}))
        lines = [json.dumps(row) for row in rows]
        (folder / "log.jsonl").write_text("\n".join([*lines, '{"step": 9, "lo']))

    def scores(step, first, second):
        return {
            "step": step,
            "scores": {"Set5/psnr": first, "Set5/ssim": 0.9, "B100/psnr": second},
        }

    def loss(step, value):
        return {"step": step, "loss": value, "steps_per_second": step / 1000}

    complete = [loss(1000, 0.25), scores(1000, 36.5, 31.0), loss(2000, 0.125)]
    write("deep/good", 2000, [1000, 2000], [*complete, scores(2000, 36.25, 31.5)])
    write("new", 50, [], [])
    return tmp_path / "runs"


def _cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_runs_lists_what_there_is(runs, capsys):
    assert main(["runs", str(runs)]) == 0
    header, rule, good, new = capsys.readouterr().out.splitlines()
    assert len(_cells(header)) == len(_cells(rule)) == len(_cells(good)) == len(_cells(new))
    best = ["Set5 36.50, B100 31.00", "1,000", "0.3"]
    assert _cells(good) == ["deep/good", "2,000 of 2,000", "complete", "0.125", "2", *best]
    assert _cells(new) == ["new", "0 of 50", "stopped", "", "", "", "", "0.0"]


def test_runs_says_where_a_process_is_training(runs, capsys):
    with claim(runs / "new"):
        assert main(["runs", str(runs / "new")]) == 0
    assert "| training |" in capsys.readouterr().out
    assert main(["runs", str(runs / "new")]) == 0
    assert "| stopped |" in capsys.readouterr().out


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_runs_of_a_folder_without_any_is_one_sentence(tmp_path, capsys, folder):
    assert main(["runs", str(tmp_path / folder)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_plot_draws_the_numbers_of_the_log(runs, tmp_path, capsys):
    loss, psnr = curves([runs / "deep" / "good"]).axes
    (line,) = loss.lines
    np.testing.assert_array_equal(line.get_xydata(), [[1000, 0.25], [2000, 0.125]])
    lines = {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in psnr.lines}
    assert lines == {"good: Set5": [36.5, 36.25], "good: B100": [31.0, 31.5]}

    assert main(["plot", str(runs / "deep" / "good"), "-o", str(tmp_path / "curves.png")]) == 0
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size[0] > 1000
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["curves.png"]


def test_plot_has_no_panel_for_what_there_is_not(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 2, "loss": 0.5}\n{"step": 4, "loss": 0.25}\n')
    (loss,) = curves([tmp_path]).axes
    assert loss.get_ylabel() == "training loss"
    row = {"step": 2, "scores": {"Set5/psnr": 30.5}, "images": {"Set5": "aa"}}
    (tmp_path / "log.jsonl").write_text(json.dumps(row))
    (psnr,) = curves([tmp_path]).axes
    assert psnr.get_ylabel() == "PSNR (dB)"


def test_scores_of_different_images_under_one_name_are_told_apart(runs, tmp_path, capsys):
    log = runs / "deep" / "good" / "log.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()[:-1]]
    for row in rows:
        if "scores" in row:
            row["images"] = {"Set5": "aaaa11", "B100": "bbbb"}
    rows[-1]["images"] = {"Set5": "cccc22", "B100": "bbbb"}
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["runs", str(runs)]) == 0
    # The better score of step 1000 is of other images.
    assert "| Set5 36.25, B100 31.50 | 2,000 |" in capsys.readouterr().out
    psnr = curves([log.parent]).axes[1]
    lines = {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in psnr.lines}
    assert lines == {
        "good: Set5 [aaaa]": [36.5],
        "good: Set5 [cccc]": [36.25],
        "good: B100": [31.0, 31.5],
    }


@pytest.mark.parametrize(
    ("run", "output", "reason"),
    [
        ("new", "curves.png", "has no log.jsonl with rows"),
        ("nowhere", "curves.png", "has no log.jsonl with rows"),
        ("deep/good", "curves.exe", "endings .png, .svg, .pdf"),
        ("deep/good", "gone/curves.png", "Cannot write"),
    ],
)
def test_what_cannot_be_plotted_is_one_sentence(runs, tmp_path, capsys, run, output, reason):
    assert main(["plot", str(runs / run), "-o", str(tmp_path / output)]) == 1
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
