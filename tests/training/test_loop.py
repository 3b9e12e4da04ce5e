"""The loop: logs, resumes bit for bit, stops when asked, and refuses what cannot work."""

import json
import os
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from binsr_jax.commands import runs
from binsr_jax.errors import UserError
from binsr_jax.training import checkpoint, footprint, loop
from binsr_jax.training.checkpoint import Checkpoints
from binsr_jax.training.loop import train
from binsr_jax.training.scores import Validation, read_log
from binsr_jax.training.trained import load_model
from binsr_jax.training.workdir import claim

pytestmark = pytest.mark.usefixtures("shared_steps")


def _scores(variables, step):
    """A validation whose PSNR is best at step 3."""
    assert "params" in variables
    picture = np.full((4, 6, 3), step, np.uint8)
    scores = {"samples/psnr": 30.0 - abs(step - 3), "samples/ssim": 0.5}
    return Validation(scores, {"samples/one": picture}, {"samples": "f00d"})


def _rows(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]


def _state(workdir: Path, step: int) -> dict:
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.variables(step)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("parallel", "workers", "optimizer"),
    [("mesh", 0, "adam"), ("mesh", 2, "adam"), ("pmap", 0, "adam"), ("mesh", 0, "muon")],
)
def test_ten_and_ten_steps_are_twenty(tiny, tmp_path, parallel, workers, optimizer):
    fields = {
        "model.features": 8 if optimizer == "adam" else 16,  # 16 is the least for Muon
        "train.optimizer": optimizer,
        "train.steps": 20,
        "train.schedule": "cosine",
        "train.ema": 0.9,
        "train.log_every": 5,
        "eval.every": 10,
        "parallel": parallel,
        "devices": 2,
    }
    assert train(tiny(**fields), str(tmp_path / "once"), _scores) == 0

    def stop_at_ten(variables, step):
        os.kill(os.getpid(), signal.SIGTERM)
        return _scores(variables, step)

    stopped = tmp_path / "twice"
    config = tiny(**fields, **{"data.workers": workers})
    assert train(config, str(stopped), stop_at_ten) == 128 + signal.SIGTERM
    assert load_model(stopped, "latest")[3] == 10
    assert train(config, str(stopped), _scores) == 0

    jax.tree.map(np.testing.assert_array_equal, _state(tmp_path / "once", 20), _state(stopped, 20))
    for name in ("step", "loss", "gradient_norm", "learning_rate", "scores"):
        once, twice = (
            [row.get(name) for row in _rows(folder)] for folder in (tmp_path / "once", stopped)
        )
        assert once == twice


def test_what_a_work_dir_holds_at_the_end(tiny, tmp_path):
    config = tiny(**{"eval.every": 1})
    assert train(config, str(tmp_path), _scores) == 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.name[0] != ".") == [
        "checkpoints",
        "config.json",
        "log.jsonl",
        "tensorboard",
    ]
    assert json.loads((tmp_path / "config.json").read_text())["train"]["steps"] == 4
    rows = _rows(tmp_path)
    assert [row["step"] for row in rows if "loss" in row] == [2, 4]
    assert [row["step"] for row in rows if "scores" in row] == [1, 2, 3, 4]
    assert all(row["loss"] > 0 and row["gradient_norm"] > 0 for row in rows if "loss" in row)
    assert load_model(tmp_path, "best")[3] == 3
    assert load_model(tmp_path, "latest")[3] == 4
    (board,) = (tmp_path / "tensorboard").iterdir()
    content = board.read_bytes()
    latent = (b"latent/body_0/conv", b"sign_flips/body_0/conv")
    for name in (b"train/loss", b"eval/samples/psnr", b"samples/one", *latent):
        assert name in content


def test_a_complete_run_says_so_and_changes_nothing(tiny, tmp_path, caplog):
    config = tiny(**{"eval.every": 2})
    train(config, str(tmp_path), _scores)
    before = _files(tmp_path / "checkpoints")
    rows = _rows(tmp_path)

    def never(variables, step):
        raise AssertionError("nothing is left to validate")

    with caplog.at_level("INFO"):
        assert train(config, str(tmp_path), never) == 0
    assert "Training is complete after 4 steps" in caplog.text
    assert _files(tmp_path / "checkpoints") == before
    assert _rows(tmp_path) == rows


