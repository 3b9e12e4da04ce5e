"""The native image skip: the bits of XLA's form, whatever the size, and of any tile."""

import jax
import numpy as np
import pytest
from native_forms import needs_each, needs_native

from binsr_jax.ops.image import product, upsample_bilinear
from binsr_jax.ops.native import direct

pytestmark = needs_native


def operands(shape, factor, seed=0):
    rng = np.random.default_rng(seed)
    batch, height, width, channels = shape
    large = (batch, height * factor, width * factor, channels)
    z, x = (rng.normal(size=s).astype(np.float32) for s in (large, shape))
    return z, x, rng.normal(size=(5, channels)).astype(np.float32)


@jax.jit
def by_xla(z, x, numbers):
    bias, shift, gain, scale, offset = numbers
    factor = z.shape[1] // x.shape[1]
    enlarged = upsample_bilinear(product(gain, x - shift), factor)
    return product(scale, (z + bias) + enlarged) + offset


def natively(form, z, x, numbers, y=None):
    y = np.empty_like(z) if y is None else y
    direct.call(form, "image_skip", [z, x, numbers], {"factor": z.shape[1] // x.shape[1]}, y)
    return y


@needs_each
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (2, 1, 7, 1), (1, 5, 1, 3), (2, 61, 47, 3)])
def test_it_has_the_bits_of_xla(form, factor, shape):
    z, x, numbers = operands(shape, factor)
    expected = by_xla(z, x, numbers)
    np.testing.assert_array_equal(natively(form, z, x, numbers), expected)
    np.testing.assert_array_equal(natively(form, z, x, numbers, z), expected, "in place")


@needs_each
def test_a_tile_has_the_bits_of_the_whole(form):
    z, x, numbers = operands((1, 23, 19, 3), 2)
    whole = natively(form, z, x, numbers)
    tile = natively(form, z[:, 10:30, 4:20], x[:, 5:15, 2:10], numbers)
    np.testing.assert_array_equal(tile[:, 2:-2, 2:-2], whole[:, 12:28, 6:18])


@needs_each
def test_what_is_not_finite_stays_so(form):
    z, x, numbers = operands((1, 4, 4, 3), 2)
    z[0, 3, 2, 1], x[0, 1, 1, 0] = np.nan, np.inf
    expected = np.asarray(by_xla(z, x, numbers))
    np.testing.assert_array_equal(natively(form, z, x, numbers), expected)
    assert not np.isfinite(expected).all()
