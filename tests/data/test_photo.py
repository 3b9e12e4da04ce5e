"""Reduced photographs with blur, noise and JPEG compression."""

import pickle

import numpy as np
import pytest

from binsr_jax import config as config_module
from binsr_jax.data.degradations import DEGRADATIONS
from binsr_jax.data.jpeg import compress_colour_jpeg
from binsr_jax.data.pairs import bicubic_pair
from binsr_jax.data.photo import RandomPhoto, photo_pair
from binsr_jax.errors import UserError
from binsr_jax.ops.image import imresize, to_uint8


def _picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(y / 9 + c + seed) * 50 + np.cos(x / (8 + c)) * 60 for c in range(3)])
    return np.clip(waves + 128, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def test_the_benchmark_is_made_step_by_step():
    """The blur is a sum over Gaussian weights, written out."""
    image = np.random.default_rng(0).integers(0, 256, (33, 41, 3), np.uint8)
    lq, hq = photo_pair(image, 2, 60)
    assert (lq.shape, hq.shape) == ((16, 20, 3), (32, 40, 3))
    np.testing.assert_array_equal(hq, image[:32, :40])
    sigma = 0.5  # 0.25 pixels of the small image
    weights = np.exp(-(np.arange(-2, 3) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    x = np.pad(hq.astype(float), ((2, 2), (2, 2), (0, 0)), mode="symmetric")
    x = np.stack([w * x[i : i + 32] for i, w in enumerate(weights)]).sum(0)
    x = np.stack([w * x[:, i : i + 40] for i, w in enumerate(weights)]).sum(0)
    noise = np.random.RandomState(0).normal(0, 3, (16, 20, 3))
    small = to_uint8(imresize(x, 0.5) + noise)
    np.testing.assert_array_equal(lq, compress_colour_jpeg(small, 60, "4:2:0"))


def test_clean_patches_are_windows_of_the_bicubic():
    patch = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
    degrade = RandomPhoto(2, (0.0, 0.5), (0.0, 12.0), (40, 95), clean=1.0)
    assert degrade.margin == 32
    whole, rng = bicubic_pair(patch, 2)[0], np.random.default_rng(0)
    for _ in range(10):
        lq, hq = degrade(patch, rng)
        assert (lq.shape, hq.shape) == ((24, 24, 3), (48, 48, 3))
        (place,) = (
            (top, left)
            for top in range(17)
            for left in range(17)
            if np.array_equal(lq, whole[top : top + 24, left : left + 24])
        )
        top, left = (2 * offset for offset in place)
        np.testing.assert_array_equal(hq, patch[top : top + 48, left : left + 48])


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("twice", [0.0, 1.0])
def test_pairs_cover_the_same_place(scale, twice):
    """Without blur and noise, at the best quality, a smooth picture is that of the bicubic."""
    degrade = RandomPhoto(scale, (0.0, 0.0), (0.0, 0.0), (100, 100), ("4:4:4",), twice=twice)
    side = 24 * scale
    patch, rng = _picture(side + degrade.margin, side + degrade.margin), np.random.default_rng(1)
    for _ in range(6):
        lq, hq = degrade(patch, rng)
        assert (lq.shape, hq.shape) == ((24, 24, 3), (side, side, 3))
        means = hq.reshape(24, scale, 24, scale, 3).mean((1, 3))
        errors = [np.abs(lq - np.roll(means, shift, 1))[2:-2, 2:-2].mean() for shift in (0, 1, -1)]
        assert errors[0] < 0.35 * min(errors[1:])  # half a pixel's shift would be half of a whole


def test_noise_has_two_kinds_of_the_chosen_deviation():
    patch = np.full((112, 112, 3), 255 // 4, np.uint8)
    degrade = RandomPhoto(2, (0.0, 0.5), (10.0, 10.0), (100, 100), ("4:4:4",))
    rng = np.random.default_rng(0)
    deviations = [float(np.std(degrade(patch, rng)[0].astype(float) - 63)) for _ in range(40)]
    # At a quarter of white the variance of light's noise is a quarter: half the deviation.
    plain = [d for d in deviations if d > 7.5]
    assert 10 < len(plain) < 30
    assert np.mean(plain) == pytest.approx(10, rel=0.05)
    assert np.mean([d for d in deviations if d <= 7.5]) == pytest.approx(5, rel=0.1)


def test_blur_quality_and_a_second_compression_cost_detail():
    patch = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)

    def detail(**fields) -> float:
        settings = {"blur": (0.0, 0.0), "sigma": (0.0, 0.0), "quality": (95, 95)} | fields
        degrade, rng = RandomPhoto(2, **settings), np.random.default_rng(0)
        return float(np.mean([degrade(patch, rng)[0].std() for _ in range(12)]))

    assert detail(blur=(0.5, 0.5)) < 0.8 * detail()
    assert detail(quality=(5, 5)) < 0.95 * detail()
    assert detail(twice=1.0, quality=(5, 5)) < 0.95 * detail(quality=(5, 5))


def test_patches_follow_their_generator():
    degrade = RandomPhoto(2, (0.0, 0.5), (0.0, 12.0), (40, 95), twice=0.5, clean=0.2)
    again, patch = pickle.loads(pickle.dumps(degrade)), _picture(80, 80)
    for seed in range(8):
        first, second = (d(patch, np.random.default_rng(seed)) for d in (degrade, again))
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])
    made = {degrade(patch, np.random.default_rng(seed))[0].tobytes() for seed in range(8)}
    assert len(made) == 8


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("blur", (0.5, 0.1), r"data.blur is \(0.5, 0.1\), .*0\.\.10, the lower first"),
        ("twice", -0.1, r"data.twice is -0.1, .*0\.\.1"),
        ("clean", float("nan"), r"data.clean is nan"),
        ("subsampling", ("4:2:2",), r"data.subsampling"),
    ],
)
def test_settings_that_cannot_be(field, value, sentence):
    config = config_module.default()
    config.task, config.data.quality = "photo", (40, 95)
    config.data[field] = value
    training = DEGRADATIONS["photo"].training
    assert training is not None
    with pytest.raises(UserError, match=sentence):
        training(config)
