"""Packed networks without XLA: the bits of XLA's form, for any size, and their files."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from binsr_jax.deploy import loading
from binsr_jax.deploy.engine import Engine
from binsr_jax.deploy.loading import engine_of
from binsr_jax.deploy.model_file import save_model
from binsr_jax.deploy.program import Program
from binsr_jax.ops.native import build, choose

pytestmark = pytest.mark.skipif(
    choose.chosen_form() == "xla" or jax.default_backend() != "cpu",
    reason="packed networks run natively on CPU only",
)
SIZES = ((1, 1), (1, 7), (5, 1), (13, 6), (61, 47))
# A network for each kind of step: attention and none, skips, and each backbone.
NETWORKS = {
    "plain": {"unit": "bbcu"},
    "spatial": {"unit": "attention", "residual_attention": "spatial", "image_skip": "bilinear"},
    "pixel": {"residual_attention": "pixel", "binary_attention": "spatial"},
    "se": {"residual_attention": "spatial", "binary_attention": "se"},
    "means": {"residual_attention": "global", "binary_attention": "global"},
    "x3": {"scale": 3, "image_skip": "bilinear"},
    "x4": {"scale": 4, "image_skip": "bilinear", "residual_attention": "spatial"},
    "denoise": {"task": "denoise", "scale": 1, "name": "dncnn", "blocks": 3},
    "direct": {"upsampler": "direct", "image_skip": "bilinear"},
    "float upsampler": {"upsampler": "float", "scale": 3},
}


@pytest.fixture
def make(make_model):
    return lambda **fields: make_model(**{"features": 16, **fields})


def picture(height, width, seed=0):
    return np.random.default_rng(seed).random((height, width, 3), np.float32)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_program_gives_the_bits_of_xla(make, name):
    engine = Engine(make(**NETWORKS[name]))
    program = engine.program()
    assert program is not None
    for shape in SIZES:
        x = picture(*shape)
        np.testing.assert_array_equal(program.run(x), engine.run(x), err_msg=str(shape))
    for attribute in ("scale", "channels", "radius", "stride", "overlap", "bytes_per_pixel"):
        assert getattr(program, attribute) == getattr(engine, attribute)
    assert program.global_pooling == engine.global_pooling


@pytest.mark.parametrize("name", ["se", "means", "plain"])
def test_tiles_take_the_means_of_the_whole(make, name):
    program, x = Engine(make(**NETWORKS[name])).program(), picture(31, 44)
    assert program is not None
    pooled, whole = program.pooled_of(x), program.run(x)
    assert bool(pooled) == (name != "plain")
    np.testing.assert_array_equal(program.run(x, pooled), whole)
    halo = program.radius
    tile = program.run(x[:, : 20 + halo], pooled)
    np.testing.assert_array_equal(tile[:, : 20 * program.scale], whole[:, : 20 * program.scale])


@pytest.mark.parametrize("name", ["spatial", "x3", "x4", "direct"])
def test_an_image_skip_is_one_native_call(make, name):
    program = Engine(make(**NETWORKS[name])).program()
    assert program is not None
    assert [step.name for step in program.reconstruct.steps].count("image_skip") == 1
    assert "upsample_bilinear" not in [step.name for step in program.reconstruct.steps]
    assert program.reconstruct.steps[-1].name == "image_skip"


@pytest.mark.parametrize("name", ["spatial", "x4", "direct"])
def test_rows_worked_together_make_no_difference(make, monkeypatch, name):
    """Neither those of elementwise steps, nor enlarged ones, nor the strips of the second half."""
    program, x = Engine(make(**NETWORKS[name])).program(), picture(45, 11)
    assert program is not None
    whole = program.run(x)
    monkeypatch.setattr("binsr_jax.deploy.program._CACHED_BYTES", 0)
    monkeypatch.setattr("binsr_jax.deploy.program._ENLARGED_ROWS", 2)
    monkeypatch.setattr("binsr_jax.deploy.program._STRIP_BYTES", 0)
    for rows in (4, 8, 32):
        monkeypatch.setattr("binsr_jax.deploy.program._STRIP_ROWS", rows)
        np.testing.assert_array_equal(program.run(x), whole)


def test_where_the_handlers_for_xla_cannot_be_made_xla_does_all(make, monkeypatch, caplog):
    def fail(form):
        raise build.BuildError("of the test")

    monkeypatch.setattr(choose, "_register", fail)
    choose.has_handlers.cache_clear()
    engine, x = Engine(make(**NETWORKS["plain"])), picture(17, 19)
    assert np.isfinite(engine.run(x)).all()
    assert "XLA's convolutions are used" in caplog.text
    program = engine.program()
    assert program is not None
    assert program.run(x).shape == (34, 38, 3)
    choose.has_handlers.cache_clear()


@pytest.mark.parametrize(
    "fields",
    [
        {"unit": "dual", "residual_attention": "spatial", "binary_attention": "pixel"},
        {"unit": "residual"},
    ],
)
def test_other_networks_are_run_by_xla(make, fields):
    assert isinstance(engine_of(make(**fields)), Engine)


def test_floats_are_never_a_program(make):
    assert isinstance(engine_of(make(), "float"), Engine)


def test_an_image_of_another_kind_is_refused(make):
    program = engine_of(make())
    assert isinstance(program, Program)
    with pytest.raises(ValueError, match="an image must be"):
        program.run(picture(4, 4)[..., :1])
    with pytest.raises(TypeError, match="float32"):
        program.run(picture(4, 4).astype(np.float64))


@pytest.fixture
def kept(make, tmp_path, monkeypatch):
    """A model file whose program is kept in a folder of the test, and that folder."""
    monkeypatch.setattr(loading, "cache_folder", lambda name: tmp_path)
    monkeypatch.setattr(loading, "_runs_on_cpu", lambda: True)
    save_model(tmp_path / "a.binsr", make(**NETWORKS["se"]))
    return tmp_path / "a.binsr", tmp_path


def test_a_program_is_kept_and_read_again(kept, monkeypatch):
    file, folder = kept
    first, x = loading.load_engine(file), picture(9, 14)
    assert isinstance(first, Program)
    (place,) = folder.glob("*.program")
    monkeypatch.setattr(loading, "engine_of", None)  # is not called again
    np.testing.assert_array_equal(loading.load_engine(file).run(x), first.run(x))
    again = loading._read(place)
    assert again is not None
    assert again.extract.steps == first.extract.steps


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_program_is_made_anew(kept, damage):
    file, folder = kept
    loading.load_engine(file)
    (place,) = folder.glob("*.program")
    whole = place.read_bytes()
    place.write_bytes(whole[:-9] + b"x" + whole[-8:] if damage is None else damage)
    assert isinstance(loading.load_engine(file), Program)
    assert place.read_bytes() == whole


def test_another_file_of_the_same_name_has_another_program(kept, make):
    file, folder = kept
    loading.load_engine(file)
    save_model(file, make(**NETWORKS["plain"]))
    loading.load_engine(file)
    assert len(list(folder.glob("*.program"))) == 2


SCRIPT = """
import sys
from binsr_jax.commands import main
status = main(sys.argv[1:])
print(status, *(name in sys.modules for name in ("numpy", "jax", "flax")))
"""


def imported(*arguments, **environment):
    """The exit status of ``binsr``, and whether it imports numpy, JAX and Flax."""
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    return done.stdout.splitlines()[-1]


def test_a_missing_file_is_answered_without_numpy():
    assert imported("upscale", "/nowhere.png") == "1 False False False"


def test_a_picture_is_enlarged_without_jax(tmp_path):
    from PIL import Image

    Image.new("RGB", (9, 7)).save(tmp_path / "a.png")
    command = ["upscale", tmp_path / "a.png", "-m", "x2", "--overwrite"]
    imported(*command)  # keeps the program
    assert imported(*command) == "0 True False False"


def test_on_a_new_machine_only_the_kernels_are_compiled(tmp_path):
    from PIL import Image

    Image.new("RGB", (9, 7)).save(tmp_path / "a.png")
    status = imported("upscale", tmp_path / "a.png", "-m", "x2", HOME=str(tmp_path))
    assert status == "0 True True True"
    (library,) = (tmp_path / ".cache/binsr-jax/native").glob("*.so")
    assert "-kernels-" in library.name
