"""Images of any size and kind through an engine that is a sum of taps in plain numpy."""

import io
from typing import cast

import numpy as np
import pytest
from PIL import Image, ImageCms
from taps import TapsEngine, photo

import binsr_jax
from binsr_jax.deploy import upscaler as upscaler_module
from binsr_jax.deploy.upscaler import Upscaler
from binsr_jax.errors import UserError


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (23, 17), (64, 65), (100, 31)])
@pytest.mark.parametrize("tile", [1, 5, 16, 33])
def test_tiled_equals_untiled(scale, size, tile):
    upscaler = Upscaler(TapsEngine(scale))
    image = photo(*size)
    whole = upscaler.upscale(image)
    assert whole.shape == (scale * size[0], scale * size[1], 3)
    np.testing.assert_array_equal(upscaler.upscale(image, tile=tile), whole)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_output_that_is_not_finite_is_refused(value):
    engine = TapsEngine()
    engine.taps[2, 3] = value
    with pytest.raises(UserError, match="not finite"):
        Upscaler(engine).upscale(photo(8, 8))


@pytest.mark.parametrize("ensemble", [False, True])
def test_tiled_equals_untiled_with_means_of_the_whole_image(ensemble):
    upscaler = Upscaler(TapsEngine(global_pooling=True))
    image = photo(50, 37)
    np.testing.assert_array_equal(
        upscaler.upscale(image, tile=12, ensemble=ensemble),
        upscaler.upscale(image, ensemble=ensemble),
    )


def test_tiles_fit_the_memory_and_have_one_shape():
    engine = TapsEngine()
    # A pixel takes the engine's 100 bytes, and 4 bytes for each of 3 values in and 3 x 12 out.
    whole, tiled = Upscaler(TapsEngine()), Upscaler(engine, memory=2000 * (100 + 4 * 39))
    image = photo(90, 120)
    np.testing.assert_array_equal(tiled.upscale(image), whole.upscale(image))
    (shape,) = set(engine.shapes)
    assert shape[0] * shape[1] <= 2000
    assert len(engine.shapes) > 4


def test_means_of_an_image_beyond_the_memory_are_those_of_the_reduced_image():
    engine = TapsEngine(global_pooling=True)
    upscaler = Upscaler(engine, memory=2000 * (100 + 4 * 39))
    image = photo(90, 120)
    work = upscaler.plan(90, 120)
    assert work.reduction == 3  # the least with which 10 800 pixels are no more than 2000
    blocks = image.reshape(30, 3, 40, 3, 3).mean(axis=(1, 3)) / 255
    y = TapsEngine(global_pooling=True).run(
        image.astype(np.float32) / 255, blocks.mean((0, 1)).astype(np.float32)
    )
    expected = np.clip(y, 0, 1) * 255
    assert np.abs(upscaler.upscale(image) - expected).max() < 0.5 + 1e-3


def test_ensemble_is_the_mean_over_flips_and_rotations():
    engine = TapsEngine()
    image = photo(20, 33)
    x = image.astype(np.float32) / 255
    results = []
    for quarters in range(4):
        results.append(np.rot90(engine.run(np.rot90(x, quarters)), -quarters))
        mirrored = engine.run(np.rot90(np.flipud(x), quarters))
        results.append(np.flipud(np.rot90(mirrored, -quarters)))
    expected = np.clip(np.mean(results, axis=0, dtype=np.float64), 0, 1) * 255
    ours = Upscaler(engine).upscale(image, ensemble=True)
    assert np.abs(ours - expected).max() < 0.5 + 1e-3
    np.testing.assert_array_equal(Upscaler(engine).upscale(image, tile=9, ensemble=True), ours)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, np.float16])
