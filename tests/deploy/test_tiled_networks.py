"""Networks in tiles: the same as in one piece, to the last bit."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import binsr_jax
from binsr_jax.data.images import read_rgb
from binsr_jax.data.sources import SAMPLES
from binsr_jax.deploy.engine import Engine
from binsr_jax.deploy.model_file import save_model
from binsr_jax.deploy.upscaler import Upscaler

SRRESNET = {"name": "srresnet", "unit": "bbcu", "image_skip": "bilinear"}
DNCNN = {"name": "dncnn", "unit": "bbcu", "head_activation": "relu", "scale": 1}
NETWORKS = {
    "bbcu": {"unit": "bbcu", "image_skip": "bilinear"},
    "attention": {"unit": "attention", "blocks": 2},
    "spatial": {"residual_attention": "spatial", "binary_attention": "spatial"},
    "pixel": {"residual_attention": "pixel", "binary_attention": "pixel", "scale": 3},
    "spatial of 16": {"residual_attention": "spatial", "features": 16},
    "se": {"residual_attention": "se", "binary_attention": "se"},
    "global": {"residual_attention": "global", "binary_attention": "global"},
    "dual": {"unit": "dual", "residual_attention": "spatial", "binary_attention": "pixel"},
    "normalised": {"unit": "irnet", "features": 16},
    "accumulated": {"unit": "bam", "blocks": 2},
    "x4": {"scale": 4, "image_skip": "bilinear", "features": 32},
    "float": {"unit": "residual", "body_end": "conv", "upsampler": "float"},
    "direct": {"residual_attention": "spatial", "image_skip": "bilinear", "upsampler": "direct"},
    "binary ends": {"unit": "bbcu", "head": "binary", "tail": "binary", "body_end": "conv"},
    "bbcu-l": {**SRRESNET, "upsampler": "float", "hr_conv": "float", "scale": 4},
    "bbcu-m": {**SRRESNET, "hr_conv": "binary", "scale": 3, "features": 16},
    "denoiser": {**DNCNN, "blocks": 3, "bias": "none", "task": "denoise"},
    "float denoiser": {**DNCNN, "unit": "float", "task": "denoise"},
    "deblocker": {**DNCNN, "blocks": 3, "bias": "all", "task": "jpeg"},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_tiled_equals_untiled(make_model, name):
    upscaler = Upscaler(engine := Engine(make_model(**NETWORKS[name])))
    photo = read_rgb(SAMPLES / "valid" / "sign.png")[:101, :94].astype(np.float32) / 255
    photo = photo[..., : engine.channels]
    whole = upscaler.upscale(photo)
    for tile in (41, 64):
        assert len(upscaler.plan(101, 94, tile=tile).tiles) > 1
        np.testing.assert_array_equal(upscaler.upscale(photo, tile=tile), whole)


@pytest.mark.parametrize("name", ["x4", "bbcu-l", "deblocker"])
def test_what_lies_beyond_the_radius_is_not_seen(make_model, name):
    engine = Engine(make_model(**NETWORKS[name]))
    image = np.random.default_rng(0).random((40, 44, engine.channels)).astype(np.float32)
    changed = image.copy()
    changed[:, 22:] = 1 - changed[:, 22:]
    differs = (engine.run(image) != engine.run(changed)).any(axis=(0, 2))
    first = int(np.argmax(differs)) // engine.scale
    assert 22 - engine.radius <= first < 22


def test_means_of_a_reduced_image_leave_no_seams(make_model):
    engine = Engine(make_model(**NETWORKS["se"]))
    tiled = Upscaler(engine, memory=int(3000 * (engine.bytes_per_pixel + 4 * 39)))
    photo = read_rgb(SAMPLES / "valid" / "sign.png")[:120, :100]
    work = tiled.plan(120, 100)
    assert work.reduction > 1
    assert len(work.tiles) > 1
    # However it is cut, an image has the same result: all tiles use the same means.
    result = tiled.upscale(photo)
    np.testing.assert_array_equal(tiled.upscale(photo, tile=29), result)
    whole = Upscaler(engine).upscale(photo)
    assert np.abs(result.astype(int) - whole).mean() < 2


def test_one_program_serves_all_tiles(make_model):
    engine = Engine(make_model())
    shapes = set()
    run = engine.run

    def counting(image, pooled=None):
        shapes.add(image.shape)
        return run(image, pooled)

    engine.run = counting
    Upscaler(engine).upscale(np.zeros((90, 75, 3), np.uint8), tile=20)
    assert len(shapes) == 1


def test_from_a_shell(make_model, tmp_path: Path):
    model = tmp_path / "model.binsr"
    save_model(model, make_model())
    (tmp_path / "photos").mkdir()
    photo = read_rgb(SAMPLES / "valid" / "sign.png")[:30, :40]
    Image.fromarray(photo).save(tmp_path / "photos" / "good.png")
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"bad")
    done = subprocess.run(
        [sys.executable, "-m", "binsr_jax", "upscale", "-m", str(model), "-i", "photos", "-x"],
        cwd=tmp_path,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert "bad.jpg" in line
    assert "Traceback" not in done.stderr
    assert "1 enlarged, 1 failed." in done.stdout
    assert sorted(p.name for p in (tmp_path / "photos").iterdir()) == [
        "bad.jpg",
        "good.png",
        "good_x2.png",
    ]
    upscaler = binsr_jax.load(model)
    assert upscaler.scale == 2
    with Image.open(tmp_path / "photos" / "good_x2.png") as image:
        np.testing.assert_array_equal(np.asarray(image), upscaler.upscale(photo, ensemble=True))


def test_importing_the_package_imports_no_jax():
    code = "import sys, binsr_jax; binsr_jax.load; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
