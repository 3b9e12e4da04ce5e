"""Image operations against the reference arrays, MATLAB's own files, and plain numpy formulas."""

import re
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from binsr_jax.ops import image as ops

Reference = Callable[[str], dict[str, np.ndarray]]


def _read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape)


def test_imresize_equals_the_reference(reference: Reference) -> None:
    arrays = reference("6_imresize")
    checked = 0
    for name, expected in arrays.items():
        case = re.fullmatch(r"(\w+?)(?:_kair)?_(down|up)(\d)(_noaa)?", name)
        if case is None or f"{case[1]}_in" not in arrays:
            continue
        image, factor = arrays[f"{case[1]}_in"].astype(np.float64), int(case[3])
        scale = 1 / factor if case[2] == "down" else factor
        resized = ops.imresize(image, scale, antialias=case[4] is None)
        # The reference computes in float32, positions included, which are as large as the image.
        np.testing.assert_allclose(resized, expected, rtol=0, atol=5e-6, err_msg=name)
        checked += 1
    assert checked


@pytest.mark.parametrize(
    ("folder", "factor", "edge"),
    [("x2", 2, "clamp"), ("x3", 3, "clamp"), ("x4", 4, "clamp"), ("x2_mirror", 2, "mirror")],
)
def test_imresize_uint8_equals_matlabs_files(
    data_dir: Path, folder: str, factor: int, edge: ops.Edge
) -> None:
    files = sorted((data_dir / "Set5_LR" / folder).glob("*.png"))
    assert files
    for file in files:
        original = _read(data_dir / "Set5" / file.name)
        height, width = (size // factor * factor for size in original.shape[:2])
        small = ops.imresize_uint8(original[:height, :width], 1 / factor, edge=edge)
        np.testing.assert_array_equal(small, _read(file), err_msg=str(file))


@pytest.mark.parametrize("scale", [0.25, 1 / 3, 0.5, 0.7, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("edge", ["mirror", "clamp"])
def test_resizing_a_padded_image_changes_nothing_inside(scale: float, edge: ops.Edge) -> None:
    """The edge rules equal numpy's padding modes "symmetric" and "edge"."""
    image, pad = _random(30, 24, 2), 60  # 60 times any of the scales is an integer
    mode = "symmetric" if edge == "mirror" else "edge"
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
    resized, expected = (ops.imresize(x, scale, edge=edge) for x in (image, padded))
    start = round(pad * scale)
    expected = expected[start : start + resized.shape[0], start : start + resized.shape[1]]
    np.testing.assert_allclose(resized, expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 3), (2, 3, 4), (7, 1, 3)])
@pytest.mark.parametrize("scale", [0.25, 1 / 3, 2.0, 3.0])
@pytest.mark.parametrize("edge", ["mirror", "clamp"])
def test_tiny_images_are_resized(shape: tuple[int, ...], scale: float, edge: ops.Edge) -> None:
    expected = (int(np.ceil(shape[0] * scale)), int(np.ceil(shape[1] * scale)), shape[2])
    resized = ops.imresize(np.full(shape, 0.3), scale, edge=edge)
    np.testing.assert_allclose(resized, np.full(expected, 0.3), atol=1e-14)
    resized = ops.imresize_uint8(np.full(shape, 77, np.uint8), scale, edge=edge)
    np.testing.assert_array_equal(resized, np.full(expected, 77))


def test_enlarging_reproduces_polynomials_of_degree_two() -> None:
    """A property of Keys' kernel, away from the edges."""
    line = np.arange(20.0)
    image = (line[:, None] ** 2 + 3 * line[None, :])[..., None]
    enlarged = ops.imresize(image, 2)
    centre = (np.arange(40) + 0.5) / 2 - 0.5
    expected = centre[:, None] ** 2 + 3 * centre[None, :]
    np.testing.assert_allclose(enlarged[4:-4, 4:-4, 0], expected[4:-4, 4:-4], atol=1e-10)


def test_imresize_keeps_the_float_type_and_refuses_others() -> None:
    assert ops.imresize(_random(4, 4, 3).astype(np.float32), 0.5).dtype == np.float32
    assert ops.imresize(_random(4, 4, 3), 0.5).dtype == np.float64
    with pytest.raises(TypeError, match="uint8"):
        ops.imresize(np.zeros((4, 4, 3), np.uint8), 0.5)
    with pytest.raises(TypeError, match="float64"):
        ops.imresize_uint8(np.zeros((4, 4, 3)), 0.5)
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        ops.imresize(np.zeros((4, 4)), 0.5)
    with pytest.raises(ValueError, match=r"\(0, 4, 3\)"):
        ops.imresize(np.zeros((0, 4, 3)), 0.5)
    with pytest.raises(ValueError, match="scale, not 0"):
        ops.imresize(np.zeros((4, 4, 3)), 0)
    with pytest.raises(ValueError, match="'wrap'"):
        ops.imresize(np.zeros((4, 4, 3)), 2, edge="wrap")  # pyright: ignore[reportArgumentType]


def test_to_uint8_rounds_half_up_and_clips() -> None:
    values = np.array([-3.0, -0.5, 0.49, 0.5, 1.5, 2.5, 254.5, 255.4, 300.0])
    np.testing.assert_array_equal(ops.to_uint8(values), [0, 0, 0, 1, 2, 3, 255, 255, 255])


def test_luma_equals_the_reference(reference: Reference) -> None:
    arrays = reference("6_metrics")
    image = arrays["conv_uint8"]
    y = ops.rgb_to_y(image)
    assert y.dtype == np.float64
    # The reference rounds to float32, whose last place at 235 is 1.5e-5.
    np.testing.assert_allclose(
        ops.rgb_to_y(image[..., ::-1]), arrays["to_y_channel_uint8_bgr"][..., 0], atol=3e-5
    )
    np.testing.assert_array_equal(np.round(y), arrays["rgb2ycbcr_uint8_yonly"])
    np.testing.assert_allclose(
        ops.rgb_to_y(arrays["conv_float"] * 255.0) / 255, arrays["rgb2ycbcr_float_yonly"], atol=2e-7
    )


def test_luma_of_black_white_and_grey() -> None:
    image = np.array([[[0, 0, 0], [255, 255, 255], [51, 51, 51]]], np.uint8)
    np.testing.assert_allclose(ops.rgb_to_y(image), [[16, 235, 16 + 219 / 5]], atol=1e-12)
    with pytest.raises(ValueError, match=r"\(2, 2, 4\)"):
        ops.rgb_to_y(np.zeros((2, 2, 4)))


def test_upsampling_equals_the_reference(reference: Reference) -> None:
    arrays = reference("6_imresize")
    checked = 0
    for name, expected in arrays.items():
        case = re.fullmatch(r"(bilinear|nearest)_up(\d)", name)
        if case is None:
            continue
        upsample = ops.upsample_bilinear if case[1] == "bilinear" else ops.upsample_nearest
        result = upsample(jnp.asarray(arrays["b_in"])[None], int(case[2]))
        np.testing.assert_allclose(
            np.asarray(result).transpose(0, 3, 1, 2), expected, atol=2e-6, err_msg=name
        )
        checked += 1
    assert checked


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 1, 1), (1, 1, 4, 2)])
def test_upsampling_equals_numpy(shape: tuple[int, ...], factor: int) -> None:
    x = _random(*shape).astype(np.float32)
    nearest = x.repeat(factor, axis=1).repeat(factor, axis=2)
    np.testing.assert_array_equal(ops.upsample_nearest(jnp.asarray(x), factor), nearest)

    bilinear = x.astype(np.float64)
    for axis in (1, 2):
        size = x.shape[axis]
        at = (np.arange(size * factor) + 0.5) / factor - 0.5
        # Beyond its ends np.interp returns the end values, which are the repeated edge pixel.
        bilinear = np.apply_along_axis(
            lambda line, at=at: np.interp(at, range(len(line)), line), axis, bilinear
        )
    np.testing.assert_allclose(ops.upsample_bilinear(jnp.asarray(x), factor), bilinear, atol=1e-6)


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_pixel_shuffle_follows_its_formula(factor: int) -> None:
    x = _random(2, 3, 4, 2 * factor**2).astype(np.float32)
    y = np.asarray(ops.pixel_shuffle(jnp.asarray(x), factor))
    assert y.shape == (2, 3 * factor, 4 * factor, 2)
    for h, i, w, j, c in np.ndindex(3, factor, 4, factor, 2):
        np.testing.assert_array_equal(
            y[:, h * factor + i, w * factor + j, c], x[:, h, w, c * factor**2 + i * factor + j]
        )


