"""Checkpoints: exact, kept by policy, verified, and refused in one sentence if they do not fit."""

import gc
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from binsr_jax import models
from binsr_jax.config import config_to_json
from binsr_jax.errors import UserError
from binsr_jax.ops.native import choose
from binsr_jax.training import checkpoint
from binsr_jax.training.checkpoint import Checkpoints
from binsr_jax.training.scores import Score, saved_steps
from binsr_jax.training.state import TrainState, create_state, make_optimizer
from binsr_jax.training.trained import load_model


def _state(config, step=1) -> TrainState:
    """A state whose every leaf is different."""
    model = models.build(config)
    shapes = jax.eval_shape(lambda: create_state(config, model, make_optimizer(config.train)))
    rng = np.random.default_rng(step)
    state = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)
    return state.replace(step=np.array(step, np.int32))


def _save(workdir: Path, config, scores: dict[int, float | None], keep: int = 2) -> None:
    with Checkpoints(workdir, keep=keep) as checkpoints:
        for step, score in scores.items():
            checkpoints.save(
                _state(config, step), config, "", None if score is None else Score(score)
            )


def test_a_state_comes_back_bit_for_bit(tiny, tmp_path):
    config = tiny(**{"train.ema": 0.9})
    state = _state(config, 7)
    state.params["head"]["kernel"][0, 0] = [[np.nan] * 8, [-0.0] * 8, [1e-45] * 8]
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, config, "614 images")
        checkpoints.wait()
        restored = checkpoints.restore(7, _state(config, 1))
        assert checkpoints.data(7) == "614 images"
        assert config_to_json(checkpoints.config(7)) == config_to_json(config)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()


def test_a_checkpoint_says_what_computed(tiny, tmp_path):
    _save(tmp_path, tiny(), {1: None})
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.arithmetic(1) == f"cpu, {choose.chosen_form()}"


def test_a_saved_state_may_be_overwritten_at_once(tiny, tmp_path):
    config = tiny()
    state = jax.tree.map(jax.numpy.asarray, _state(config, 3))
    expected = jax.tree.map(np.array, state)
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, config, "")
        overwrite(state)
        checkpoints.wait()
        restored = checkpoints.restore(3, expected)
    jax.tree.map(np.testing.assert_array_equal, restored, expected)


def test_the_latest_and_the_best_are_kept(tiny, tmp_path):
    _save(tmp_path, tiny(), {1: 30.0, 2: 33.0, 3: None, 4: 31.0, 5: None, 6: None})
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [2, 5, 6]
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (6, 2)
        assert (checkpoints.score(2), checkpoints.score(6)) == (Score(33.0), None)


def test_only_scores_of_the_same_images_are_compared(tiny, tmp_path):
    """An easy set's score stays no best one when another set, level or image is scored."""
    easy, hard, other = ("Easy", "aa"), ("Hard", "bb"), ("Hard", "cc")
    scores = {1: (40.0, *easy), 2: (30.0, *hard), 3: (29.0, *hard), 4: (31.0, *hard)}
    best = {}
    for step, score in {**scores, 5: (20.0, *other), 6: (20.0, *other)}.items():
        with Checkpoints(tmp_path, keep=1) as checkpoints:
            checkpoints.save(_state(tiny(), step), tiny(), "", Score(*score))
            checkpoints.wait()
            best[step] = checkpoints.best_step()
        assert load_model(tmp_path)[3] == best[step]
    assert best == {1: 1, 2: 2, 3: 2, 4: 4, 5: 5, 6: 6}
    assert saved_steps(tmp_path) == [6]


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_not_damaged(tiny, tmp_path, monkeypatch):
    _save(tmp_path, tiny(), {1: None, 2: None})
    read, reads = checkpoint.Checkpoints.variables, []

    def replaced(self, step):
        reads.append(step)
        if len(reads) == 1:  # the training deletes it, after it has saved a newer one
            shutil.copytree(tmp_path / "checkpoints" / "1", tmp_path / "checkpoints" / "3")
            shutil.rmtree(tmp_path / "checkpoints" / "2")
        return read(self, step)

    monkeypatch.setattr(checkpoint.Checkpoints, "variables", replaced)
    assert load_model(tmp_path, "latest")[3] == 3
    assert reads == [2, 3]


