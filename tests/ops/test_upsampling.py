"""Upsampling and pixel shuffle against the reference arrays and plain numpy formulas."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_image import Reference, _random

from binsr_jax.ops import image
from binsr_jax.ops import upsampling as ops
from binsr_jax.ops.image import product


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
    for upsample in (
        ops.pixel_shuffle,
        ops.upsample_nearest,
        ops.upsample_bilinear,
    ):
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
    skip = jax.jit(lambda x, y: y + ops.upsample_bilinear(product(130.0, x - 0.4), factor))
    whole = np.asarray(skip(x, y))
    for side, at in ((41, 0), (64, 3), (50, 11), (33, 40)):
        low, high = at * factor, (at + side) * factor
        piece = skip(x[:, at : at + side, at : at + side], y[:, low:high, low:high])
        inner = (0, slice(factor, -factor), slice(factor, -factor))
        np.testing.assert_array_equal(piece[inner], whole[:, low:high, low:high][inner])


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (1, 5, 7, 3), (1, 40, 33, 1)])
def test_numpy_gives_the_bits_of_jax(factor, shape):
    x = (100 * np.random.default_rng(factor).normal(size=shape)).astype(np.float32)
    np.testing.assert_array_equal(product(1.3, x), jax.jit(product, static_argnums=0)(1.3, x))
    expected = ops.upsample_bilinear(jnp.asarray(x), factor)
    np.testing.assert_array_equal(image.upsample_bilinear(x, factor), expected)
