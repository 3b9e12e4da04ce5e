"""``--pre`` and ``--post``, and the same in Python: exact under tiles, with alpha left alone."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from taps import TapsEngine, photo

from binsr_jax.commands import main
from binsr_jax.commands import pictures as command
from binsr_jax.deploy import upscaler as upscaler_module
from binsr_jax.deploy.upscaler import Upscaler
from binsr_jax.enhance import Input, colours_of, enhance, parse, rows_of
from binsr_jax.errors import UserError

PRE, POST = "median=0.5,clahe=0.4", "unsharp=0.5,colour=1,saturation=0.2"


@pytest.fixture
def run(monkeypatch):
    """Runs ``binsr upscale`` with an engine in plain numpy."""
    monkeypatch.setattr(command, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr(command, "load", lambda model, memory: Upscaler(TapsEngine(), memory))
    return lambda *args: main(["upscale", "-m", "model.binsr", *map(str, args)])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_tiles_make_no_difference(dtype):
    upscaler, white = Upscaler(TapsEngine(global_pooling=True)), np.iinfo(np.uint8).max
    image = photo(60, 45)
    image = image / np.float32(white) if dtype == np.float32 else image.astype(dtype)
    whole = upscaler.upscale(image, pre=PRE, post=POST)
    np.testing.assert_array_equal(upscaler.upscale(image, tile=13, pre=PRE, post=POST), whole)
    assert whole.dtype == dtype
    assert (whole != upscaler.upscale(image)).any()


def test_before_and_after_are_that():
    upscaler, image = Upscaler(TapsEngine()), photo(40, 30)
    before = enhance(image, parse(PRE, "pre"))
    given = Input(colours_of(rows_of(before), 40), 2)
    expected = enhance(upscaler.upscale(before), parse(POST, "post"), given)
    np.testing.assert_array_equal(upscaler.upscale(image, pre=PRE, post=POST), expected)
    large = upscaler.upscale(Image.fromarray(image), pre=PRE, post=POST)
    np.testing.assert_array_equal(np.asarray(large), expected)


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_left_alone(channels):
    upscaler = Upscaler(TapsEngine())
    image = np.random.default_rng(0).integers(1, 256, (30, 20, channels)).astype(np.uint8)
    enhanced = upscaler.upscale(image, pre=PRE, post=POST)
    np.testing.assert_array_equal(enhanced[..., -1], upscaler.upscale(image)[..., -1])


def test_files(run, tmp_path: Path):
    image = photo(40, 30)
    Image.fromarray(image).save(tmp_path / "a.png")
    assert run(tmp_path / "a.png", "--pre", PRE, "--post", POST, "-t", 11) == 0
    expected = Upscaler(TapsEngine()).upscale(image, pre=PRE, post=POST)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a_x2.png")), expected)


def test_a_wrong_step_is_one_sentence_before_anything_is_done(run, tmp_path: Path, capsys):
    Image.fromarray(photo(8, 8)).save(tmp_path / "a.png")
    assert run(tmp_path / "a.png", "--pre", "sharpen=1") == 1
    error = capsys.readouterr().err
    assert error == (
        "error: There is no step 'sharpen' of --pre: choose from median, nlm, clahe, normalise.\n"
    )
    assert not (tmp_path / "a_x2.png").exists()


def test_contrast_counts_for_the_memory(monkeypatch):
    upscaler = Upscaler(TapsEngine(), memory=1)
    monkeypatch.setattr(upscaler_module, "available_memory", lambda: 60 * 1000 * 1000)
    upscaler.require_memory(1000, 1000, parse("median=1", "pre"))
    with pytest.raises(UserError, match="of memory, but only"):
        upscaler.require_memory(1000, 1000, parse("clahe=0.5", "pre"))