def test_gradients_of_upsampling_spread_the_sum() -> None:
    """The weights of an input pixel in the output sum to r^2, and to 1 in a pixel shuffle."""
    x = jnp.asarray(_random(1, 5, 5, 1), jnp.float32)
    for upsample in (ops.upsample_nearest, ops.upsample_bilinear):
        gradient = jax.grad(lambda x, upsample=upsample: upsample(x, 3).sum())(x)
        np.testing.assert_allclose(gradient[0, 1:-1, 1:-1, 0], np.full((3, 3), 9.0), rtol=1e-6)
    shuffled = jax.grad(lambda x: ops.pixel_shuffle(x, 2).sum())(jnp.zeros((1, 2, 2, 8)))
    np.testing.assert_array_equal(shuffled, np.ones((1, 2, 2, 8)))


def test_upsampling_refuses_wrong_shapes() -> None:
    with pytest.raises(ValueError, match=r"6 channels .* 2\^2"):
        ops.pixel_shuffle(jnp.zeros((1, 2, 2, 6)), 2)
    for upsample in (ops.pixel_shuffle, ops.upsample_nearest, ops.upsample_bilinear):
        with pytest.raises(ValueError, match=r"\(2, 2, 4\)"):
            upsample(jnp.zeros((2, 2, 4)), 2)
        with pytest.raises(ValueError, match="not 0"):
            upsample(jnp.zeros((1, 2, 2, 4)), 0)


def test_depth_to_space_is_pixel_shuffle_in_another_order_of_channels():
    r, C = 3, 5
    x = np.random.default_rng(0).normal(size=(2, 4, 3, C * r**2)).astype(np.float32)
    order = np.arange(C * r**2).reshape(C, r**2).T.reshape(-1)
    y = ops.depth_to_space(jnp.asarray(x[..., order]), r)
    np.testing.assert_array_equal(y, ops.pixel_shuffle(jnp.asarray(x), r))


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_bilinear_sums_of_a_piece_are_those_of_the_whole(factor):
    """They are equal to the last bit, also inside a larger sum. Exact tiles need it."""
    rng = np.random.default_rng(factor)
    x = jnp.asarray(rng.random((1, 101, 94, 3)), jnp.float32)
    y = jnp.asarray(rng.random((1, 101 * factor, 94 * factor, 3)), jnp.float32)
    skip = jax.jit(lambda x, y: y + ops.upsample_bilinear(ops.product(130.0, x - 0.4), factor))
    whole = np.asarray(skip(x, y))
    for side, at in ((41, 0), (64, 3), (50, 11), (33, 40)):
        low, high = at * factor, (at + side) * factor
        piece = skip(x[:, at : at + side, at : at + side], y[:, low:high, low:high])
        inner = (0, slice(factor, -factor), slice(factor, -factor))
        np.testing.assert_array_equal(piece[inner], whole[:, low:high, low:high][inner])
