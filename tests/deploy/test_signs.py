"""The two layouts of binary weights are those that their own definitions say."""

import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

from binsr_jax.deploy.signs import bits_of, words_of
from binsr_jax.ops.packed import pack_weights

KERNELS = [(3, 3, 5, 7), (1, 1, 1, 1), (3, 3, 33, 3), (1, 3, 64, 9), (3, 3, 31, 12), (3, 1, 70, 1)]


@pytest.mark.parametrize("kernel", KERNELS)
def test_both_layouts_are_those_of_the_signs(kernel):
    positive = np.random.default_rng(0).random(kernel) > 0.5
    data = np.packbits(positive.ravel(), bitorder="little")
    words = np.asarray(pack_weights(jnp.where(positive, 1.0, -1.0)))
    np.testing.assert_array_equal(words_of(data, kernel), words)
    assert words_of(data, kernel).dtype == np.uint32
    np.testing.assert_array_equal(bits_of(words, kernel), data)
    assert bits_of(words, kernel).dtype == np.uint8


def test_a_wide_kernel_takes_memory_like_its_bits():
    kernel = (3, 3, 1024, 1024)
    data = np.random.default_rng(0).integers(0, 256, 9 << 17, np.uint8)  # 1.2 MB, 38 MB as floats
    tracemalloc.start()
    try:
        words = words_of(data, kernel)
        again = bits_of(words, kernel)
        assert tracemalloc.get_traced_memory()[1] < 8 * data.nbytes
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(again, data)
