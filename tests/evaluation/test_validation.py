"""A network as a function of pictures, and the validation of a training."""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from set_pictures import colour_picture, config_of, save, sr_task

from binsr_jax import config as config_lib
from binsr_jax import models
from binsr_jax.data.degradations import as_image
from binsr_jax.errors import UserError
from binsr_jax.evaluation.benchmark import restorer, score_set, validator
from binsr_jax.evaluation.sets import load_set, load_sets
from binsr_jax.ops.image import imresize_uint8
from binsr_jax.ops.upsampling import upsample_nearest
from binsr_jax.tasks import task_of


class _Nearest(nn.Module):
    """A network of one parameter: pixels repeated and multiplied by it."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, progress: jax.Array) -> jax.Array:
        assert not train
        assert progress.dtype == jnp.float32
        gain = self.param("gain", nn.initializers.ones, ())
        return gain * upsample_nearest(x, 2)


@pytest.mark.parametrize("gain", [1.0, 0.5, 1.7, -1.0])
def test_restorer_clips_and_rounds(gain: float) -> None:
    with pytest.raises(UserError, match="not finite"):
        restorer(_Nearest(), {"params": {"gain": jnp.float32(np.inf)}})(np.ones((4, 4, 3), "u1"))
    restore = restorer(_Nearest(), {"params": {"gain": jnp.float32(gain)}})
    for shape in ((6, 5, 3), (1, 1, 3)):
        image = colour_picture(*shape[:2])
        values = np.clip(image.astype(np.float64) * gain, 0, 255)
        # Float32 may put a value at exactly one half on either side.
        restored = restore(image)
        assert restored.dtype == np.uint8
        difference = restored - values.repeat(2, axis=0).repeat(2, axis=1)
        assert np.abs(difference).max() <= 0.5 + 1e-4


def test_restorers_of_one_network_are_compiled_once_a_shape() -> None:
    traced = []

    class Traced(_Nearest):
        @nn.compact
        def __call__(self, x: jax.Array, train: bool, progress: jax.Array) -> jax.Array:
            traced.append(x.shape)
            return super().__call__(x, train, progress)

    network = Traced()
    for gain in (0.2, 0.4):
        restore = restorer(network, {"params": {"gain": jnp.float32(gain)}})
        for shape in ((2, 3, 3), (4, 3, 3)):
            assert restore(np.full(shape, 100, np.uint8))[0, 0, 0] == 100 * gain
    assert traced == [(1, 2, 3, 3), (1, 4, 3, 3)]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_restorer_runs_a_binary_network(scale: int) -> None:
    config = config_lib.default()
    config.model.features, config.model.blocks = 8, 1
    config.scale = scale
    model = models.build(config)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    image = colour_picture(9, 7)
    lq = image[None].astype(np.float32) / 255
    y = jax.jit(model.apply)(variables, lq, progress=jnp.float32(1))
    expected = np.clip(np.asarray(y)[0] * 255.0, 0, 255)
    restored = restorer(model, variables)(image)
    assert restored.shape == (9 * scale, 7 * scale, 3)
    assert np.abs(restored - expected).max() <= 0.51


def test_validator_scores_every_set(tmp_path: Path) -> None:
    for name in ("One", "Two"):
        for seed in range(2):
            save(tmp_path / f"{name}/{seed}.png", colour_picture(33, 40, seed))
    config = config_lib.default()
    config.eval.sets = ("Two", "One", "samples")
    config.eval.data_dir = str(tmp_path)
    scores, pictures, images = validator(config)(lambda lq: imresize_uint8(lq, 2), 1000)
    assert list(scores) == [
        f"{name}/{score}" for name in config.eval.sets for score in ("psnr", "ssim")
    ]
    expected = score_set(load_set("Two", tmp_path, sr_task()))[-1]
    assert scores["Two/psnr"] == expected["psnr"]
    assert scores["Two/ssim"] == expected["ssim"]
    assert list(pictures)[:2] == ["Two/0", "One/0"]
    assert images == {
        s.name: s.fingerprint() for s in load_sets(config.eval.sets, tmp_path, sr_task())
    }
    assert images["One"] == images["Two"] == expected["fingerprint"]
    for picture in pictures.values():
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3


@pytest.mark.parametrize(
    ("sets", "sentence"),
    [((), "config.eval.sets"), ((3,), "config.eval.sets is"), (("samples", "Absent"), "Absent")],
)
def test_validator_refuses_missing_sets_at_once(
    tmp_path: Path, sets: tuple[str, ...], sentence: str
) -> None:
    config = config_lib.default()
    config.eval.sets, config.eval.data_dir = sets, str(tmp_path)
    with pytest.raises(UserError, match=sentence):
        validator(config)


def test_restorer_takes_noise_beyond_white_and_black() -> None:
    class Same(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, train: bool, progress: jax.Array) -> jax.Array:
            return x * self.param("gain", nn.initializers.ones, ())

    restore = restorer(Same(), {"params": {"gain": jnp.float32(0.5)}})
    lq = np.array([[[-0.4, 0.2, 1.6], [3.0, 1.0, 0.0]]], np.float32)
    expected = np.rint(np.clip(lq / 2, 0, 1) * 255)
    np.testing.assert_array_equal(restore(lq), expected)


@pytest.mark.parametrize(("task", "levels"), [("denoise", (15, 25, 50)), ("jpeg", (10, 20))])
def test_validator_scores_every_level(tmp_path: Path, task: str, levels: tuple[int, ...]) -> None:
    save(tmp_path / "One/0.png", colour_picture(33, 40))
    config = config_of(task, *levels)
    config.eval.sets, config.eval.data_dir = ("One",), str(tmp_path)
    scores, pictures, images = validator(config)(lambda lq: as_image(lq, 1), 1000)
    names = task_of(config).scored_sets("One")
    wanted = task_of(config).scores
    assert list(scores) == [f"{name}/{score}" for name in names for score in wanted]
    for images in load_sets(["One"], tmp_path, task_of(config)):
        assert scores[f"{images.name}/psnr"] == score_set(images)[-1]["psnr"]
    assert list(pictures) == [f"{name}/0" for name in names]