def test_rows_past_the_restored_step_are_dropped(tiny, tmp_path):
    config = tiny(**{"train.checkpoint_every": 2})
    train(config, str(tmp_path), _scores)
    rows = _rows(tmp_path)
    # As after SIGKILL between the log line of step 4 and its checkpoint, in the middle of a line.
    shutil.rmtree(tmp_path / "checkpoints" / "4")
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    train(config, str(tmp_path), _scores)
    again = _rows(tmp_path)
    assert [row["step"] for row in again] == [row["step"] for row in rows]
    assert [row.get("loss") for row in again] == [row.get("loss") for row in rows]


def test_a_stop_before_a_validation_is_made_up_for(tiny, tmp_path):
    config = tiny(**{"train.steps": 4, "eval.every": 2})

    def stop(variables, step):
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the signal breaks the validation off")

    assert train(config, str(tmp_path), stop) == 128 + signal.SIGINT
    assert [row for row in _rows(tmp_path) if "scores" in row] == []
    train(config, str(tmp_path), _scores)
    assert [row["step"] for row in _rows(tmp_path) if "scores" in row] == [2, 4]


def test_an_infinite_score_is_no_json_and_ties_have_one_best_step(tiny, tmp_path, caplog):
    """A flat picture is restored without an error; all programs name the same best checkpoint."""

    def perfect(variables, step):
        return Validation({"Flat/psnr": float("inf"), "Flat/ssim": 1.0}, {}, {"Flat": "aa"})

    with caplog.at_level("INFO"):
        train(tiny(**{"eval.every": 2}), str(tmp_path), perfect)

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=refuse) for line in lines]
    scored = [row for row in rows if "scores" in row]
    assert [row["scores"]["Flat/psnr"] for row in scored] == [None, None]
    assert [row["scores"]["Flat/psnr"] for row in read_log(tmp_path) if "scores" in row] == [
        float("inf")
    ] * 2
    (board,) = (tmp_path / "tensorboard").iterdir()
    content = board.read_bytes()
    assert b"eval/Flat/ssim" in content
    assert b"eval/Flat/psnr" not in content
    metrics = tmp_path / "checkpoints" / "4" / "metrics" / "metrics"
    json.loads(metrics.read_text(), parse_constant=refuse)
    assert "The best checkpoint is that of step 4" in caplog.text
    assert load_model(tmp_path, "best")[3] == 4
    assert "| Flat inf | 4 |" in runs.table(tmp_path)


def test_the_best_step_is_one_everywhere_when_the_sets_change(tiny, tmp_path, caplog):
    def validate(name, psnr):
        return lambda variables, step: Validation({f"{name}/psnr": psnr - step}, {}, {name: name})

    fields = {"eval.every": 1, "train.steps": 2}
    train(tiny(**fields), str(tmp_path), validate("Easy", 50.0))
    assert "| Easy 49.00 | 1 |" in runs.table(tmp_path)
    with caplog.at_level("INFO"):
        train(tiny(**{**fields, "train.steps": 4}), str(tmp_path), validate("Hard", 30.0))
    assert "The best checkpoint is that of step 3" in caplog.text
    assert load_model(tmp_path, "best")[3] == 3
    assert "| Hard 27.00 | 3 |" in runs.table(tmp_path)


def test_a_log_line_after_a_resume_has_the_mean_of_all_its_steps(tiny, tmp_path):
    fields = {"train.steps": 6, "train.log_every": 6, "eval.every": 4}
    train(tiny(**fields), str(tmp_path / "once"), _scores)

    def stop(variables, step):
        os.kill(os.getpid(), signal.SIGTERM)
        return _scores(variables, step)

    assert train(tiny(**fields), str(tmp_path / "twice"), stop) == 128 + signal.SIGTERM
    train(tiny(**fields), str(tmp_path / "twice"), _scores)
    once, twice = (
        [(row["loss"], row["gradient_norm"]) for row in _rows(tmp_path / name) if "loss" in row]
        for name in ("once", "twice")
    )
    assert len(once) == 1
    assert once == twice


