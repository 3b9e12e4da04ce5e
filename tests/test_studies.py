"""``binsr study``: what it trains, how it goes on after a stop, and what it writes."""

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from binsr_jax.commands import main, study
from binsr_jax.config import default
from binsr_jax.data.sources import SAMPLES
from binsr_jax.errors import UserError
from binsr_jax.evaluation.benchmark import network_validator, validation_sets
from binsr_jax.recipes import Published, open_recipe
from binsr_jax.studies import activations, amplification, runs
from binsr_jax.studies.rows import Budget, Row, choose, reduced, row_of
from binsr_jax.training import loop
from binsr_jax.training.trained import load_model

# Two rows of one small network, which differ in their seed, so that they share their programs.
RECIPE = """
from binsr_jax.config import default, variant_fields
from binsr_jax.evaluation.benchmark import network_validator, validation_sets
from binsr_jax.recipes import Published

VARIANTS = {"seed": ("1", "2"), "unit": ("residual", "bbcu")}
ROWS = {
    "seed=1,unit=residual": Published("First & best", {"Tiny": 40.0}, operations=18.55),
    "seed=2,unit=residual": Published("Second", {"Tiny": 30.0}, parameters=225),
}

def get_config(variant=""):
    fields = variant_fields(variant, **VARIANTS)
    config = default()
    config.seed = int(fields["seed"])
    config.model.unit, config.model.body_end = fields["unit"], "conv"
    config.model.upsampler = "float"
    config.model.image_skip = "bilinear"
    config.data.source = "tfds"
    config.train.milestones = (200_000,)
    return config
"""


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "recipes" / "small.py"
    path.parent.mkdir()
    path.write_text(RECIPE)
    return path


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """Programs are compiled once a test, and not kept at home."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    for name, value in zip(names, (str(tmp_path / "compiled"), 0.0), strict=True):
        jax.config.update(name, value)
    monkeypatch.setattr(study.launcher, "keep_compiled_programs", lambda: None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def arguments(tmp_path, output):
    """What makes a study tiny, also the set that it is scored on."""
    (tmp_path / "sets" / "Tiny").mkdir(parents=True, exist_ok=True)
    with Image.open(sorted((SAMPLES / "valid").iterdir())[0]) as image:
        image.crop((0, 0, 24, 24)).save(tmp_path / "sets" / "Tiny" / "corner.png")
    fields = ["data.source=samples", "data.patch=8", "devices=1"]
    fields.append(f"eval.data_dir={tmp_path / 'sets'}")
    fields.append(f"data.cache_dir={tmp_path / 'cache'}")
    settings = [word for field in fields for word in ("--set", f"config.{field}")]
    small = ["--budget", "3", "--batch", "2", "--features", "4", "--blocks", "1"]
    return [*small, *settings, "--sets", "Tiny", "-o", str(tmp_path / output)]


def stop_at_batch(monkeypatch, number):
    """Sends SIGTERM to this process when a training asks for its batch of this number."""
    original, asked = loop.training_batches, []

    class Batches:
        def __init__(self, *args):
            self._context = original(*args)

        def __enter__(self):
            self._batches = self._context.__enter__()
            return self

        def __exit__(self, *args):
            return self._context.__exit__(*args)

        def __iter__(self):
            return self

        def __next__(self):
            asked.append(None)
            if len(asked) == number:
                os.kill(os.getpid(), signal.SIGTERM)
            return next(self._batches)

    monkeypatch.setattr(loop, "training_batches", Batches)


def test_a_table_that_was_stopped_goes_on_to_the_same_table(
    recipe, tmp_path, compiled, monkeypatch, capsys
):
    def argv(output):
        return ["study", "table", "--configs", f"{recipe}:*", *arguments(tmp_path, output)]

    assert main(argv("whole")) == 0
    whole = tmp_path / "whole"
    printed = capsys.readouterr()
    assert printed.out == (whole / "table.md").read_text()
    assert printed.err.count("minutes left") == 2

    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        stop_at_batch(patch, 4)  # the first one of the second row
        assert main(argv("stopped")) == 128 + signal.SIGTERM
    assert "continues from there" in capsys.readouterr().err
    assert "So far 1 of 2 rows." in (stopped / "table.md").read_text()
    assert "Second" not in (stopped / "table.md").read_text()
    saved = stopped / "rows" / "small-seed=2,unit=residual" / "checkpoints"
    assert [path.name for path in saved.iterdir()] == ["1"]

    assert main(argv("stopped")) == 0
    assert "First" not in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(runs, "train", None)  # nothing is left to train
        assert main(argv("stopped")) == 0
        for damage in ("[]", "{}", '{"scores": 3}', "{"):
            (saved.parent / "result.json").write_text(damage)
            assert main(argv("stopped")) == 0
    for name in ("table.md", "table.tex"):
        assert (stopped / name).read_text() == (whole / name).read_text()
    rows = [list(csv.DictReader((folder / "table.csv").open())) for folder in (whole, stopped)]
    jsonl = [(folder / "table.jsonl").read_text().splitlines() for folder in (whole, stopped)]
    found = [[json.loads(line) for line in lines] for lines in jsonl]
    for row in [*rows[0], *rows[1], *found[0], *found[1]]:
        row.pop("seconds", None)
    assert rows[0] == rows[1]
    assert found[0] == found[1]
    assert not [path for path in stopped.iterdir() if path.name.startswith(".")]

    # The input's own score, the two rows, and what is printed of them.
    about, given, first, second = found[0]
    assert "3 steps of batch 2, HQ patches of 8 pixels from samples" in about["about"]
    assert given["title"] == "bicubic (SR x2)"
    assert given["scores"]["Tiny/psnr"] > first["scores"]["Tiny/psnr"] > 20
    assert first["scores"] != second["scores"]
    assert [row["published"]["scores"]["Tiny"] for row in (first, second)] == [40.0, 30.0]
    assert "(18.55)" in (whole / "table.md").read_text()
    assert r"First \& best" in (whole / "table.tex").read_text()
    assert rows[0][0]["published_Tiny/psnr"] == ""
    assert float(rows[0][2]["published_Tiny/psnr"]) == 30.0

    # With other settings the work dirs are not taken for what is asked, whatever is finished.
    argv_now = [*argv("stopped"), "--rate", "0.5"]
    assert main(argv_now) == 1
    assert "was trained with config.train.learning_rate 0.001, but 0.5" in capsys.readouterr().err

    # The curves of its rows are those of binsr plot.
    workdirs = [str(path) for path in sorted((whole / "rows").iterdir())]
    for command in (["study", "curves"], ["plot"]):
        assert main([*command, *workdirs, "-o", str(tmp_path / f"{command[-1]}.png")]) == 0
    pictures = [(tmp_path / f"{name}.png").read_bytes() for name in ("curves", "plot")]
    assert pictures[0] == pictures[1]


def test_a_row_that_fails_does_not_end_the_study(recipe, tmp_path, monkeypatch, capsys):
    def train(config, workdir, validate, read):
        if config.seed == 1:
            raise UserError("The loss became nan at step 7.")
        Path(workdir).mkdir(parents=True)
        (Path(workdir) / "config.json").write_text(json.dumps(config.to_dict()))
        images = {found.name: found.fingerprint() for found in validation_sets(config)}
        row = {"step": config.train.steps, "scores": {"Tiny/psnr": 33.25}, "images": images}
        (Path(workdir) / "log.jsonl").write_text(json.dumps(row))
        return 0

    monkeypatch.setattr(runs, "train", train)
    monkeypatch.setattr(study.launcher, "keep_compiled_programs", lambda: None)
    argv = ["study", "table", "--configs", f"{recipe}:*", *arguments(tmp_path, "out")]
    assert main(argv) == 1
    assert "error: First & best failed: The loss became nan" in capsys.readouterr().err
    table = (tmp_path / "out" / "table.md").read_text()
    assert "33.25 (30.00)" in table
    assert "| failed |" in table


def test_choose_takes_patterns_in_their_order(recipe):
    both = [f"{recipe}:seed={seed},unit=residual" for seed in (1, 2)]
    assert [found.spec for found in choose([f"{recipe}:*"])] == both
    assert [found.spec for found in choose([both[1], f"{recipe}:seed=?,*"])] == both[::-1]
    with pytest.raises(UserError, match=r"No row of .* matches 'x\*': it has seed=1"):
        choose([f"{recipe}:x*"])
    with pytest.raises(UserError, match="There is no config file"):
        choose([f"{recipe.parent}/none.py:*"])
    (recipe.parent / "broken.py").write_text("import")
    assert len(choose([f"{recipe}:*"])) == 2, "files beside it are not read"


def test_a_study_never_shows_the_scores_of_other_images(recipe, tmp_path, compiled, capsys):
    """Folders may move; images may not change, neither those of the training nor of a set."""

    def argv(*settings):
        words = [word for setting in settings for word in ("--set", f"config.{setting}")]
        configs = ["--configs", f"{recipe}:seed=1,unit=residual"]
        return ["study", "table", *configs, *arguments(tmp_path, "out"), *words]

    def printed():
        rows = (tmp_path / "out" / "table.jsonl").read_text().splitlines()
        return json.loads(rows[2])

    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(rng.integers(0, 256, (30, 30, 3), np.uint8)).save(tmp_path / name / "1.png")
    one = ("data.source=folder", f"data.dir={tmp_path / 'a'}")
    assert main(argv(*one)) == 0
    first = printed()
    shutil.copytree(tmp_path / "a", tmp_path / "moved")
    assert main(argv(one[0], f"data.dir={tmp_path / 'moved'}")) == 0
    assert printed() == first
    capsys.readouterr()
    assert main(argv(one[0], f"data.dir={tmp_path / 'b'}")) == 1
    assert "was trained on other images" in capsys.readouterr().err

    # The set lies elsewhere: with the same images its scores stand, with others it is scored anew.
    shutil.copytree(tmp_path / "sets", tmp_path / "same")
    assert main(argv(*one, f"eval.data_dir={tmp_path / 'same'}")) == 0
    assert printed() == first
    with Image.open(tmp_path / "same" / "Tiny" / "corner.png") as image:
        darker = [v // 2 for v in range(256)] * len(image.getbands())
        image.transpose(Image.Transpose.ROTATE_90).point(darker).save(
            tmp_path / "same" / "Tiny" / "corner.png"
        )
    assert main(argv(*one, f"eval.data_dir={tmp_path / 'same'}")) == 0
    assert printed()["images"] != first["images"]
    assert printed()["scores"] != first["scores"]
    model = load_model(tmp_path / "out" / "rows" / "small-seed=1,unit=residual")
    config = open_recipe(f"{recipe}:seed=1,unit=residual").config
    config.eval.sets, config.eval.data_dir = ("Tiny",), str(tmp_path / "same")
    anew = network_validator(config, model[1])(model[2], 3)
    assert printed()["scores"] == anew.scores

    # Without its checkpoints a row still knows the images of its training, and is trained anew.
    row = tmp_path / "out" / "rows" / "small-seed=1,unit=residual"
    shutil.rmtree(row / "checkpoints")
    note = json.loads((row / "result.json").read_text())
    assert main(argv(one[0], f"data.dir={tmp_path / 'b'}")) == 0
    assert json.loads((row / "result.json").read_text())["data"] != note["data"]
    assert (row / "checkpoints").is_dir()


def test_k_trains_every_number_of_channels_with_every_k(recipe, tmp_path, monkeypatch, capsys):
    def finished(rows, folder, images):
        for row in rows:
            model = row.config.model
            yield runs.Result(row, {"Set5/psnr": model.features - abs(model.amplification - 4)})

    monkeypatch.setattr(study, "train_rows", finished)
    monkeypatch.setattr(study, "check", lambda rows: None)
    monkeypatch.setattr(study.launcher, "keep_compiled_programs", lambda: None)
    argv = ["study", "k", "--config", f"{recipe}", "--budget", "2", "-o", str(tmp_path / "k")]
    assert main([*argv, "--features", "4,8", "--k", "1,4,16"]) == 0
    about, *points = map(json.loads, (tmp_path / "k" / "k.jsonl").read_text().splitlines())
    assert "4 or 8 features" in about["about"]
    assert [(p["features"], p["k"]) for p in points] == [(n, k) for n in (4, 8) for k in (1, 4, 16)]
    (axes,) = amplification.figure(points).axes
    lines = {line.get_label(): np.asarray(line.get_xydata()).tolist() for line in axes.lines}
    assert lines["n = 8"] == [[1, 5], [4, 8], [16, -4]]
    with Image.open(tmp_path / "k" / "k.png") as picture:
        assert min(picture.size) > 500


def test_activations_are_those_of_the_network(recipe, tmp_path, compiled):
    settings = ["data.source=samples", "data.patch=8", f"data.cache_dir={tmp_path / 'cache'}"]
    config = reduced(
        open_recipe(f"{recipe}:unit=bbcu").config,
        Budget(steps=1, batch=2),
        features=4,
        blocks=1,
        settings=settings,
    )
    variables = activations.initial_variables(config)
    rows = activations.describe("small:unit=bbcu", config, variables)

    # So does the command, before any training.
    words = [
        "study",
        "activations",
        "--configs",
        f"{recipe}:unit=bbcu",
        *arguments(tmp_path, "out"),
    ]
    words[words.index("--budget") + 1] = "0"
    assert main(words) == 0
    _, *written = map(json.loads, (tmp_path / "out" / "activations.jsonl").read_text().splitlines())
    assert written == [{**row, "title": written[0]["title"]} for row in rows]
    assert (tmp_path / "out" / "activations.png").exists()
    assert [(row["unit"], row["part"]) for row in rows] == [
        (unit, part) for unit in (0, 1) for part in ("residual", "convolution")
    ]
    for row in rows:
        zeros = round(row["zeros"] * 2 * 4 * 4 * 4)
        assert sum(row["counts"]) == 2 * 4 * 4 * 4 - zeros
    # What enters the first unit is the head's output, with its activation.
    params = variables["params"]["head"]
    with activations.training_batches(config) as batches:
        images = next(batches)["lq"].astype(np.float64)
    mean = np.array([0.4488, 0.4371, 0.4040])
    padded = np.pad(config.model.amplification * (images - mean), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    head = np.einsum("bhwiyx,yxio->bhwo", windows, params["kernel"]) + params["bias"]
    head = np.where(head > 0, head, 0.1 * head)
    assert rows[0]["std"] == pytest.approx(head.std(), rel=1e-4)
    counts, _ = np.histogram(np.abs(head), activations.EDGES)
    assert np.abs(counts - rows[0]["counts"]).sum() <= 2  # an edge may fall between roundings
    assert len(activations.figure(rows).axes) == 3


def test_a_network_without_binary_units_has_no_activations_to_show(monkeypatch, recipe):
    monkeypatch.setattr(activations, "_record", lambda *_: [])
    monkeypatch.setattr(activations, "training_batches", loop.training_batches)
    config = reduced(open_recipe(f"{recipe}").config, Budget(2), settings=["data.source=samples"])
    with pytest.raises(UserError, match="EDSR has no binary units"):
        activations.describe("EDSR", config, {})


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["table", "--configs", "none.py", "--budget", "2", "-o", "out"], "no config file"),
        (["k", "--config", "none.py", "--budget", "2", "-o", "out"], "no config file"),
        (["activations", "-o", "out"], "Name work dirs, or recipes"),
        (["activations", "nowhere", "-o", "out"], "holds no checkpoint"),
        (["curves", "nowhere", "-o", "out.png"], "has no log.jsonl"),
    ],
)
def test_a_mistake_is_one_sentence(argv, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study.launcher, "keep_compiled_programs", lambda: None)
    assert main(["study", *argv]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_work_dirs_name_is_a_file_name(recipe):
    row = row_of(open_recipe(f"{recipe}:seed=2"), default())
    assert row == Row("small-seed=2", f"{recipe}:seed=2", "Second", default(), row.published)
    assert isinstance(row.published, Published)
