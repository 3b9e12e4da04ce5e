"""The steps before and after a network: what each does, in strips as in the whole."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from binsr_jax import enhance
from binsr_jax.deploy import pictures
from binsr_jax.enhance import STEPS, Input, Step, colours_of, parse, rows_of
from binsr_jax.errors import UserError

SAMPLES = Path(enhance.__file__).parent / "data" / "samples" / "valid"
ALL_PRE = "median=0.5,nlm=0.7,clahe=0.3,normalise=0.6"
ALL_POST = "unsharp=0.8,edges=0.6,colour=1,saturation=-0.4"


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.asarray(Image.open(SAMPLES / "skyline.png").convert("RGB"))


def given(pixels: np.ndarray) -> Input:
    return Input(colours_of(rows_of(pixels), len(pixels)))


def done(pixels: np.ndarray, text: str, before: Input | None = None) -> np.ndarray:
    stage = "pre" if STEPS[text.split("=")[0]].stage == "pre" else "post"
    return enhance.enhance(pixels, parse(text, stage), before)


def noisy(pixels: np.ndarray, sigma: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, sigma, pixels.shape)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def mse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean((a.astype(float) - b) ** 2))


def luma(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(float) @ [0.299, 0.587, 0.114]


def test_text_of_steps():
    steps = parse(" median=0.5, clahe = 1,", "pre")
    assert steps == (Step("median", 0.5), Step("clahe", 1.0))
    assert parse("saturation=-1", "post") == (Step("saturation", -1.0),)
    assert parse("", "pre") == ()


@pytest.mark.parametrize(
    ("text", "stage", "words"),
    [
        ("blur=1", "pre", "no step 'blur' of --pre: choose from median, nlm, clahe, normalise"),
        ("colour=1", "pre", "colour is one of --post; --pre has median"),
        ("median=0.5", "post", "median is one of --pre; --post has unsharp"),
        ("median=2", "pre", "median takes a strength from 0 to 1, such as median=0.5, not '2'"),
        ("median", "pre", "median takes a strength"),
        ("median=x", "pre", "not 'x'"),
        ("median=nan", "pre", "not 'nan'"),
        ("saturation=-2", "post", "from -1 to 1"),
    ],
)
def test_wrong_steps_are_one_sentence(text, stage, words):
    with pytest.raises(UserError, match=words):
        parse(text, stage)


@pytest.mark.parametrize("name", STEPS)
def test_strength_0_changes_nothing(photo, name):
    assert enhance.enhance(photo, [Step(name, 0.0)], given(photo)) is photo


@pytest.mark.parametrize("name", STEPS)
def test_half_the_strength_is_half_the_change(photo, name):
    x = photo[:150, :100].astype(np.float32) / 255 * 0.6 + 0.2  # nothing is clipped
    before = given(0.8 * x)
    half, whole = (enhance.enhance(x, [Step(name, s)], before) for s in (0.5, 1.0))
    inner = (whole > 0) & (whole < 1)
    assert np.abs(whole - x).max() > 0.01
    np.testing.assert_allclose((half - x)[inner], 0.5 * (whole - x)[inner], atol=1e-5)


@pytest.mark.parametrize("name", STEPS)
def test_types_agree(photo, name):
    """8 and 16 bits and floats give the same, up to rounding."""
    pixels = photo[:140, :90]
    before = given(photo)
    step = [Step(name, 0.7)]
    eight = enhance.enhance(pixels, step, before)
    sixteen = enhance.enhance(pixels.astype(np.uint16) * 257, step, before)
    floats = enhance.enhance(pixels.astype(np.float32) / 255, step, before)
    assert (eight.dtype, sixteen.dtype, floats.dtype) == (np.uint8, np.uint16, np.float32)
    np.testing.assert_allclose(sixteen / 257, eight, atol=0.51)
    np.testing.assert_allclose(floats * 65_535, sixteen, atol=0.51)
    grey = enhance.enhance(pixels[..., :1], step, given(pixels[..., :1]))
    assert grey.shape == (140, 90, 1)


@pytest.mark.parametrize(("text", "stage"), [(ALL_PRE, "pre"), (ALL_POST, "post")])
def test_strips_give_the_result_of_the_whole(photo, monkeypatch, text, stage):
    restoration = pytest.importorskip("skimage.restoration")
    # The noise of an image is estimated in strips of the usual height.
    monkeypatch.setattr(restoration, "estimate_sigma", lambda x, channel_axis: 0.03)
    results = []
    for rows in (16, 50, 1000):
        monkeypatch.setattr(enhance, "_STRIP", rows)
        results.append(enhance.enhance(photo[:200], parse(text, stage), given(photo)))
    for other in results[1:]:
        difference = np.abs(results[0].astype(int) - other)
        assert difference.max() <= 1  # the sums of non-local means are of other windows
        assert difference.mean() < 1e-3


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
def test_a_canvas_is_done_in_its_place(photo, monkeypatch, mode):
    monkeypatch.setattr(enhance, "_STRIP", 16)
    pixels = photo if mode == "RGB" else photo[..., :1]
    pixels = pixels.astype(np.uint16) * 257 if mode == "I;16" else pixels
    steps, before = parse(ALL_POST, "post"), given(photo // 2 if mode == "RGB" else pixels)
    canvas = pictures.canvas(pictures.Picture(pixels), 1)
    pictures.paste(canvas, slice(0, len(pixels)), slice(0, pixels.shape[1]), pixels)
    pictures.enhance_canvas(canvas, steps, before)
    expected = enhance.enhance(pixels, steps, before)
    np.testing.assert_array_equal(np.asarray(canvas).reshape(pixels.shape), expected)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 9, 1), (3, 2, 3), (130, 1, 1), (129, 5, 3)])
@pytest.mark.parametrize("name", STEPS)
def test_small_and_flat_images(shape, name):
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert enhance.enhance(pixels, [Step(name, 1.0)], given(pixels)).shape == shape
    flat = np.full(shape, 77, np.uint8)
    flat[..., -1] = 80
    result = enhance.enhance(flat, [Step(name, 1.0)], given(flat))
    if name != "saturation":
        np.testing.assert_array_equal(result, flat)


def test_median_is_that_of_nine(photo):
    pixels = photo[:40, :50]
    expected = ndimage.median_filter(pixels, (3, 3, 1), mode="nearest")
    np.testing.assert_array_equal(done(pixels, "median=1"), expected)


def test_nlm_takes_noise_away(photo):
    degraded = noisy(photo[:200, :200], 15)
    assert mse(done(degraded, "nlm=1"), photo[:200, :200]) < 0.4 * mse(degraded, photo[:200, :200])


def test_normalise_by_hand():
    ramp = np.linspace(0.3, 0.6, 1001, dtype=np.float32)
    image = np.tile(ramp, (2, 1))[..., None]
    result = done(image, "normalise=1")
    # A half of a hundredth at each end is clipped: 0.3 + 0.005 * 0.3 becomes 0.
    expected = np.clip((image - 0.3015) / (0.5985 - 0.3015), 0, 1)
    np.testing.assert_allclose(result, expected, atol=2e-3)


def test_clahe_keeps_the_range_and_the_colour_differences(photo):
    x = photo.astype(np.float32) / 255 * 0.5 + 0.25
    y = done(x, "clahe=1")
    assert luma(y).min() >= luma(x).min() - 1e-5
    assert luma(y).max() <= luma(x).max() + 1e-5
    inner = ((y > 0) & (y < 1)).all(axis=-1)
    np.testing.assert_allclose(
        (y[..., 0] - y[..., 2])[inner], (x[..., 0] - x[..., 2])[inner], atol=1e-5
    )


def test_unsharp_is_the_difference_from_a_gaussian(photo):
    x = photo[:60, :60].astype(np.float32) / 255 * 0.5 + 0.25
    gain = luma(x) - ndimage.gaussian_filter(luma(x), 1.0, mode="reflect")
    np.testing.assert_allclose(done(x, "unsharp=0.5"), x + 0.5 * gain[..., None], atol=1e-4)


def test_edges_are_steeper_and_faint_noise_stays():
    step = np.repeat(np.array([0.3, 0.7], np.float32), 20)[None].repeat(30, axis=0)[..., None]
    result = done(step, "edges=1")
    assert 0.5 < result[15, 20, 0] - result[15, 19, 0] < 0.6
    np.testing.assert_array_equal(result[:, :15], step[:, :15])
    grain = 0.5 + 0.004 * np.random.default_rng(0).standard_normal((30, 30, 1), np.float32)
    assert done(grain, "edges=1").std() < 1.1 * grain.std()


def test_colour_gives_back_the_mean_and_the_deviation(photo):
    shifted = np.clip(photo * np.array([0.8, 0.9, 0.7]) + np.array([20, 5, 40]), 0, 255)
    shifted = np.rint(shifted).astype(np.uint8)
    result = done(shifted, "colour=1", given(photo))
    np.testing.assert_allclose(result.mean((0, 1)), photo.mean((0, 1)), atol=0.5)
    np.testing.assert_allclose(result.std((0, 1)), photo.std((0, 1)), rtol=0.01)
    assert mse(result, photo) < 1


def test_colour_ignores_noise_and_detail(photo):
    """The noise that a network took away is not put back as contrast."""
    pixels = photo[:160, :160] // 3 + 85  # noise is not clipped
    before = given(noisy(pixels, 20))
    result = done(pixels, "colour=1", before)
    assert mse(result, pixels) < 1


def test_colour_of_an_enlarged_image(photo):
    pixels = photo[:160, :160]
    small = np.asarray(Image.fromarray(pixels).resize((80, 80), Image.Resampling.BOX))
    before = Input(colours_of(rows_of(small), 80), 2)
    np.testing.assert_allclose(done(pixels, "colour=1", before), pixels, atol=1.01)


def test_saturation_keeps_luma(photo):
    x = photo[:50, :50].astype(np.float32) / 255 * 0.5 + 0.25
    grey = done(x, "saturation=-1")
    np.testing.assert_allclose(grey, luma(x)[..., None].repeat(3, axis=-1), atol=1e-5)
    np.testing.assert_allclose(luma(done(x, "saturation=0.5")), luma(x), atol=1e-5)
