"""Pairs whose target is a teacher's output: what they are, and who uses them."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from binsr_jax import models
from binsr_jax.commands import main
from binsr_jax.data import taught
from binsr_jax.data.pipeline import training_batches
from binsr_jax.data.sources import open_mixture
from binsr_jax.data.taught import PictureTeacher, open_taught
from binsr_jax.errors import UserError
from binsr_jax.evaluation.benchmark import network_validator, validation_sets
from binsr_jax.ops.image import imresize_uint8
from binsr_jax.training.loop import train
from binsr_jax.training.settings import check_settings
from binsr_jax.training.state import create_state, make_optimizer
from binsr_jax.training.transfer import picture_teacher, start_run


@pytest.fixture
def config(tiny, tmp_path):
    """A student for photographs, of scale 2, that learns from six pairs."""
    fields = {"task": "photo", "data.taught": 6, "data.window": 24, "train.batch": 4}
    fields |= {"data.cache_dir": str(tmp_path / "cache"), "eval.levels": (60,)}
    fields |= {"train.teacher": str(tmp_path / "teacher")}
    return lambda **others: tiny(**{**fields, **others})


def make_teacher(config, scale=2) -> None:
    """Writes a network with drawn parameters where the student looks for it."""
    own = config.copy_and_resolve_references().unlock()
    own.task, own.scale, own.data.patch, own.eval.levels = "sr", scale, 8 * scale, ()
    own.seed = 5
    state = create_state(own, models.build(own), make_optimizer(own.train))
    start_run(Path(config.train.teacher), own.lock(), {"params": state.params}, "drawn")


def doubled(image: np.ndarray) -> np.ndarray:
    return 255 - image.repeat(2, 0).repeat(2, 1)


def test_targets_are_the_teachers_of_degraded_windows(config):
    seen = []

    def restore(image):
        seen.append(image)
        return doubled(image)

    settings = config()
    pairs = open_taught(settings, open_mixture(settings), PictureTeacher(restore, "a"))
    assert len(pairs) == len(seen) == 6
    assert pairs.degraded
    context = taught._CONTEXT
    for (lq, hq), image in zip(pairs, seen, strict=True):
        assert (lq.shape, hq.shape) == ((12, 12, 3), (24, 24, 3))
        # The teacher sees more than what is kept, as it would in the whole picture.
        np.testing.assert_array_equal(lq, image[context:-context, context:-context])
        np.testing.assert_array_equal(hq, doubled(lq))
    assert len({lq.tobytes() for lq, _ in pairs}) == 6
    with training_batches(settings, mixture=[(pairs, 1.0)]) as batches:
        batch = next(batches)
    enlarged = batch["lq"].repeat(2, 1).repeat(2, 2)
    np.testing.assert_allclose(batch["hq"], 1 - enlarged, atol=1e-6)


def test_they_are_made_once_and_go_on_where_they_were(config):
    settings, made = config(), []

    def restore(image):
        made.append(image)
        if len(made) == 4:
            raise KeyboardInterrupt
        return doubled(image)

    def opened(fingerprint: str = "a", **fields: Any):
        chosen = config(**fields)
        return open_taught(chosen, open_mixture(chosen), PictureTeacher(restore, fingerprint))

    with pytest.raises(KeyboardInterrupt):
        opened()
    (folder,) = Path(settings.data.cache_dir).glob("taught-*/")
    assert (folder / "hq.bin").stat().st_size == 3 * 24 * 24 * 3
    with open(folder / "lq.bin", "ab") as file:  # of a pair whose target did not come
        file.write(b"half")
    first = opened()
    assert len(made) == 7  # 3 pairs, the one that was broken off, and 3 more
    assert opened().fingerprint == first.fingerprint
    assert len(made) == 7
    for image, (lq, _) in zip([*made[:3], *made[4:]], first, strict=True):
        np.testing.assert_array_equal(image[8:-8, 8:-8], lq)
    others = [opened("b"), opened(seed=1), opened("a", **{"data.quality": (5, 6)})]
    assert len(made) == 7 + 18
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 4
    os.truncate(folder / "hq.bin", 24 * 24 * 3)
    again = opened()
    assert len(made) == 7 + 18 + 5
    for (lq, hq), (same, target) in zip(again, first, strict=True):
        np.testing.assert_array_equal(lq, same)
        np.testing.assert_array_equal(hq, target)


def test_a_disk_without_space_is_said_before(config, monkeypatch):
    settings = config()
    usage = type("Usage", (), {"free": 2**29})
    monkeypatch.setattr(taught.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"6 pairs of a teacher take 0\.0 GiB.*0\.5 GiB"):
        open_taught(settings, open_mixture(settings), PictureTeacher(doubled, "a"))


def test_a_teacher_of_a_larger_scale_is_reduced(config):
    settings = config()
    make_teacher(settings, scale=4)
    teacher = picture_teacher(settings)
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    own = settings.copy_and_resolve_references().unlock()
    own.task, own.scale, own.eval.levels, own.seed = "sr", 4, (), 5
    params = create_state(own, models.build(own), make_optimizer(own.train)).params
    y = jax.jit(models.build(own).apply)({"params": params}, image[None] / np.float32(255))
    assert isinstance(y, jax.Array)
    expected = np.rint(np.clip(np.asarray(y[0]), 0, 1) * 255).astype(np.uint8)
    difference = teacher.restore(image).astype(int) - imresize_uint8(expected, 0.5)
    assert abs(difference).max() <= 1
    make_teacher(other := config(**{"train.teacher": settings.train.teacher + "2"}), scale=4)
    assert picture_teacher(other).fingerprint == teacher.fingerprint
    with pytest.raises(UserError, match=r"for SR x4, which a student for Photo x3 cannot learn"):
        picture_teacher(config(**{"scale": 3, "data.patch": 12}))
    with pytest.raises(UserError, match=r"no config\.train\.teacher is set"):
        picture_teacher(config(**{"train.teacher": ""}))


def test_a_run_learns_from_kept_pairs_and_is_scored_against_the_teacher(config, tmp_path, capsys):
    settings = config(**{"train.steps": 3})
    make_teacher(settings)
    model = models.build(settings)
    assert train(settings, str(tmp_path / "run"), network_validator(settings, model)) == 0
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 3
    scored = next(row["scores"] for row in rows if "scores" in row)

    # The same by hand, of one picture, and by the command.
    (samples,) = validation_sets(settings)
    assert samples.protocol.endswith("against the teacher")
    example = next(iter(samples))
    np.testing.assert_array_equal(example.hq, picture_teacher(settings).restore(example.lq))
    teacher = f"--teacher={settings.train.teacher}"
    command = ["evaluate", f"--workdir={tmp_path / 'run'}", teacher, "--which=latest"]
    assert main([*command, "--levels=60", "--sets=samples"]) == 0
    assert "against the teacher" in capsys.readouterr().out
    lines = (tmp_path / "run/results.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["psnr"] == pytest.approx(
        scored["samples-60-teacher/psnr"], abs=1e-6
    )


def test_settings_that_do_not_fit(config):
    check_settings(config())
    with pytest.raises(UserError, match=r"data\.window is 25, but must be a multiple"):
        check_settings(config(**{"data.window": 25}))
    with pytest.raises(UserError, match=r"data\.window is 14, .* at least config\.data\.patch, 16"):
        check_settings(config(**{"data.window": 14}))
    with pytest.raises(UserError, match="the task denoise does not enlarge"):
        check_settings(config(task="denoise", scale=1))
    settings = config(**{"data.window": 400})
    with pytest.raises(UserError, match="set a smaller window"):
        open_taught(settings, open_mixture(settings), PictureTeacher(doubled, "a"))


def test_small_images_are_left_out(config, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, side in (("large", 100), ("small", 60)):
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(
            folder / f"{name}.png"
        )
    settings = config(**{"data.source": "folder", "data.dir": str(folder), "data.window": 32})
    pairs = open_taught(settings, open_mixture(settings), PictureTeacher(doubled, "a"))
    assert {name.split()[0] for name in pairs.names} == {"large.png"}
