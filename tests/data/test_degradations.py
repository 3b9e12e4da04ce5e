import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binsr_jax import config as config_module
from binsr_jax.data.degradations import (
    DEGRADATIONS,
    RandomJPEG,
    RandomNoise,
    add_noise,
    bicubic_pair,
    compress_jpeg,
)
from binsr_jax.data.pairs import crop_to_multiple
from binsr_jax.errors import UserError
from binsr_jax.ops.image import luma_uint8

Reference = Callable[[str], dict[str, np.ndarray]]


@pytest.mark.parametrize(
    ("height", "width", "factor", "expected"),
    [(12, 12, 4, (12, 12)), (13, 15, 4, (12, 12)), (7, 9, 3, (6, 9)), (3, 5, 2, (2, 4))],
)
def test_crop_keeps_the_top_left(height, width, factor, expected):
    image = np.arange(height * width * 3).reshape(height, width, 3)
    cropped = crop_to_multiple(image, factor)
    assert cropped.shape == (*expected, 3)
    np.testing.assert_array_equal(cropped, image[: expected[0], : expected[1]])


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_pair_of_a_constant_image(scale):
    hq = np.full((25, 31, 3), (10, 128, 255), np.uint8)
    lq, cropped = bicubic_pair(hq, scale)
    assert lq.shape == (25 // scale, 31 // scale, 3)
    assert cropped.shape == (lq.shape[0] * scale, lq.shape[1] * scale, 3)
    assert (lq == hq[0, 0]).all()
    assert (cropped == hq[0, 0]).all()


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_pair_covers_the_same_place(scale):
    """In the middle of a linear ramp any symmetric filter gives the mean of the covered pixels."""
    ramp = np.arange(48, dtype=np.uint8)[None, :, None] * np.uint8(4)
    hq = np.broadcast_to(ramp, (48, 48, 3)).copy()
    lq, hq = bicubic_pair(hq, scale)
    covered = hq.reshape(48 // scale, scale, 48 // scale, scale, 3).mean(axis=(1, 3))
    edge = 4  # LQ pixels whose filter reaches over the edge
    inner = np.s_[edge:-edge, edge:-edge]
    assert np.abs(lq[inner] - covered[inner]).max() <= 0.5


def test_one_lq_pixel():
    lq, hq = bicubic_pair(np.full((3, 2, 3), 7, np.uint8), 2)
    assert (lq.shape, hq.shape) == ((1, 1, 3), (2, 2, 3))
    assert (lq == 7).all()


# Noise


def test_test_noise_equals_the_reference_bit_for_bit(reference: Reference) -> None:
    arrays = reference("6b_degradations")
    names = [name for name in arrays if name.startswith("noisy_sigma")]
    assert names
    for name in names:
        sigma = int(name.removeprefix("noisy_sigma"))
        for _ in range(2):  # seeded anew for each image
            noisy = add_noise(arrays["clean_uint8"], sigma)
            assert noisy.dtype == np.float32
            np.testing.assert_array_equal(noisy, arrays[name])


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 5, 1), (60, 80, 3)])
def test_test_noise_is_numpys_of_seed_0(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    state = np.random.get_state()
    try:
        np.random.seed(0)
        expected = image.astype(np.float32) / 255
        expected += np.random.normal(0, 40 / 255, shape)
    finally:
        np.random.set_state(state)
    np.testing.assert_array_equal(add_noise(image, 40), expected)


def test_training_noise_is_neither_clipped_nor_rounded() -> None:
    patch = np.random.default_rng(1).choice(np.array([0, 128, 255], np.uint8), (200, 200, 3))
    lq, hq = RandomNoise(25, 25)(patch, np.random.default_rng(0))
    assert hq is patch
    assert (lq.dtype, lq.shape) == (np.float32, patch.shape)
    noise = lq - patch.astype(np.float32) / 255
    assert noise.std() == pytest.approx(25 / 255, rel=0.01)
    assert abs(noise.mean()) < 0.001
    for value in (0, 128, 255):  # as much of it at black and white as at grey, and on both sides
        part = noise[patch == value]
        assert part.std() == pytest.approx(25 / 255, rel=0.02)
        assert (part < 0).mean() == pytest.approx(0.5, abs=0.01)
    # Channels have noise of their own.
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.02


def test_training_sigma_is_drawn_evenly_for_each_patch() -> None:
    rng = np.random.default_rng(0)
    degrade, patch = RandomNoise(10, 70), np.full((24, 24, 3), 128, np.uint8)
    sigmas = [255 * (degrade(patch, rng)[0] - np.float32(128 / 255)).std() for _ in range(400)]
    assert 9 < min(sigmas) < 13
    assert 67 < max(sigmas) < 73
    quarters = np.histogram(sigmas, 4, (10, 70))[0]
    assert all(70 < count < 130 for count in quarters)


def test_no_noise_is_the_image() -> None:
    patch = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    lq, _ = RandomNoise(0, 0)(patch, np.random.default_rng(0))
    np.testing.assert_array_equal(lq, patch.astype(np.float32) / np.float32(255))


# JPEG


def _grey(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth grey with some noise, so that compression changes it, but not beyond recognition."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    smooth = np.sin(y / 5 + seed) * 60 + np.cos(x / 7) * 50 + 128
    return np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)[..., None]


def test_jpeg_equals_the_reference_bit_for_bit(reference: Reference) -> None:
    arrays = reference("6b_degradations")
    names = [name for name in arrays if name.startswith("y_jpeg_q")]
    assert names
    for name in names:
        quality = int(name.removeprefix("y_jpeg_q"))
        compressed = compress_jpeg(arrays["y_in"][..., None], quality)
        np.testing.assert_array_equal(compressed[..., 0], arrays[name])


def test_jpeg_equals_the_files_that_matlab_wrote(data_dir: Path) -> None:
    files = sorted((data_dir / "Classic5_q10").glob("*.*"))
    if not files:
        pytest.skip(f"{data_dir / 'Classic5_q10'} has no images")
    originals = {file.stem.lower(): file for file in (data_dir / "Classic5").iterdir()}
    for file in files:
        stem = next(stem for stem in originals if file.stem.lower().startswith(stem))
        original = np.asarray(Image.open(originals[stem]).convert("L"))[..., None]
        np.testing.assert_array_equal(
            compress_jpeg(original, 10)[..., 0], np.asarray(Image.open(file).convert("L"))
        )


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (9, 17), (33, 30)])
def test_jpeg_of_any_size_and_quality(shape: tuple[int, int]) -> None:
    grey = _grey(*shape)
    errors = []
    for quality in (0, 1, 10, 50, 100):
        compressed = compress_jpeg(grey, quality)
        assert (compressed.dtype, compressed.shape) == (np.uint8, grey.shape)
        errors.append(np.abs(compressed.astype(int) - grey).mean())
    assert errors[0] == errors[1]
    assert errors[-1] <= 1
    if shape > (8, 8):
        assert errors[1] > errors[2] > errors[3] > errors[4]


