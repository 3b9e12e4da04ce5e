"""JPEG of colour; that of luma is in ``test_degradations``."""

import io

import numpy as np
import pytest
from PIL import Image

from binsr_jax import config as config_module
from binsr_jax.data.degradations import DEGRADATIONS
from binsr_jax.data.jpeg import RandomColourJPEG, compress_colour_jpeg, compress_jpeg
from binsr_jax.errors import UserError


def _picture(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(0)
    waves = np.stack([np.sin(y / 5 + c) * 50 + np.cos(x / (6 + c)) * 60 for c in range(3)], -1)
    return np.clip(waves + 128 + rng.normal(0, 6, waves.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("subsampling", "sampling"), [("4:2:0", 2), ("4:4:4", 1)])
def test_the_file_has_the_subsampling_and_the_tables_of_the_quality(subsampling, sampling):
    """What Pillow reads is compared with a file written by quantisation tables alone."""
    image = _picture(48, 40)
    file = io.BytesIO()
    # libjpeg's rule: a table of quality 25 is that of quality 50 times 2.
    with Image.open(io.BytesIO(_file(image, 50))) as half:
        tables = [[min(255, 2 * n) for n in half.__dict__["quantization"][i]] for i in (0, 1)]
    Image.fromarray(image).save(file, "JPEG", qtables=tables, subsampling=subsampling)
    with Image.open(file) as written:
        assert [layer[1:3] for layer in written.__dict__["layer"]] == [
            (sampling,) * 2,
            (1, 1),
            (1, 1),
        ]
        expected = np.asarray(written)
    np.testing.assert_array_equal(compress_colour_jpeg(image, 25, subsampling), expected)


def _file(image: np.ndarray, quality: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return file.getvalue()


def test_half_the_chroma_blurs_colour_alone():
    """Stripes of one pixel that differ in colour and not in luma are lost with 4:2:0 alone."""
    image = np.empty((32, 32, 3), np.uint8)
    image[:, ::2], image[:, 1::2] = (160, 100, 120), (100, 131, 120)
    assert abs(np.array([0.299, 0.587, 0.114]) @ [60, -31, 0]) < 0.5
    kept, lost = (compress_colour_jpeg(image, 95, s).astype(int) for s in ("4:4:4", "4:2:0"))
    stripes = [np.abs(np.diff(x[8:-8, 8:-8, 0], axis=1)).mean() for x in (kept, lost)]
    assert stripes[0] > 45
    assert stripes[1] < 10


def test_colour_images_and_known_subsamplings_only():
    with pytest.raises(ValueError, match=r"\[H, W, 3\]"):
        compress_colour_jpeg(np.zeros((8, 8, 1), np.uint8), 10, "4:4:4")
    with pytest.raises(ValueError, match="4:1:1"):
        compress_colour_jpeg(np.zeros((8, 8, 3), np.uint8), 10, "4:1:1")


def test_training_patches_are_windows_of_compressed_ones():
    patch = _picture(40, 40)
    luma = np.rint(patch @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)[..., None]
    grey = np.repeat(luma, 3, -1)
    made = {(q, s): compress_colour_jpeg(patch, q, s) for q in (7, 8) for s in ("4:2:0", "4:4:4")}
    greys = {(q, "grey"): np.repeat(compress_jpeg(luma, q), 3, -1) for q in (7, 8)}
    degrade, rng = RandomColourJPEG(7, 8, grey=0.25), np.random.default_rng(0)
    assert degrade.margin == 16
    found = []
    for _ in range(400):
        lq, hq = degrade(patch, rng)
        assert lq.shape == hq.shape == (24, 24, 3)
        (place,) = (
            (*kind, top, left)
            for of, wholes in ((patch, made), (grey, greys))
            for top in range(17)
            for left in range(17)
            if np.array_equal(hq, of[top : top + 24, left : left + 24])
            for kind, whole in wholes.items()
            if np.array_equal(lq, whole[top : top + 24, left : left + 24])
        )
        found.append(place)
    kinds = [kind for _, kind, _, _ in found]
    assert 70 < kinds.count("grey") < 130
    assert abs(kinds.count("4:2:0") - kinds.count("4:4:4")) < 60
    assert 150 < sum(quality == 7 for quality, *_ in found) < 250
    assert 0.42 < np.mean([(top, left) == (0, 0) for *_, top, left in found]) < 0.6
    assert {top for *_, top, _ in found} == set(range(17))


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("subsampling", ("4:1:1",), r"data.subsampling is \('4:1:1',\), .*4:2:0, 4:4:4"),
        ("subsampling", (), r"data.subsampling"),
        ("grey", 1.5, r"data.grey is 1.5, .*0\.\.1"),
        ("quality", (5, 101), r"data.quality"),
    ],
)
def test_settings_that_cannot_be(field, value, sentence):
    config = config_module.default()
    config.data[field] = value
    training = DEGRADATIONS["jpeg_420"].training
    assert training is not None
    with pytest.raises(UserError, match=sentence):
        training(config)
