"""What evaluate.py scores: trained networks, packed ones and the input, of tasks of scale 1."""

from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import binsr_jax
from binsr_jax import models
from binsr_jax.config import Config, default
from binsr_jax.deploy.model_file import load_model_file
from binsr_jax.deploy.pack import pack
from binsr_jax.errors import UserError
from binsr_jax.evaluation import subject
from binsr_jax.evaluation.benchmark import score_set, validator
from binsr_jax.evaluation.sets import load_sets
from binsr_jax.tasks import task_of
from binsr_jax.training.checkpoint import Checkpoints
from binsr_jax.training.scores import Score
from binsr_jax.training.state import create_state, make_optimizer


def _config(task: str, folder: Path) -> Config:
    config = default()
    config.task, config.scale = task, 1
    config.model.name, config.model.unit = "dncnn", "bbcu"
    config.model.features, config.model.blocks, config.model.amplification = 4, 1, 8.0
    config.model.head_activation = "relu"
    config.model.bias = "all" if task == "jpeg" else "none"
    config.eval.levels, config.eval.sets, config.eval.data_dir = (40, 20), ("Set",), str(folder)
    return config


@pytest.fixture(scope="module", params=["denoise", "jpeg"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work dir with a tiny network, and beside it a set of one image and a model file."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "Set").mkdir()
    y, x = np.mgrid[:20, :24]
    image = np.stack([128 + 90 * np.sin(y / 3 + c) * np.cos(x / 4) for c in range(3)], -1)
    Image.fromarray(image.astype(np.uint8)).save(folder / "Set/a.png")
    config = _config(request.param, folder)
    network = models.build(config)
    state = create_state(config, network, make_optimizer(config.train))
    # Not the fresh network, whose output is nearly its input.
    rng = np.random.default_rng(0)
    noise = jax.tree.map(lambda p: 0.1 * rng.normal(size=p.shape), state.params)
    state.params.update(jax.tree.map(lambda p, n: (p + n).astype(np.float32), state.params, noise))
    with Checkpoints(folder / "run", keep=1) as checkpoints:
        checkpoints.save(state, config, "", Score(25.0, task_of(config).scored_sets("Set")[0]))
        checkpoints.wait()
    pack(folder / "run", folder / "model.binsr")
    return folder


def test_packed_networks_score_as_they_did_in_training(trained: Path) -> None:
    network = subject.trained(str(trained / "run"), "latest")
    validate = validator(network.config)
    assert network.restore is not None
    in_training, pictures, _ = validate(network.restore, 0)
    (level_a, level_b) = (f"Set-{level}" for level in network.config.eval.levels)
    assert list(pictures) == [f"{level_a}/a", f"{level_b}/a"]
    task = task_of(network.config)
    images = load_sets(["Set"], trained, task)
    packed = subject.packed(str(trained / "model.binsr"), "packed")
    for one in images:
        total, before = score_set(one, packed.restore)[-1], score_set(one)[-1]
        for score in task.scores:
            assert total[score] == pytest.approx(in_training[f"{one.name}/{score}"], abs=1e-3)
            assert total[f"{task.degradation}_{score}"] == before[score]
        assert total["psnr"] != pytest.approx(before["psnr"], abs=0.01)
    with pytest.raises(UserError, match="--scale is 2"):
        subject.packed(str(trained / "model.binsr"), "packed", 2)


def test_pack_names_the_score_of_the_first_level(trained: Path) -> None:
    assert load_model_file(trained / "model.binsr").provenance["scores"] == {"Set-40/psnr": 25.0}


def test_pictures_are_restored_at_their_size_in_any_tiles(trained: Path) -> None:
    upscaler = binsr_jax.load(trained / "model.binsr")
    with Image.open(trained / "Set/a.png") as picture:
        whole = np.asarray(upscaler.upscale(picture))
        tiled = upscaler.upscale(np.asarray(picture), tile=8)
        grey = upscaler.upscale(picture.convert("L"))
    assert whole.shape == (20, 24, 3)
    np.testing.assert_array_equal(tiled, whole)
    assert (grey.mode, grey.size) == ("L", (24, 20))


@pytest.mark.parametrize(
    ("task", "scale", "method"),
    [("sr", None, "bicubic"), ("sr", 4, "bicubic"), ("denoise", None, "noisy input")],
)
def test_degraded_input(task: str, scale: int | None, method: str) -> None:
    scored = subject.degraded(task, scale)
    assert scored.restore is None
    assert scored.about == {"method": method}
    assert scored.config.scale == (scale or (2 if task == "sr" else 1))
    assert scored.config.task == task


def test_a_network_for_colour_is_scored_on_luma(tmp_path: Path) -> None:
    """A packed one gets the grey image itself, a trained one three equal channels: the same."""
    (tmp_path / "Set").mkdir()
    y, x = np.mgrid[:20, :24]
    image = (128 + 30 * np.sin(y / 3) * np.cos(x / 4)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "Set/a.png")
    config = _config("jpeg_colour", tmp_path)
    network = models.network(config.model, 1, 3)
    state = create_state(config, network, make_optimizer(config.train))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: (p + 0.1 * p * rng.normal(size=p.shape)).astype(np.float32), state.params
    )
    state.params.update(params)
    with Checkpoints(tmp_path / "run", keep=1) as checkpoints:
        checkpoints.save(state, config, "", Score(25.0, "Set-10"))
        checkpoints.wait()
    pack(tmp_path / "run", tmp_path / "model.binsr")
    trained = subject.trained(str(tmp_path / "run"), "latest")
    packed = subject.packed(str(tmp_path / "model.binsr"), "packed")
    for own in (trained, packed):
        scored = subject.scored_as(own, "jpeg")
        (images, _, _, _) = load_sets(["Set"], tmp_path, task_of(scored.config))
        (example,) = images
        assert example.lq.shape == (20, 24, 1)
        assert scored.restore is not None
        restored = scored.restore(example.lq)
        assert (restored.shape, restored.dtype) == ((20, 24, 1), np.uint8)
        assert own.restore is not None
        colour = own.restore(np.repeat(example.lq, 3, axis=-1))
        grey = colour @ np.array([0.299, 0.587, 0.114])
        assert np.abs(restored[..., 0] - grey).max() <= 1.01
        assert np.abs(restored.astype(int) - example.lq).max() > 0
    with pytest.raises(UserError, match="--task is photo"):
        subject.scored_as(trained, "photo")