@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_of_all_types_hold_the_same_picture(dtype, channels):
    engine = TapsEngine()
    image = photo(12, 15, channels)
    white = 1 if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max
    result = Upscaler(engine).upscale((image / 255 * white).astype(dtype))
    assert result.dtype == dtype
    assert result.shape == (24, 30, channels)
    y = np.clip(engine.run(np.repeat(image, 3 // channels, -1).astype(np.float32) / 255), 0, 1)
    if channels == 1:
        y = y[..., :1]  # all channels of a grey image are equal here, so their luma is that
    np.testing.assert_allclose(result / white, y, atol=4e-3 if dtype != np.float32 else 1e-5)


def test_an_array_without_channels_stays_so():
    upscaler = Upscaler(TapsEngine())
    image = photo(9, 7, 1)
    np.testing.assert_array_equal(upscaler.upscale(image[..., 0]), upscaler.upscale(image)[..., 0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_of_arrays_is_enlarged_by_bicubic(dtype, channels):
    upscaler = Upscaler(TapsEngine())
    image = photo(11, 8, channels, dtype)
    image[..., -1] = image[..., -1] // 2 + 60 if dtype == np.uint8 else image[..., -1]
    result = upscaler.upscale(image)
    np.testing.assert_array_equal(result[..., :-1], upscaler.upscale(image[..., :-1]))
    alpha = Image.fromarray(image[..., -1].astype(np.float32))
    expected = np.asarray(alpha.resize((16, 22), Image.Resampling.BICUBIC))
    white = 1 if dtype == np.float32 else np.iinfo(dtype).max
    off = np.abs(result[..., -1] - np.clip(expected, 0, white)) / white
    assert off.max() <= (1.01 / 255 if dtype == np.uint8 else 1e-5)


def test_images_that_are_none_are_refused():
    upscale = Upscaler(TapsEngine()).upscale
    with pytest.raises(TypeError, match="int64"):
        upscale(np.zeros((4, 4), np.int64))
    with pytest.raises(TypeError, match="list"):
        upscale(cast(np.ndarray, [[1, 2]]))
    for shape in [(0, 4, 3), (4,), (1, 4, 4, 3), (4, 4, 5)]:
        with pytest.raises(ValueError, match=r"\[H, W\]"):
            upscale(np.zeros(shape, np.uint8))
    for value in (-0.1, 255.0, np.nan):
        with pytest.raises(ValueError, match="divide"):
            upscale(np.full((4, 4), value, np.float32))
    with pytest.raises(ValueError, match="-1"):
        upscale(np.zeros((4, 4), np.uint8), tile=-1)


def test_grey_models_refuse_colour():
    upscaler = Upscaler(TapsEngine(channels=1))
    assert upscaler.upscale(photo(4, 4, 1)).shape == (8, 8, 1)
    with pytest.raises(UserError, match="grey"):
        upscaler.upscale(photo(4, 4, 3))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_restoring_keeps_size_type_and_alpha(dtype, channels):
    upscaler = Upscaler(TapsEngine(1))
    image = photo(19, 26, channels, dtype)
    result = upscaler.upscale(image)
    assert result.dtype == dtype
    assert result.shape == image.shape
    np.testing.assert_array_equal(upscaler.upscale(image, tile=7), result)
    if channels in (2, 4):
        np.testing.assert_array_equal(result[..., -1], image[..., -1])
        np.testing.assert_array_equal(result[..., :-1], upscaler.upscale(image[..., :-1]))


@pytest.mark.parametrize("ensemble", [False, True])
@pytest.mark.parametrize("pooling", [False, True])
def test_grey_models_of_scale_1_work_the_luma_of_colour(ensemble, pooling):
    engine = TapsEngine(1, channels=1, global_pooling=pooling)
    image = 100 + photo(30, 41) // 8
    x = image.astype(np.float32) / 255
    luma = (x @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    gain = Upscaler(engine).upscale(luma, ensemble=ensemble)  # no value of it is clipped
    assert gain.min() > 0
    assert gain.max() < 1
    expected = np.clip(x + (gain - luma), 0, 1) * 255
    result = Upscaler(engine).upscale(image, ensemble=ensemble)
    assert np.abs(result - expected).max() < 0.51
    tiled = Upscaler(engine).upscale(image, ensemble=ensemble, tile=8)
    np.testing.assert_array_equal(tiled, result)


def test_grey_models_treat_grey_alike_in_one_channel_and_in_three():
    upscaler = Upscaler(TapsEngine(1, channels=1))
    grey = photo(20, 20, 1)
    in_colour = upscaler.upscale(grey.repeat(3, -1))
    off = np.abs(in_colour.astype(int) - upscaler.upscale(grey))
    assert off.max() <= 1  # the weights of luma add up to 1 but for rounding
    assert (off > 0).mean() < 0.01


def test_noise_beyond_black_and_white_is_input_of_scale_1_only():
    noisy = photo(12, 12, 3, np.float32) * 3 - 1
    upscaler, engine = Upscaler(TapsEngine(1)), TapsEngine(1)
    expected = np.clip(engine.run(noisy), 0, 1)
    np.testing.assert_allclose(upscaler.upscale(noisy), expected, atol=1e-6)
    with pytest.raises(ValueError, match="divide"):
        Upscaler(TapsEngine()).upscale(noisy)
    with pytest.raises(ValueError, match="divide"):
        upscaler.upscale(noisy * 255)


def test_memory_too_small_or_an_output_too_large_is_refused(monkeypatch):
    with pytest.raises(UserError, match="--memory"):
        Upscaler(TapsEngine(), memory=1000).upscale(photo(90, 120))
    monkeypatch.setattr(upscaler_module, "available_memory", lambda: 2**32)
    with pytest.raises(UserError, match="100000x50000"):
        Upscaler(TapsEngine()).plan(50_000, 100_000)
    monkeypatch.setattr(upscaler_module, "available_memory", lambda: None)
    assert Upscaler(TapsEngine()).plan(50_000, 100_000).tiles


@pytest.mark.parametrize(
    ("mode", "result"),
    [
        ("1", "L"),
        ("L", "L"),
        ("LA", "LA"),
        ("P", "RGB"),
        ("RGB", "RGB"),
        ("RGBA", "RGBA"),
        ("RGBX", "RGB"),
        ("CMYK", "RGB"),
        ("YCbCr", "RGB"),
        ("I;16", "I;16"),
    ],
)
def test_pillow_images_keep_their_kind(mode, result):
    upscaler = Upscaler(TapsEngine())
    if mode == "I;16":
        image = Image.fromarray(photo(6, 5, 1, np.uint16)[..., 0])
    else:
        image = Image.fromarray(photo(6, 5, 4 if "A" in mode else 3)).convert(mode)
    large = upscaler.upscale(image)
    assert (large.mode, large.size) == (result, (10, 12))
    array = np.asarray(image if mode == "I;16" else image.convert(result))
    np.testing.assert_array_equal(np.asarray(large), upscaler.upscale(array))


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_pillow_images_of_other_spaces_are_refused(mode):
    with pytest.raises(UserError, match=mode):
        Upscaler(TapsEngine()).upscale(Image.new(mode, (4, 4)))


def test_a_palette_with_transparency_becomes_rgba():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.putpixel((0, 0), 0)
    image.info["transparency"] = 0
    large = Upscaler(TapsEngine()).upscale(image)
    assert large.mode == "RGBA"
    alpha = np.asarray(large)[..., 3]
    assert alpha[7, 7] == 255
    assert alpha[0, 0] < 20


def test_pillow_images_keep_the_profile_and_become_upright():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.fromarray(photo(4, 6))
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    image.save(stream, "PNG", exif=exif, icc_profile=profile)
    upscaler = Upscaler(TapsEngine())
    large = upscaler.upscale(Image.open(stream))
    assert large.info["icc_profile"] == profile
    assert large.size == (8, 12)
    upright = np.rot90(np.asarray(image), -1)
    np.testing.assert_array_equal(np.asarray(large), upscaler.upscale(upright))


def test_the_package_offers_load_without_importing_jax_first():
    assert callable(binsr_jax.load)
    with pytest.raises(UserError, match=r"nothing\.binsr"):
        binsr_jax.load("nothing.binsr")
