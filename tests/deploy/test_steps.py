"""Networks in a row: the same as one after the other, in whatever tiles."""

import numpy as np
import pytest
from PIL import Image
from taps import TapsEngine, photo

from binsr_jax import pretrained
from binsr_jax.commands import main, pictures
from binsr_jax.deploy.engine import Engine
from binsr_jax.deploy.model_file import save_model
from binsr_jax.deploy.steps import Step, Steps, load_steps
from binsr_jax.deploy.upscaler import Upscaler
from binsr_jax.errors import UserError


def _chain(*engines, strength=1.0) -> Upscaler:
    return Upscaler(Steps([Step(e, strength if e.scale == 1 else 1.0) for e in engines]))


@pytest.mark.parametrize("tile", [0, 7])
def test_steps_are_the_networks_one_after_the_other(tile):
    """In floats, since nothing is rounded in between; and whatever the tiles."""
    image = photo(40, 33, dtype=np.float32)
    first, second = TapsEngine(1), TapsEngine(2)
    together = _chain(first, second)
    assert together.scale == 2
    between = Upscaler(first).upscale(image)
    expected = Upscaler(second).upscale(between)
    np.testing.assert_array_equal(together.upscale(image, tile=tile), expected)


def test_the_reach_is_the_sum_of_the_steps_reach():
    steps = Steps([Step(TapsEngine(1)), Step(TapsEngine(1)), Step(TapsEngine(2))])
    assert steps.radius == 9
    image = photo(30, 40, dtype=np.float32)
    changed = image.copy()
    changed[:, 20] = 1 - changed[:, 20]
    differs = (steps.run(image) != steps.run(changed)).any(axis=(0, 2))
    assert np.flatnonzero(differs)[[0, -1]].tolist() == [2 * (20 - 9), 2 * (20 + 9) + 1]


@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0])
def test_strength_blends_towards_the_input(strength):
    image = photo(20, 22, dtype=np.float32)
    engine = TapsEngine(1)
    full = engine.run(image)
    expected = np.clip(image + strength * (full - image), 0, 1)
    result = _chain(engine, strength=strength).upscale(image)
    np.testing.assert_allclose(result, expected, atol=1e-6)
    if strength == 0:
        np.testing.assert_array_equal(result, image)


def test_a_step_for_grey_changes_the_luma_of_colour():
    image = photo(20, 22, dtype=np.float32)
    grey, colour = TapsEngine(1, channels=1), TapsEngine(1)
    weights = np.array([0.299, 0.587, 0.114], np.float32)
    luma = (image @ weights)[..., None]
    cleaned = np.clip(image + (grey.run(luma) - luma), 0, 1)
    expected = np.clip(colour.run(cleaned.astype(np.float32)), 0, 1)
    np.testing.assert_allclose(_chain(grey, colour).upscale(image), expected, atol=1e-5)


def test_means_over_the_image_are_those_of_each_steps_input():
    image = photo(40, 33, dtype=np.float32)
    engines = [TapsEngine(1, global_pooling=True), TapsEngine(1, global_pooling=True)]
    steps = Steps([Step(engine) for engine in engines])
    assert steps.global_pooling
    np.testing.assert_array_equal(steps.run(image, steps.pooled_of(image)), steps.run(image))


def test_only_the_last_step_may_enlarge():
    with pytest.raises(UserError, match="must be the last one"):
        Steps([Step(TapsEngine(2)), Step(TapsEngine(1))])


def test_packed_networks_in_tiles_are_the_whole_to_the_bit(make_model):
    clean = {"task": "jpeg_colour", "scale": 1, "name": "dncnn", "head_activation": "relu"}
    engines = [Engine(make_model(**clean)), Engine(make_model(residual_attention="spatial"))]
    upscaler = _chain(*engines, strength=0.5)
    image = photo(60, 53)
    np.testing.assert_array_equal(upscaler.upscale(image, tile=11), upscaler.upscale(image))


# The commands


@pytest.fixture
def folder(tmp_path, monkeypatch, make_model):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pictures, "keep_compiled_programs", lambda: None)
    save_model("clean.binsr", make_model(task="denoise", scale=1, name="dncnn"))
    save_model("large.binsr", make_model())
    Image.fromarray(photo(24, 20)).save("a.png")
    return tmp_path


def _pixels(name):
    with Image.open(name) as image:
        return np.asarray(image)


def test_restore_in_steps(folder):
    arguments = ["restore", "a.png", "--steps", "clean.binsr,large.binsr", "--strength", "0.5"]
    assert main(arguments) == 0
    upscaler = load_steps(["clean.binsr", "large.binsr"], strength=0.5)
    np.testing.assert_array_equal(_pixels("a_x2.png"), upscaler.upscale(_pixels("a.png")))


@pytest.mark.parametrize("command", ["denoise", "dejpeg"])
def test_clean_with_a_model_of_ones_own(folder, command, capsys):
    suffix = {"denoise": "_denoised", "dejpeg": "_dejpeg"}[command]
    assert main([command, "a.png", "-m", "clean.binsr", "--strength", "0"]) == 0
    np.testing.assert_array_equal(_pixels(f"a{suffix}.png"), _pixels("a.png"))
    assert main([command, "a.png", "-m", "clean.binsr", "--overwrite"]) == 0
    assert (_pixels(f"a{suffix}.png") != _pixels("a.png")).any()
    assert main([command, "a.png", "-m", "large.binsr"]) == 1
    assert "large.binsr enlarges 2 times, and does not keep the size" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["denoise", "dejpeg"])
def test_a_network_that_is_not_in_this_version_is_one_sentence(
    folder, command, capsys, monkeypatch
):
    absent = pretrained.NETWORKS[command]
    monkeypatch.setitem(
        pretrained.NETWORKS, command, pretrained.Packaged(**{**vars(absent), "file": folder / "no"})
    )
    for arguments in ([command, "a.png"], ["restore", "a.png", "--steps", f"{command},upscale"]):
        assert main(arguments) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"The network {command} " in line
        assert "not in this version" in line
        assert "with -m" in line


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "Say what to do with --steps"),
        (["--steps", "clean.binsr", "-m", "clean.binsr"], "Say what to do with --steps"),
        (["--steps", ","], "--steps names no step"),
        (["--steps", "large.binsr,clean.binsr"], "must be the last one"),
        (["--steps", "clean.binsr", "-s", "2"], "-s goes with the step upscale"),
        (["--steps", "unheard"], "no packaged network 'unheard'"),
        (["-m", "clean.binsr", "-s", "2"], "leave out -s"),
    ],
)
def test_mistakes_are_one_sentence(folder, arguments, sentence, capsys):
    assert main(["restore", "a.png", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line
