"""The packed convolution against float convolutions and bits by hand, to the last bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from binsr_jax.ops.packed import (
    int8_conv,
    pack_activations,
    pack_weights,
    packed_conv,
    packed_conv_reference,
    unpack_weights,
    word_count,
)

CHANNELS = (1, 3, 31, 32, 33, 63, 64, 65, 128, 256)
# Strategies for arrays of any shape and values.
IMAGES = {
    "seed": st.integers(0, 2**32 - 1),
    "batch": st.integers(1, 3),
    "height": st.integers(1, 9),
    "width": st.integers(1, 11),
}


def random_operands(seed, image, channels, outputs, kernel):
    """Normal values, about a fifth of them replaced by 0 or -0, which count as negative."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        values = rng.normal(size=shape).astype(np.float32)
        values[rng.random(shape) < 0.1] = 0.0
        values[rng.random(shape) < 0.1] = -0.0
        return jnp.asarray(values)

    return draw(*image, channels), draw(*kernel, channels, outputs)


def float_conv(x, w):
    x, w = (jnp.where(v > 0, jnp.float32(1), jnp.float32(-1)) for v in (x, w))
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=layout)


@jax.jit
def all_forms(x, w):
    x_bits, w_bits = pack_activations(x), pack_weights(w)
    packed = packed_conv(x_bits, w_bits, x.shape[-1])
    return x_bits, w_bits, packed, int8_conv(x, w), float_conv(x, w)


def assert_all_equal(x, w):
    x_bits, w_bits, packed, int8, expected = (np.asarray(v) for v in all_forms(x, w))
    assert packed.dtype == int8.dtype == np.int32
    np.testing.assert_array_equal(packed, expected)
    np.testing.assert_array_equal(int8, expected)
    np.testing.assert_array_equal(packed_conv_reference(x_bits, w_bits, x.shape[-1]), expected)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("channels", CHANNELS)
def test_every_channel_count_equals_float(channels, kernel):
    assert_all_equal(*random_operands(channels, (2, 5, 4), channels, 6, (kernel, kernel)))


@settings(max_examples=12, deadline=None)
@given(
    **IMAGES,
    channels=st.sampled_from(CHANNELS),
    outputs=st.sampled_from((1, 2, 7, 16, 33)),
    kernel=st.sampled_from(((1, 1), (3, 3), (5, 5), (1, 3), (3, 1))),
)
def test_any_shape_equals_float(seed, batch, height, width, channels, outputs, kernel):
    assert_all_equal(*random_operands(seed, (batch, height, width), channels, outputs, kernel))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (2, 2)])
def test_images_smaller_than_the_kernel(size):
    assert_all_equal(*random_operands(3, (1, *size), 33, 4, (5, 5)))


def test_border_by_hand():
    """With all signs +1 the result is the number of taps in the image times the channels."""
    x, w = jnp.ones((1, 3, 3, 2), jnp.float32), jnp.ones((3, 3, 2, 1), jnp.float32)
    y = packed_conv(pack_activations(x), pack_weights(w), 2)
    np.testing.assert_array_equal(np.asarray(y)[0, ..., 0], [[8, 12, 8], [12, 18, 12], [8, 12, 8]])


