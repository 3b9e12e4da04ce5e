"""Real-ESRGAN's degradation: its kernels, sizes and noise by their definitions, and its draws."""

import dataclasses
import math
import pickle

import numpy as np
import pytest
from scipy import special

from binsr_jax.config import config_from_json, config_to_json, default
from binsr_jax.data import real_degradation as real
from binsr_jax.data.real_ranges import random_real
from binsr_jax.errors import UserError
from binsr_jax.tasks import task_of


@pytest.fixture
def config():
    config = default()
    config.task, config.scale, config.real.margin = "real", 4, 16
    return config


def patch(side=64, seed=0):
    rng = np.random.default_rng(seed)
    x = np.cumsum(np.cumsum(rng.normal(size=(side, side, 3)), 0), 1)
    return (255 * (x - x.min()) / (x.max() - x.min())).astype(np.uint8)


def test_a_gaussian_kernel_has_its_covariance():
    kernel = real.gaussian_kernel(41, 3.0, 1.5, 0.5).astype(np.float64)
    offsets = np.arange(41) - 20
    x, y = np.meshgrid(offsets, offsets)
    covariance = [[(kernel * a * b).sum() for a in (x, y)] for b in (x, y)]
    turn = np.array([[math.cos(0.5), -math.sin(0.5)], [math.sin(0.5), math.cos(0.5)]])
    np.testing.assert_allclose(covariance, turn @ np.diag([9, 2.25]) @ turn.T, atol=1e-3)
    assert kernel.sum() == pytest.approx(1, abs=1e-6)


def test_generalised_and_plateau_kernels_along_their_axis():
    r = np.arange(-5, 6)
    for exponent in (0.5, 2.0):
        q = (r / 2.0) ** 2
        row = real.gaussian_kernel(11, 2.0, 4.0, 0.0, exponent)[5]
        np.testing.assert_allclose(row / row[5], np.exp(-(q**exponent) / 2), rtol=1e-5)
        row = real.gaussian_kernel(11, 2.0, 4.0, 0.0, exponent, plateau=True)[5]
        np.testing.assert_allclose(row / row[5], 1 / (1 + q**exponent), rtol=1e-5)


def test_the_sinc_kernel_passes_low_and_stops_high_frequencies():
    kernel = real.sinc_kernel(61, 1.2).astype(np.float64)
    offsets = np.arange(61) - 30
    response = [(kernel.sum(0) * np.cos(w * offsets)).sum() for w in (0.3, 0.8, 1.8, 2.6)]
    np.testing.assert_allclose(response, [1, 1, 0, 0], atol=0.08)
    ratio = 1.2 * special.j1(1.2 * 5) / (2 * math.pi * 5) / (1.2**2 / (4 * math.pi))
    assert kernel[30, 35] / kernel[30, 30] == pytest.approx(ratio, rel=1e-5)


def test_filtering_is_a_sum_over_the_mirrored_image():
    rng = np.random.default_rng(0)
    image = rng.random((9, 8, 3), np.float32)
    kernel = real.gaussian_kernel(7, 2.0, 0.7, 0.9)
    padded = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (7, 7), (0, 1))
    expected = np.einsum("hwcij,ij->hwc", windows, kernel)
    np.testing.assert_allclose(real.filtered(image, kernel), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "before", "after", "expected"),
    [
        # By hand: means of touched pixels; centres (i + 1/2) / 2 - 1/2 and so on.
        ("area", [0, 4, 8, 2], 2, [2, 5]),
        ("area", [0, 6, 3], 2, [3, 4.5]),
        ("bilinear", [0, 4], 4, [0, 1, 3, 4]),
        ("bilinear", [0, 4, 8, 2], 2, [2, 5]),
        ("bicubic", [0, 4, 8, 2], 2, [1.625, 5.375]),
        ("bicubic", [3, 3, 3], 7, [3] * 7),
    ],
)
def test_sizes_by_hand(method, before, after, expected):
    line = np.array(before, np.float32)
    for image, size in ((line[None, :, None], (1, after)), (line[:, None, None], (after, 1))):
        result = real.resized(image, *size, method)
        assert result.shape == (*size, 1)
        np.testing.assert_allclose(result.ravel(), expected, atol=1e-5)


def test_noise_of_counting_grows_with_the_light():
    rng = np.random.default_rng(0)
    levels = np.repeat(np.arange(256, dtype=np.float32) / 255, 400).reshape(256, 400)
    noise = real.poisson_noise(levels, rng)
    variance, light = noise.var(axis=1), levels[:, 0]
    assert abs(noise.mean()) < 1e-3
    np.testing.assert_allclose(variance.sum() / light.sum(), 1 / 256, rtol=0.05)


