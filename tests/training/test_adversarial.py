"""Perceptual and adversarial losses: by their formulas, and in runs that resume bit for bit."""

import json
import math
import os
import re
import signal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from safetensors.numpy import save_file

from binsr_jax.config import default
from binsr_jax.data.real_degradation import sharpened as sharpened_by_numpy
from binsr_jax.errors import UserError
from binsr_jax.training.adversary import GAN_LOSSES, create_adversary, update_adversary
from binsr_jax.training.checkpoint import Checkpoints
from binsr_jax.training.loop import train
from binsr_jax.training.perceptual import load_vgg, perceptual_distance, perceptual_layers
from binsr_jax.training.scores import Score, Validation
from binsr_jax.training.sharpening import sharpened
from binsr_jax.training.trained import load_model

pytestmark = pytest.mark.usefixtures("shared_steps")

_SHAPES = [(64, 3), (64, 64), (128, 64), (128, 128), (256, 128)]  # of VGG19's first convolutions
_NUMBERS = (0, 2, 5, 7, 10)  # in torchvision's list of layers


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    """Drawn weights of the beginning of VGG19, under torchvision's names."""
    rng, state = np.random.default_rng(0), {}
    for number, (outputs, inputs) in zip(_NUMBERS, _SHAPES, strict=True):
        shape = (outputs, inputs, 3, 3)
        kernel = rng.normal(0, math.sqrt(2 / (9 * inputs)), shape)
        state[f"features.{number}.weight"] = kernel.astype(np.float32)
        state[f"features.{number}.bias"] = rng.normal(0, 0.1, outputs).astype(np.float32)
    file = tmp_path_factory.mktemp("vgg") / "vgg19.safetensors"
    save_file(state, file)
    return file


def conv(x, kernel, bias):
    """A convolution of ``[H, W, I]`` by the definition, of a PyTorch kernel."""
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(x, ((1, 1), (1, 1), (0, 0))), (3, 3), (0, 1)
    )
    return np.einsum("hwiyx,oiyx->hwo", windows, kernel) + bias


def entropy(logits, real):
    return np.mean(np.log1p(np.exp(-logits if real else logits)))


def test_the_losses_of_both_games():
    rng = np.random.default_rng(0)
    real, made = rng.normal(size=(2, 5, 1)).astype(np.float32)
    of_real, of_made = real - made.mean(), made - real.mean()
    expected = {
        "vanilla": (entropy(real, True) + entropy(made, False), entropy(made, True)),
        "relativistic": (
            (entropy(of_real, True) + entropy(of_made, False)) / 2,
            (entropy(of_real, False) + entropy(of_made, True)) / 2,
        ),
    }
    assert expected.keys() == GAN_LOSSES.keys()
    for name, losses in GAN_LOSSES.items():
        values = [float(loss(jnp.asarray(real), jnp.asarray(made))) for loss in losses]
        np.testing.assert_allclose(values, expected[name], rtol=1e-5)


