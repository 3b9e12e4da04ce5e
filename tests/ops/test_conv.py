"""conv2d against a sum over taps in numpy, and its gradient against XLA's own."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from binsr_jax.ops.conv import _gradient, _gradient_by_hand, conv2d

# batch, height, width, inputs, outputs, kernel sides
SHAPES = [
    (2, 7, 9, 3, 5, 3, 3),
    (1, 1, 1, 1, 1, 3, 3),
    (3, 5, 4, 8, 2, 1, 1),
    (2, 6, 3, 4, 4, 5, 3),
    (2, 2, 11, 64, 7, 3, 3),
]


def _arrays(shape, seed=0) -> Any:
    batch, height, width, inputs, outputs, kh, kw = shape
    draw = np.random.default_rng(seed).standard_normal
    sizes = (
        (batch, height, width, inputs),
        (kh, kw, inputs, outputs),
        (batch, height, width, outputs),
    )
    return tuple(draw(size).astype(np.float32) for size in sizes)


def numpy_conv(x, kernel):
    (kh, kw), (H, W) = kernel.shape[:2], x.shape[1:3]
    ph, pw = kh // 2, kw // 2
    x = np.pad(x.astype(np.float64), ((0, 0), (ph, ph), (pw, pw), (0, 0)))
    taps = [(i, j) for i in range(kh) for j in range(kw)]
    return sum(x[:, i : i + H, j : j + W] @ kernel[i, j].astype(np.float64) for i, j in taps)


def _plain(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def _gradients(f, x, kernel, dy):
    return jax.grad(lambda x, kernel: jnp.sum(f(x, kernel) * dy), argnums=(0, 1))(x, kernel)


@pytest.mark.parametrize("shape", SHAPES)
def test_value_is_the_sum_over_taps(shape):
    x, kernel, _ = _arrays(shape)
    np.testing.assert_allclose(
        jax.jit(conv2d)(x, kernel), numpy_conv(x, kernel), rtol=1e-4, atol=1e-4
    )


# From the seventh shape on: several strips in the form for few channels; then, in the one for many,
# several strips with a partial one at the end, one row per strip, and an image of one row.
@pytest.mark.parametrize(
    "shape",
    [
        *SHAPES,
        (2, 7, 9, 9, 12, 3, 3),
        (1, 3, 90000, 2, 10, 3, 1),
        (2, 67, 70, 9, 64, 3, 3),
        (4, 3, 700, 10, 64, 3, 3),
        (1, 1, 4000, 9, 64, 3, 3),
    ],
)
def test_gradient_is_that_of_the_plain_form(shape):
    arrays = _arrays(shape, seed=1)
    for ours, plain in zip(_gradients(conv2d, *arrays), _gradients(_plain, *arrays), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5 * np.abs(plain).max())


@pytest.mark.parametrize("shape", [SHAPES[3], (2, 5, 4, 9, 10, 1, 3)])
def test_both_forms_of_the_gradient_agree(shape):
    arrays = _arrays(shape, seed=2)
    for by_hand, by_xla in zip(_gradient_by_hand(*arrays), _gradient(*arrays), strict=True):
        np.testing.assert_allclose(by_hand, by_xla, rtol=1e-4, atol=1e-5 * np.abs(by_xla).max())


@pytest.mark.parametrize("outputs", [6, 10])
@pytest.mark.parametrize("gradient", [_gradient, _gradient_by_hand])
def test_bfloat16_rounds_the_factors_alone(gradient, outputs):
    x, kernel, dy = _arrays((2, 7, 5, 9, outputs, 3, 3), seed=6)
    rounded = [np.asarray(jnp.asarray(a, jnp.bfloat16), np.float32) for a in (x, kernel, dy)]
    with jax.default_matmul_precision("bfloat16"):
        y, gradients = jax.jit(conv2d)(x, kernel), gradient(x, kernel, dy)
    np.testing.assert_allclose(y, numpy_conv(*rounded[:2]), rtol=1e-4, atol=1e-4)
    for ours, plain in zip(gradients, _gradients(_plain, *rounded), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5 * np.abs(plain).max())
    assert np.abs(y - conv2d(x, kernel)).max() > 1e-3


def test_kernel_gradient_by_hand():
    # One bright pixel at (0, 0): the kernel's gradient is 2 dy, flipped.
    x = jnp.zeros((1, 2, 2, 1)).at[0, 0, 0, 0].set(2.0)
    dy = jnp.arange(1.0, 5.0).reshape(1, 2, 2, 1)
    _, dkernel = _gradients(conv2d, x, jnp.ones((3, 3, 1, 1)), dy)
    expected = [[8.0, 6.0, 0.0], [4.0, 2.0, 0.0], [0.0, 0.0, 0.0]]
    np.testing.assert_array_equal(dkernel[:, :, 0, 0], expected)


def test_sums_of_signs_are_exact():
    x, kernel, _ = _arrays((2, 9, 8, 64, 16, 3, 3), seed=2)
    signs, weights = np.where(x > 0, 1, -1), np.where(kernel > 0, 1, -1)
    for precision in ("float32", "bfloat16"):
        with jax.default_matmul_precision(precision):
            values = jax.jit(conv2d)(signs.astype(np.float32), weights.astype(np.float32))
        np.testing.assert_array_equal(values, numpy_conv(signs, weights))


def test_sharded_batch_gives_the_same_gradient():
    mesh = jax.make_mesh((4,), ("data",))
    x, kernel, dy = _arrays((8, 6, 5, 8, 4, 3, 3), seed=3)
    expected = _gradients(conv2d, x, kernel, dy)
    rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    step = jax.jit(
        lambda x, kernel, dy: _gradients(conv2d, x, kernel, dy), in_shardings=(rows, whole, rows)
    )
    for sharded, single in zip(step(x, kernel, dy), expected, strict=True):
        np.testing.assert_allclose(sharded, single, rtol=1e-4, atol=1e-4)


def test_pmap_gives_the_same_gradient():
    x, kernel, dy = _arrays((8, 6, 5, 8, 4, 3, 3), seed=4)
    dx, dkernel = _gradients(conv2d, x, kernel, dy)

    def step(x, kernel, dy):
        dx, dkernel = _gradients(conv2d, x, kernel, dy)
        return dx, lax.psum(dkernel, "data")

    split = jax.pmap(step, "data", in_axes=(0, None, 0), devices=jax.devices()[:4])(
        x.reshape(4, 2, *x.shape[1:]), kernel, dy.reshape(4, 2, *dy.shape[1:])
    )
    np.testing.assert_allclose(split[0].reshape(x.shape), dx, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(split[1][0], dkernel, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("x", "kernel"),
    [((1, 4, 4, 3), (3, 3, 4, 2)), ((4, 4, 3), (3, 3, 3, 2)), ((1, 4, 4, 3), (2, 3, 3, 2))],
)
def test_wrong_shapes_are_named(x, kernel):
    with pytest.raises(ValueError, match="conv2d") as error:
        conv2d(jnp.zeros(x), jnp.zeros(kernel))
    assert str(x) in str(error.value)
    assert str(kernel) in str(error.value)


def test_wrong_types_are_named():
    with pytest.raises(TypeError, match=r"bfloat16.*float32"):
        conv2d(jnp.zeros((1, 4, 4, 3), jnp.bfloat16), jnp.zeros((3, 3, 3, 2)))


@pytest.mark.parametrize("outputs", [1, 3, 16, 64])
@pytest.mark.parametrize("inputs", [3, 5, 16, 24, 64])
def test_all_pixels_of_a_row_are_added_up_in_one_order(inputs, outputs):
    """Pixels with equal surroundings have equal bits, up to the last pixel. Exact tiles need it."""
    rng = np.random.default_rng(inputs)
    kernel = jnp.asarray(rng.normal(size=(3, 3, inputs, outputs)), jnp.float32)
    pixel = jnp.asarray(rng.normal(size=inputs), jnp.float32)
    for height, width in ((101, 94), (37, 129), (81, 31)):
        x = jnp.broadcast_to(pixel, (1, height, width, inputs))
        last = np.asarray(jax.jit(conv2d)(x, kernel))[0, -1, 1:-1]
        np.testing.assert_array_equal(last, np.broadcast_to(last[width // 3], last.shape))