def test_bit_order():
    """Bit k of byte j is channel ``8 k + j`` of 64; three channels are bit 0 of three bytes."""
    for channel in range(64):
        x = jnp.zeros((1, 1, 1, 64), jnp.float32).at[..., channel].set(1.0)
        octet, bit = channel % 8, channel // 8
        expected = [0, 0]
        expected[octet // 4] = 1 << (octet % 4 * 8 + bit)
        assert np.asarray(pack_activations(x)).ravel().tolist() == expected
    x = jnp.asarray([[[[0.5, -0.5, 2.0]]]], jnp.float32)
    assert np.asarray(pack_activations(x)).ravel().tolist() == [0x00010001]


def test_zero_is_negative():
    x = jnp.asarray([[[[0.0, -0.0, 1e-30, -1e-30, jnp.nan]]]], jnp.float32)
    assert np.asarray(pack_activations(x)).ravel().tolist() == [1 << 16]
    assert np.asarray(pack_weights(jnp.zeros((3, 3, 40, 2), jnp.float32))).sum() == 0


@pytest.mark.parametrize("channels", CHANNELS)
def test_weights_and_activations_share_one_bit_order(channels):
    x, _ = random_operands(1, (1, 1, 1), channels, 1, (1, 1))
    as_weights = pack_weights(x.reshape(1, 1, channels, 1))
    np.testing.assert_array_equal(
        np.asarray(as_weights).ravel(), np.asarray(pack_activations(x)).ravel()
    )
    assert as_weights.shape == (1, 1, word_count(channels), 1)


def test_outside_jit_too():
    x, w = random_operands(5, (2, 6, 5), 65, 9, (3, 3))
    x_bits, w_bits = pack_activations(x), pack_weights(w)
    np.testing.assert_array_equal(
        np.asarray(packed_conv(x_bits, w_bits, 65)), np.asarray(float_conv(x, w))
    )


def bits(*shape, dtype=jnp.uint32):
    return jnp.zeros(shape, dtype)


@pytest.mark.parametrize("convolve", [packed_conv, packed_conv_reference])
@pytest.mark.parametrize(
    ("x_bits", "w_bits", "channels", "error", "named"),
    [
        (bits(4, 4, 2), bits(3, 3, 2, 8), 64, ValueError, ["(4, 4, 2)", "(3, 3, 2, 8)"]),
        (bits(1, 4, 4, 2), bits(3, 3, 3, 8), 64, ValueError, ["(1, 4, 4, 2)", "(3, 3, 3, 8)"]),
        (bits(1, 4, 4, 2), bits(3, 3, 2, 8), 65, ValueError, ["65 channels", "3 words"]),
        (bits(1, 4, 4, 1), bits(3, 3, 1, 8), 0, ValueError, ["0 channels"]),
        (bits(1, 4, 4, 2), bits(2, 2, 2, 8), 64, ValueError, ["(2, 2, 2, 8)", "odd"]),
        (bits(1, 4, 4, 2, dtype=jnp.int32), bits(3, 3, 2, 8), 64, TypeError, ["int32", "uint32"]),
    ],
)
def test_mistakes_are_named(convolve, x_bits, w_bits, channels, error, named):
    with pytest.raises(error) as caught:
        convolve(x_bits, w_bits, channels)
    for text in named:
        assert text in str(caught.value)


@pytest.mark.parametrize("pack", [pack_activations, pack_weights])
def test_packing_mistakes_are_named(pack):
    with pytest.raises(ValueError, match=r"\(3, 3, 8\)"):
        pack(jnp.zeros((3, 3, 8), jnp.float32))
    with pytest.raises(TypeError, match="int32"):
        pack(jnp.zeros((3, 3, 8, 8), jnp.int32))


def test_int8_mistakes_are_named():
    x = jnp.zeros((1, 4, 4, 8), jnp.float32)
    with pytest.raises(ValueError, match=r"\(1, 4, 4, 8\).*\(3, 3, 9, 2\)"):
        int8_conv(x, jnp.zeros((3, 3, 9, 2), jnp.float32))
    with pytest.raises(ValueError, match="odd"):
        int8_conv(x, jnp.zeros((2, 2, 8, 2), jnp.float32))
    with pytest.raises(TypeError, match="int8"):
        int8_conv(x.astype(jnp.int8), jnp.zeros((3, 3, 8, 2), jnp.float32))


@pytest.mark.parametrize("channels", CHANNELS)
def test_unpacked_weights_are_the_signs_of_the_kernel(channels):
    _, w = random_operands(channels, (1, 1, 1), channels, 5, (3, 3))
    signs = unpack_weights(pack_weights(w), channels)
    assert signs.dtype == jnp.float32
    np.testing.assert_array_equal(signs, np.where(np.asarray(w) > 0, 1, -1))


def test_unpacking_refuses_words_that_do_not_fit():
    words = jnp.zeros((3, 3, 2, 4), jnp.uint32)
    for channels in (32, 65, 0):
        with pytest.raises(ValueError, match=f"{channels} channels"):
            unpack_weights(words, channels)
    with pytest.raises(TypeError, match="int32"):
        unpack_weights(words.astype(jnp.int32), 64)