def test_a_batch_that_cannot_fit_is_refused_before_it_is_gathered(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "training_batches", None)
    monkeypatch.setattr(footprint, "available_memory", lambda: 10**10)
    with pytest.raises(UserError) as refused:
        train(tiny(**{"train.batch": 1_000_000}), str(tmp_path), _scores)
    text = str(refused.value)
    assert text.startswith("config.train.batch is 1,000,000, and a step with it needs at least ")
    assert "the machine has 10 GB left: at most about " in text


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tiny, tmp_path):
    train(tiny(**{"train.steps": 4}), str(tmp_path), _scores)
    before = _files(tmp_path / "checkpoints")
    broken = tiny(
        **{
            "train.steps": 40,
            "train.learning_rate": 1e38,
            "train.log_every": 3,
        }
    )
    with pytest.raises(UserError) as stopped:
        train(broken, str(tmp_path), _scores)
    assert "after the log line of step 4 and before step 7" in str(stopped.value)
    assert "the newest checkpoint is that of step 4" in str(stopped.value)
    assert _files(tmp_path / "checkpoints") == before
    assert load_model(tmp_path, "latest")[3] == 4


def test_a_second_process_on_the_same_work_dir_is_refused(tiny, tmp_path):
    with claim(tmp_path), pytest.raises(UserError, match=r"is training in .*: wait for it to end"):
        train(tiny(), str(tmp_path), _scores)
    assert list(tmp_path.iterdir()) == [tmp_path / ".lock"]
    train(tiny(), str(tmp_path), _scores)  # the lock went with its holder


def test_a_config_of_another_network_is_refused(tiny, tmp_path):
    train(tiny(), str(tmp_path), _scores)
    before = _files(tmp_path)
    with pytest.raises(UserError, match=r"model\.features 8 in the checkpoint, 16 requested"):
        train(tiny(**{"model.features": 16}), str(tmp_path), _scores)
    assert _files(tmp_path) == before


def test_a_harmless_change_goes_on_and_is_logged(tiny, tmp_path, caplog):
    train(tiny(), str(tmp_path), _scores)
    with caplog.at_level("INFO"):
        train(tiny(**{"train.steps": 6}), str(tmp_path), _scores)
    assert "config.train.steps was 4 until that step, and is 6 now" in caplog.text
    assert load_model(tmp_path, "latest")[3] == 6


def test_another_form_of_native_code_is_logged(tiny, tmp_path, caplog, monkeypatch):
    forms = {"chosen": "cpu, table"}
    for module in (checkpoint, loop):
        monkeypatch.setattr(module, "arithmetic", lambda: forms["chosen"])
    train(tiny(), str(tmp_path), _scores)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.arithmetic(4) == "cpu, table"
    with caplog.at_level("WARNING"):
        train(tiny(**{"train.steps": 5}), str(tmp_path), _scores)
        assert "what computes" not in caplog.text  # others warn of other things
        forms["chosen"] = "cpu, xla"
        train(tiny(**{"train.steps": 6}), str(tmp_path), _scores)
    assert "computed by cpu, table, and now cpu, xla computes. It rounds" in caplog.text


def test_a_work_dir_that_cannot_be_made_is_one_sentence(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be made.* is a file: choose another folder"):
        train(tiny(), str(tmp_path / "file" / "run"), _scores)


def test_a_full_disk_is_one_sentence_and_keeps_the_checkpoint(tiny, tmp_path, monkeypatch):
    train(tiny(), str(tmp_path), _scores)
    before = _files(tmp_path / "checkpoints")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1000, 999, 1))
    with pytest.raises(UserError, match=r"cannot be written .No space left on device"):
        train(tiny(**{"train.steps": 6}), str(tmp_path), _scores)
    assert _files(tmp_path / "checkpoints") == before


def test_training_on_the_folder_of_a_user(tiny, tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (24, 31, 3), np.uint8)).save(folder / f"{i}.png")
    config = tiny(**{"data.source": "folder", "data.dir": str(folder)})
    assert train(config, str(tmp_path / "run"), _scores) == 0
