"""The network that comes with the package."""

import numpy as np
import pytest
from PIL import Image

import binsr_jax
from binsr_jax.commands import main
from binsr_jax.data.images import read_rgb
from binsr_jax.data.sources import SAMPLES
from binsr_jax.deploy.upscaler import PRETRAINED
from binsr_jax.evaluation.metrics import psnr
from binsr_jax.ops.image import imresize_uint8

# Not held out from this network, which was trained on other crops of them too: see docs/models.md.
PHOTOGRAPHS = sorted((SAMPLES / "valid").glob("*.png"))


@pytest.fixture(scope="module")
def upscaler():
    return binsr_jax.load()


def test_is_small():
    assert PRETRAINED.stat().st_size < 1_000_000


def test_beats_bicubic(upscaler):
    gains = []
    for file in PHOTOGRAPHS:
        hq = read_rgb(file)
        hq = hq[: hq.shape[0] // 2 * 2, : hq.shape[1] // 2 * 2]
        lq = imresize_uint8(hq, 1 / 2)
        ours, bicubic = (
            psnr(image, hq, border=2, luma=True)
            for image in (upscaler.upscale(lq), imresize_uint8(lq, 2))
        )
        gains.append(ours - bicubic)
    assert len(gains) > 1
    assert np.mean(gains) > 2
    assert min(gains) > 0.5


def test_enlarges_a_named_photo_without_flags(upscaler, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    photo = np.random.default_rng(0).integers(0, 256, (9, 14, 3), np.uint8)
    Image.fromarray(photo).save("photo.png")
    assert main(["upscale", "photo.png"]) == 0
    assert "1 enlarged" in capsys.readouterr().out
    with Image.open("photo_x2.png") as enlarged:
        np.testing.assert_array_equal(np.asarray(enlarged), upscaler.upscale(photo))


def test_has_an_origin(capsys):
    assert main(["info"]) == 0
    lines = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["task"].strip() == "SR x2"
    assert "unknown" not in lines["trained"] + lines["scores"]