def test_the_perceptual_distance_is_that_of_vggs_features(tiny, vgg_file):
    layers = ("conv1_2=0.5", "conv2_1=2")
    config = tiny(
        **{"train.perceptual_file": str(vgg_file), "train.perceptual_layers": layers}
    ).train
    params = load_vgg(config)
    assert sorted(params) == ["conv1_1", "conv1_2", "conv2_1"]
    rng = np.random.default_rng(1)
    images = rng.random((2, 1, 16, 16, 3), np.float32)
    from safetensors.numpy import load_file

    state = load_file(vgg_file)
    found = []
    for image in images[:, 0].astype(np.float64):
        x = (image - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        weights = [(state[f"features.{n}.weight"], state[f"features.{n}.bias"]) for n in _NUMBERS]
        second = conv(np.maximum(conv(x, *weights[0]), 0), *weights[1])
        halved = np.maximum(second, 0).reshape(8, 2, 8, 2, 64).max((1, 3))
        found.append((second, conv(halved, *weights[2])))
    expected = sum(
        weight * np.abs(found[0][i] - found[1][i]).mean() for i, weight in enumerate((0.5, 2))
    )
    distance = perceptual_distance(params, perceptual_layers(config), images[0], images[1])
    assert float(distance) == pytest.approx(expected, rel=1e-4)


def test_other_names_of_vggs_weights(tiny, vgg_file, tmp_path):
    from safetensors.numpy import load_file

    state = load_file(vgg_file)
    names: dict[int, str] = dict(
        zip(_NUMBERS, ("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1"), strict=True)
    )
    renamed = {
        re.sub(r"features\.(\d+)", lambda m: f"vgg_net.{names[int(m[1])]}", name): array
        for name, array in state.items()
    }
    save_file(renamed, tmp_path / "vgg.safetensors")
    fields = {"train.perceptual_layers": ("conv3_1=1",)}
    ours, theirs = (
        load_vgg(tiny(**fields, **{"train.perceptual_file": str(file)}).train)
        for file in (vgg_file, tmp_path / "vgg.safetensors")
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize("shape", [(1, 24, 70, 3), (2, 8, 9, 3)])
def test_sharpening_is_that_of_the_degradation(shape):
    images = np.cumsum(np.random.default_rng(0).random(shape), 2) % 1
    images = images.astype(np.float32)
    expected = np.stack([sharpened_by_numpy(image, 0.5) for image in images])
    np.testing.assert_allclose(jax.jit(sharpened)(images, 0.5), expected, atol=2e-5)


def scores(variables, step):
    return Validation({"samples/psnr": 20.0 + step}, {}, {"samples": "f00d"})


def run_state(workdir, step):
    with Checkpoints(workdir, read_only=True) as checkpoints:
        import orbax.checkpoint as ocp

        return checkpoints._restore_state(step, ocp.args.StandardRestore())


# As in the recipes realesrgan and esrgan; at step 6 both rates have changed, and change again.
_REAL_ESRGAN = {
    "task": "real",
    "train.gan_loss": "vanilla",
    "train.discriminator": "unet",
    "train.schedule": "cosine",
    "train.warmup": 2,
}
_ESRGAN = {
    "train.gan_loss": "relativistic",
    "train.discriminator": "vgg",
    "train.schedule": "multistep",
    "train.milestones": (4, 8),
}


@pytest.mark.parametrize("recipe", [_REAL_ESRGAN, _ESRGAN], ids=["realesrgan", "esrgan"])
def test_a_generator_and_its_discriminator_resume_bit_for_bit(tiny, tmp_path, vgg_file, recipe):
    fields = {
        **recipe,
        "train.steps": 10,
        "train.batch": 2,
        "train.ema": 0.9,
        "train.log_every": 1,
        "eval.every": 6,
        "train.gan_weight": 0.1,
        "train.discriminator_features": 4,
        "train.discriminator_rate": 2e-3,
        "train.pixel_weight": 0.01,
        "train.perceptual_weight": 1.0,
        "train.perceptual_layers": ("conv1_1=1",),
        "train.perceptual_file": str(vgg_file),
    }

    def stop(variables, step):
        os.kill(os.getpid(), signal.SIGTERM)
        return scores(variables, step)

    once, twice = tmp_path / "once", tmp_path / "twice"
    assert train(tiny(**fields), str(once), scores) == 0
    assert train(tiny(**fields), str(twice), stop) == 128 + signal.SIGTERM
    at_six = run_state(twice, 6)
    assert train(tiny(**fields), str(twice), scores) == 0
    ends = [run_state(folder, 10) for folder in (once, twice)]
    jax.tree.map(np.testing.assert_array_equal, *ends)
    for before, after in ((at_six, ends[0]), (at_six["adversary"], ends[0]["adversary"])):
        for part in ("params", "opt_state"):
            leaves = zip(jax.tree.leaves(before[part]), jax.tree.leaves(after[part]), strict=True)
            assert any((a != b).any() for a, b in leaves)
    rows, others = (
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        for folder in (once, twice)
    )
    losses = [row for row in rows if "loss" in row]
    for row in losses:
        terms = [row[name] for name in ("pixel", "perceptual", "adversarial")]
        assert row["loss"] == pytest.approx(np.dot([0.01, 1, 0.1], terms), rel=1e-4)
        assert 0 < row["discriminator"] < 5
    assert len({row["learning_rate"] for row in losses}) >= 3
    names = ("step", "loss", "adversarial", "discriminator", "learning_rate")
    assert [[row.get(n) for n in names] for row in losses] == [
        [row.get(n) for n in names] for row in others if "loss" in row
    ]
    assert load_model(once, "latest")[2].keys() == {"params"}  # what is scored and packed
    with pytest.raises(UserError, match=r"another network \(train.discriminator_features"):
        train(tiny(**{**fields, "train.discriminator_features": 8}), str(once), scores)


def test_the_generator_learns_to_pass(tiny, tmp_path):
    """Without a pixel loss, the generator's own term falls against a discriminator that is slow."""
    fields = {
        "train.steps": 30,
        "train.log_every": 10,
        "train.gan_weight": 1.0,
        "train.gan_loss": "vanilla",
        "train.pixel_weight": 0.0,
        "train.discriminator_features": 8,
        "train.discriminator_rate": 1e-9,
    }
    train(tiny(**fields), str(tmp_path), scores)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    generator = [row["adversarial"] for row in rows if "loss" in row]
    assert generator[-1] < generator[0]


def test_the_discriminator_learns_to_tell():
    """Textures from enlarged pixels: its loss falls from that of guessing to a tenth of it."""
    config, rng = default(), np.random.default_rng(0)
    config.train.discriminator_features, config.data.patch = 8, 32
    real = jnp.asarray(rng.random((4, 32, 32, 3), np.float32))
    made = jnp.asarray(rng.random((4, 8, 8, 3), np.float32).repeat(4, 1).repeat(4, 2))
    optimizer = optax.adam(1e-3)
    state = create_adversary(config, optimizer, jax.random.key(0))
    update = jax.jit(lambda state: update_adversary(config, optimizer, state, made, real))
    losses = []
    for _ in range(25):
        state, loss = update(state)
        losses.append(float(loss))
    assert losses[0] == pytest.approx(math.log(2), abs=0.05)
    assert losses[-1] < losses[0] / 10


@struct.dataclass
class StateOfBefore:
    """What checkpoints held before there were discriminators."""

    step: jax.Array
    params: dict
    collections: dict
    opt_state: Any
    ema: dict | None


def test_a_checkpoint_from_before_there_were_discriminators_goes_on(tiny, tmp_path):
    config = tiny(**{"train.steps": 2})
    assert train(config, str(tmp_path / "new"), scores) == 0
    with Checkpoints(tmp_path / "new", read_only=True) as checkpoints:
        from binsr_jax import models
        from binsr_jax.training.state import create_state, make_optimizer

        model = models.build(config)
        like = create_state(config, model, make_optimizer(config.train))
        state, data = checkpoints.restore(2, like), checkpoints.data(2)
    old: Any = StateOfBefore(
        state.step, state.params, state.collections, state.opt_state, state.ema
    )
    (tmp_path / "old").mkdir()
    with Checkpoints(tmp_path / "old") as checkpoints:
        checkpoints.save(old, config, data, Score(22.0))
    for folder in ("new", "old"):
        assert train(tiny(**{"train.steps": 4}), str(tmp_path / folder), scores) == 0
    ends = [run_state(tmp_path / folder, 4) for folder in ("new", "old")]
    jax.tree.map(np.testing.assert_array_equal, *ends)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"train.perceptual_weight": 1.0}, "needs the weights of VGG19, which do not come"),
        (
            {"train.perceptual_weight": 1.0, "train.perceptual_layers": ("relu1_1=1",)},
            "'relu1_1=1'",
        ),
        (
            {"train.perceptual_weight": 1.0, "train.perceptual_layers": ("conv1_3=1",)},
            "'conv1_3=1'",
        ),
        ({"train.perceptual_weight": 1.0, "data.patch": 8}, "VGG19 needs 16 or more"),
        (
            {"train.gan_weight": 1.0, "train.gan_loss": "ls"},
            "must be one of: vanilla, relativistic",
        ),
        ({"train.gan_weight": 1.0, "data.patch": 12}, "takes sides of multiples of 8"),
        (
            {"train.gan_weight": 1.0, "train.discriminator": "vgg", "data.patch": 24},
            "takes sides of 8, 16, 32",
        ),
        ({"train.gan_weight": 1.0, "parallel": "pmap"}, "config.parallel is pmap, but a discrim"),
        ({"train.gan_weight": 1.0, "train.accumulate": 2}, "config.train.accumulate is 2, but a"),
        (
            {"task": "jpeg", "scale": 1, "train.gan_weight": 1.0},
            "have no colour, which perceptual",
        ),
    ],
)
def test_settings_that_cannot_work(tiny, tmp_path, fields, words):
    with pytest.raises(UserError, match=words):
        train(tiny(**fields), str(tmp_path), scores)


def test_weights_of_another_network_are_named(tiny, tmp_path, vgg_file):
    fields = {"train.perceptual_weight": 1.0, "train.perceptual_file": str(vgg_file)}
    with pytest.raises(
        UserError, match=r"lacks the weights of VGG19: features\.12\.weight of shape"
    ):
        train(tiny(**fields), str(tmp_path), scores)