def test_sharpening_leaves_small_differences_and_widens_edges():
    image = np.zeros((80, 80, 3), np.float32)
    image[:, 40:] = 0.5
    result = real.sharpened(image + 0.25, 0.5)
    assert result[40, 41, 0] > 0.76
    assert result[40, 38, 0] < 0.24
    flat = np.float32(0.5) + np.random.default_rng(0).normal(0, 1e-3, (70, 70, 3))
    np.testing.assert_allclose(real.sharpened(flat.astype(np.float32), 0.5), flat, atol=1e-6)


def test_a_pair_is_a_function_of_its_seed(config):
    degrade = pickle.loads(pickle.dumps(random_real(config)))
    image = patch()
    pairs = [degrade(image, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    for lq, hq in pairs:
        assert (lq.shape, hq.shape) == ((12, 12, 3), (48, 48, 3))
        assert (lq.dtype, hq.dtype) == (np.uint8, np.uint8)
    for first, again in zip(pairs[0], pairs[1], strict=True):
        np.testing.assert_array_equal(first, again)
    assert (pairs[0][0] != pairs[2][0]).any()


def test_the_pair_shows_one_place(config):
    """With everything but the resizing back left out, the patch is reduced, at its own place."""
    real_ = config.real
    real_.blur_1 = real_.blur_2 = real_.final_sinc = real_.sharpen = 0.0
    real_.resize_1 = real_.resize_2 = (0.0, 0.0, 1.0)
    for name in ("noise_1", "noise_2", "poisson_1", "poisson_2"):
        real_[name] = (0.0, 0.0)
    real_.quality_1 = real_.quality_2 = (100.0, 100.0)
    degrade = random_real(config)
    image = patch()
    places = set()
    for seed in range(20):
        lq, hq = degrade(image, np.random.default_rng(seed))
        means = hq.reshape(12, 4, 12, 4, 3).mean((1, 3))
        assert np.abs(means - lq)[1:-1, 1:-1].mean() < 8
        places.add(bytes(hq[:2]))
    assert len(places) > 8


def test_every_kernel_size_filter_and_order_is_drawn(config, monkeypatch):
    seen = {"kernels": set(), "methods": set(), "sizes": set(), "sinc": 0}
    gaussian, sinc, resized = real.gaussian_kernel, real.sinc_kernel, real.resized

    def note_gaussian(size, along, across, angle, exponent=1.0, plateau=False):
        form = "plateau_" if plateau else "generalised_" if exponent != 1.0 else ""
        seen["kernels"].add(form + ("isotropic" if along == across else "anisotropic"))
        seen["sizes"].add(size)
        assert 0.2 <= min(along, across) <= max(along, across) <= 3
        assert 0.5 <= exponent <= 4
        return gaussian(size, along, across, angle, exponent, plateau)

    def note_sinc(size, cutoff):
        seen["sinc"] += 1
        assert math.pi / 5 <= cutoff <= math.pi
        return sinc(size, cutoff)

    def note_resized(image, height, width, method):
        seen["methods"].add(method)
        return resized(image, height, width, method)

    monkeypatch.setattr(real, "gaussian_kernel", note_gaussian)
    monkeypatch.setattr(real, "sinc_kernel", note_sinc)
    monkeypatch.setattr(real, "resized", note_resized)
    degrade, image = random_real(config), patch(32)
    for seed in range(120):
        degrade(image, np.random.default_rng(seed))
    assert seen["kernels"] == set(real.KERNELS)
    assert seen["methods"] == set(real.METHODS)
    assert seen["sizes"] == set(range(7, 22, 2))
    assert 120 + 8 < seen["sinc"] < 120 + 50


def test_all_fields_are_kept_in_a_stored_config(config):
    config.real.sizes = (3, 9)
    again = config_from_json(config_to_json(config))
    assert again.real.to_dict() == config.real.to_dict()
    assert random_real(again) == random_real(config)
    assert task_of(config).degradation == "real"
    assert dataclasses.asdict(random_real(config))["first"]["sigma"] == (0.2, 3.0)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("margin", 6, "multiple of the scale, 4"),
        ("sizes", (4, 8), "two odd numbers"),
        ("sigma_1", (3.0, 0.2), r"in 0.05\.\.20, the lower first"),
        ("quality_2", (0.0, 95.0), r"in 1\.\.100"),
        ("kernels_1", (1.0, 2.0), "must hold 6 shares"),
        ("resize_2", (0.0, 0.0, 0.0), "a share above 0"),
        ("blur_2", 1.5, r"a share in 0\.\.1"),
        ("factor_1", (1.2, 1.5), "must hold 1 between"),
        ("sharpen", -1.0, r"in 0\.\.10"),
    ],
)
def test_wrong_settings_are_one_sentence(config, field, value, words):
    config.real[field] = value
    with pytest.raises(UserError, match=rf"config\.real\.{field} is .*{words}"):
        random_real(config)