def test_jpeg_takes_grey_images_only() -> None:
    for shape in ((8, 8), (8, 8, 3), (8, 1)):
        with pytest.raises(ValueError, match=r"\[H, W, 1\]"):
            compress_jpeg(np.zeros(shape, np.uint8), 10)


def test_training_patches_are_cut_out_of_compressed_ones() -> None:
    """Every pair is a window of a larger patch and of its compression at one of the qualities."""
    patch = _grey(24, 24)
    compressed = {quality: compress_jpeg(patch, quality) for quality in (5, 6, 7)}
    degrade, rng = RandomJPEG(5, 7), np.random.default_rng(0)
    found = []
    for _ in range(600):
        lq, hq = degrade(patch, rng)
        assert lq.dtype == hq.dtype == np.uint8
        assert lq.shape == hq.shape == (16, 16, 1)
        (place,) = (
            (quality, top, left)
            for quality, whole in compressed.items()
            for top in range(9)
            for left in range(9)
            if np.array_equal(hq, patch[top : top + 16, left : left + 16])
            and np.array_equal(lq, whole[top : top + 16, left : left + 16])
        )
        found.append(place)
    qualities, tops, lefts = map(np.array, zip(*found, strict=True))
    for quality in (5, 6, 7):
        assert 160 < (qualities == quality).sum() < 240
    aligned = (tops == 0) & (lefts == 0)
    assert 0.45 < aligned.mean() < 0.57  # half, and 1/81 of the other half
    # Elsewhere any of 9 x 9 places.
    for offsets in (tops[~aligned], lefts[~aligned]):
        assert set(offsets) == set(range(9))
        assert np.bincount(offsets).max() < 60


@pytest.mark.parametrize("degrade", [RandomNoise(0, 75), RandomJPEG(0, 50)])
def test_training_degradations_follow_their_generator(degrade) -> None:
    again = pickle.loads(pickle.dumps(degrade))
    patch = _grey(20, 20)
    for seed in (1, 2):
        first, second = (d(patch, np.random.default_rng(seed)) for d in (degrade, again))
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(first[1], second[1])
    assert not np.array_equal(first[0], degrade(patch, np.random.default_rng(3))[0])


@pytest.mark.parametrize(
    ("name", "field", "ends", "sentence"),
    [
        ("noise", "sigma", (50, 15), r"data.sigma is \(50, 15\), .*0\.\.255, the lower first"),
        ("noise", "sigma", (-1.0, 5.0), r"two numbers in 0\.\.255"),
        ("noise", "sigma", (25.0,), r"two numbers"),
        ("noise", "sigma", ("15", "25"), r"two numbers"),
        ("noise", "sigma", (0.0, float("nan")), r"two numbers"),
        ("jpeg", "quality", (10, 101), r"data.quality is .*whole numbers in 0\.\.100"),
        ("jpeg", "quality", (10.0, 20.0), r"two whole numbers"),
    ],
)
def test_ranges_that_cannot_be(name: str, field: str, ends: tuple, sentence: str) -> None:
    config = config_module.default()
    config.data[field] = ends
    training = DEGRADATIONS[name].training
    assert training is not None
    with pytest.raises(UserError, match=sentence):
        training(config)


def test_ranges_of_whole_numbers_and_of_one_value() -> None:
    config = config_module.default()
    config.data.sigma, config.data.quality = (15, 15), (40, 40)
    for name, expected in (("noise", RandomNoise(15.0, 15.0)), ("jpeg", RandomJPEG(40, 40))):
        training = DEGRADATIONS[name].training
        assert training is not None
        assert training(config) == expected
    assert DEGRADATIONS["bicubic"].training is None


def test_luma_that_is_compressed_is_the_papers(reference: Reference) -> None:
    arrays = reference("6_metrics")
    np.testing.assert_array_equal(
        luma_uint8(arrays["conv_uint8"]), arrays["kair_rgb2ycbcr_uint8_yonly"]
    )