def test_an_unreadable_checkpoint_is_not_called_unwritable(tiny, tmp_path, monkeypatch):
    _save(tmp_path, tiny(), {1: None})

    def fail(*args, **kwargs):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoint.ocp, "CheckpointManager", fail)
    with pytest.raises(UserError, match=r"cannot be read .*Input/output error"):
        load_model(tmp_path)


@pytest.mark.parametrize(("which", "step"), [("best", 1), ("latest", 2)])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_model_is_rebuilt_from_its_work_dir(tiny, tmp_path, which, step, ema):
    config = tiny(**{"train.ema": ema, "model.residual_attention": "spatial"})
    _save(tmp_path, config, {1: 31.0, 2: 30.0})
    loaded, model, variables, found = load_model(tmp_path, which)
    assert found == step
    assert config_to_json(loaded) == config_to_json(config)
    jax.tree.map(np.testing.assert_array_equal, variables, _state(config, step).variables)
    low = np.zeros((1, 5, 4, 3), np.float32)
    restored = model.apply(variables, low, train=False, progress=1.0)
    assert np.shape(np.asarray(restored)) == (1, 10, 8, 3)


def test_without_scores_the_latest_is_the_best(tiny, tmp_path):
    _save(tmp_path, tiny(), {1: None, 2: None})
    assert load_model(tmp_path, "best")[3] == 2


@pytest.mark.parametrize("made", [False, True])
def test_a_work_dir_without_checkpoint_is_one_sentence(tmp_path, made):
    if made:
        (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="holds no checkpoint: train there first"):
        load_model(tmp_path)


def test_loading_leaves_a_save_that_is_going_on_alone(tiny, tmp_path):
    _save(tmp_path, tiny(), {1: None})
    unfinished = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    unfinished.mkdir()
    assert load_model(tmp_path)[3] == 1
    assert unfinished.is_dir()
    with Checkpoints(tmp_path, keep=2) as checkpoints:  # training cleans up before it saves
        assert checkpoints.latest_step() == 1
        checkpoints.save(_state(tiny(), 3), tiny(), "")
    assert not unfinished.exists()


def _files(step_dir: Path) -> list[str]:
    """Files that hold what is restored, by their path below the step."""
    names = (str(path.relative_to(step_dir)) for path in step_dir.rglob("*") if path.is_file())
    return sorted(name for name in names if "commit_success" not in name)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_flipped_and_missing_bytes_are_one_sentence_or_do_no_harm(tiny, tmp_path):
    config = tiny()
    _save(tmp_path, config, {1: None, 2: None})
    step_dir = tmp_path / "checkpoints" / "2"
    sentences = []
    for name in _files(step_dir):
        path = step_dir / name
        content = path.read_bytes()
        flipped = bytearray(content)
        for position in range(0, len(content), max(1, len(content) // 5)):
            flipped[position] ^= 0x10
        other = [b"[]", b"{}"] if content[:1] == b"{" else []  # JSON of another shape
        for damaged in (bytes(flipped), content[: len(content) // 2], b"", *other):
            path.write_bytes(damaged)
            try:
                _, _, variables, _ = load_model(tmp_path, "latest")
            except UserError as error:
                sentences.append(str(error))
            else:  # of the files that are not read, and of bits that mean nothing
                expected = _state(config, 2).variables
                jax.tree.map(np.testing.assert_array_equal, variables, expected)
        path.write_bytes(content)
    gc.collect()  # reads that Orbax broke off complain when they are collected: let them do it here
    assert len(sentences) >= 6
    for sentence in sentences:
        assert sentence.startswith(f"The checkpoint {step_dir} is damaged (")
        assert sentence.endswith(": delete that folder to continue from step 1.")
        assert "\n" not in sentence
    assert load_model(tmp_path, "latest")[3] == 2


def test_a_damaged_checkpoint_is_one_line(tiny, tmp_path):
    _save(tmp_path, tiny(), {1: None})
    manifest = tmp_path / "checkpoints" / "1" / "state" / "manifest.ocdbt"
    manifest.write_bytes(manifest.read_bytes()[:40])
    command = [sys.executable, "-m", "binsr_jax", "pack", "--workdir", str(tmp_path)]
    done = subprocess.run([*command, "-o", "m.binsr"], capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: The checkpoint")
    assert "is damaged" in line
