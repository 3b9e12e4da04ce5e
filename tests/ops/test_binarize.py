"""The binarisers against the reference arrays, and at their corners against formulas in numpy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from binsr_jax.ops.binarize import (
    SURROGATES,
    binarize_learnable,
    binarize_libra,
    binarize_mean,
    binary_conv,
    mean_weight_scale,
    rsign,
    sign,
    tanh_schedule,
)
from binsr_jax.ops.conv import conv2d

# The corners of signs and surrogates and values beside them, exact in float32.
EDGES = np.array(
    [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1e-7, -1e-7, 2.0, -2.0, 1.0000001, -1.0000001], np.float32
)


def last(array: np.ndarray) -> np.ndarray:
    """The array with PyTorch's axis of channels, axis 1, at the end."""
    return np.moveaxis(array, 1, -1)


def kernel(array: np.ndarray) -> np.ndarray:
    """A kernel ``[O, I, kh, kw]`` as ``[kh, kw, I, O]``."""
    return array.transpose(2, 3, 1, 0)


def gradients(function, upstream, *arguments):
    """The function's value, and the gradients of ``sum(value * upstream)`` for its arguments."""
    value, vjp = jax.vjp(jax.jit(function), *map(jnp.asarray, arguments))
    return np.asarray(value), *map(np.asarray, vjp(jnp.asarray(upstream)))


def test_sign_equals_the_reference(reference):
    arrays = reference("1_quantisers")
    x = arrays["act1d_x"][:, None]
    y, dx = gradients(sign, arrays["act1d_upstream"][:, None], x)
    # The reference code has sign(0) = 0, which a bit cannot hold; ours is -1 there.
    np.testing.assert_array_equal(y, np.where(x == 0, -1, arrays["act1d_y"][:, None]))
    # Exact, apart from a fused multiply-add.
    np.testing.assert_allclose(dx, arrays["act1d_grad_x"][:, None], atol=2e-7)


def test_rsign_equals_the_reference(reference):
    arrays = reference("1_quantisers")
    x, threshold = last(arrays["rsign_x"]), -arrays["rsign_move0"].ravel()
    y, dx, dthreshold = gradients(rsign, last(arrays["rsign_upstream"]), x, threshold)
    np.testing.assert_array_equal(y, np.where(x == threshold, -1, last(arrays["rsign_y"])))
    np.testing.assert_allclose(dx, last(arrays["rsign_grad_x"]), atol=1e-6)
    np.testing.assert_allclose(dthreshold, -arrays["rsign_grad_move0"].ravel(), atol=1e-5)


def test_weights_with_mean_scale_equal_the_reference(reference):
    arrays = reference("1_quantisers")
    cases = [name.removesuffix("_alpha") for name in arrays if name.endswith("_alpha")]
    assert cases
    for case in cases:
        w = kernel(arrays[f"{case}_weight"])
        y, dw = gradients(binarize_mean, kernel(arrays[f"{case}_upstream"]), w)
        alpha = arrays[f"{case}_alpha"]
        np.testing.assert_allclose(mean_weight_scale(jnp.asarray(w)), alpha, rtol=1e-6)
        # Zeros differ as in the sign; elsewhere rounding costs the reference up to 6e-8.
        expected = np.where(w == 0, -alpha, kernel(arrays[f"{case}_effective"]))
        np.testing.assert_allclose(y, expected, atol=1e-7)
        np.testing.assert_array_equal(dw, kernel(arrays[f"{case}_grad_weight"]))


def progress_of(t: np.ndarray) -> float:
    """The progress at which IR-Net's schedule has this t."""
    return float((np.log10(np.float64(t)) + 3) / 4)


def test_tanh_surrogate_equals_the_reference(reference):
    arrays = reference("1_quantisers")
    cases = [name.removesuffix("_kt") for name in arrays if name.endswith("_kt")]
    assert cases
    for case in cases:
        k, t = arrays[f"{case}_kt"]
        scheduled = np.asarray(tanh_schedule(jnp.asarray(progress_of(t))))
        np.testing.assert_allclose(scheduled, (t, k), rtol=1e-5)
        x = arrays[f"{case}_x"][:, None]
        function = partial(sign, surrogate="tanh", progress=progress_of(t))
        y, dx = gradients(function, arrays[f"{case}_upstream"][:, None], x)
        # The reference code has sign(0) = 0.
        np.testing.assert_array_equal(y, np.where(x == 0, -1, arrays[f"{case}_y"][:, None]))
        expected = arrays[f"{case}_grad_x"][:, None]
        np.testing.assert_allclose(dx, expected, rtol=1e-4, atol=2e-6 * np.abs(expected).max())


def test_libra_convolution_equals_the_reference(reference):
    arrays = reference("1_quantisers")
    progress = progress_of(arrays["irconv_t"][0])
    x, w = last(arrays["irconv_x"]), kernel(arrays["irconv_weight"])
    assert (x != 0).all()

    def convolve(x, w):
        return binary_conv(sign(x, "tanh", progress), binarize_libra(w, progress))

    y, dx, dw = gradients(convolve, last(arrays["irconv_upstream"]), x, w)
    np.testing.assert_allclose(y, last(arrays["irconv_y"]), atol=1e-5)
    np.testing.assert_allclose(dx, last(arrays["irconv_grad_x"]), rtol=1e-4, atol=1e-5)
    expected = kernel(arrays["irconv_grad_weight"])
    np.testing.assert_allclose(dw, expected, rtol=1e-3, atol=2e-6 * np.abs(expected).max())


def test_libra_weights_are_balanced_and_scaled_by_powers_of_two():
    rng = np.random.default_rng(0)
    w = (rng.normal(size=(3, 3, 5, 4)) * [1, 1e-3, 40, 1] + [0, 7, -30, 0.2]).astype(np.float32)
    standard = (w - w.mean((0, 1, 2))) / w.std((0, 1, 2), ddof=1)
    scale = 2 ** np.round(np.log2(np.abs(standard).mean((0, 1, 2))))
    y = np.asarray(jax.jit(binarize_libra)(w))
    clear = np.abs(standard) > 1e-3
    np.testing.assert_array_equal(y[clear], np.where(standard > 0, scale, -scale)[clear])
    assert (np.log2(np.abs(y)) % 1 == 0).all()


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (3, 3, 4, 2)])
def test_libra_weights_that_are_all_equal_have_finite_gradients(shape):
    y, dw = gradients(binarize_libra, np.ones(shape, np.float32), np.full(shape, 0.5, np.float32))
    assert np.isfinite(y).all()
    assert np.isfinite(dw).all()


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_rsign_at_its_corners(surrogate):
    threshold = np.array([0.25, 0.0, -1.5], np.float32)
    u = EDGES[:, None] + np.zeros(3, np.float32)
    x = u + threshold
    u = x - threshold  # as the sum above was rounded
    g = np.linspace(-1, 2, x.size, dtype=np.float32).reshape(x.shape)
    slope = {
        "parabola": np.where(np.abs(u) < 1, np.where(u < 0, 2 + 2 * u, 2 - 2 * u), 0),
        "clip": np.where(np.abs(u) <= 1, 1, 0),
        "tanh": 0.1 * 10 / np.cosh(0.1 * u) ** 2,  # t and k at progress 0.5
    }[surrogate]
    function = partial(rsign, surrogate=surrogate, progress=0.5)
    y, dx, dthreshold = gradients(function, g, x, threshold)
    np.testing.assert_array_equal(y, np.where(x > threshold, 1, -1))
    np.testing.assert_allclose(dx, g * slope, rtol=1e-6)
    np.testing.assert_allclose(dthreshold, -(g * slope).sum(0), rtol=1e-5)


def test_weights_with_learnable_scale_at_their_corners():
    w = np.stack([EDGES, np.zeros_like(EDGES), EDGES[::-1] * 0.3]).T
    scale = np.array([0.5, 2.0, -0.25], np.float32)
    g = np.linspace(-2, 1, w.size, dtype=np.float32).reshape(w.shape)
    signs = np.where(w > 0, 1, -1)
    y, dw, dscale = gradients(binarize_learnable, g, w, scale)
    np.testing.assert_array_equal(y, scale * signs)
    np.testing.assert_allclose(dw, g * scale * (np.abs(w) <= 1), rtol=1e-6)
    np.testing.assert_allclose(dscale, (g * signs).sum(0), rtol=1e-5)


@pytest.mark.parametrize(
    ("binarize", "learnable"),
    [
        (binarize_mean, False),
        (binarize_learnable, True),
        (partial(binarize_libra, progress=0.6), False),
    ],
    ids=["mean", "learnable", "libra"],
)
def test_binary_conv_is_the_convolution_with_binarised_weights(binarize, learnable):
    keys = jax.random.split(jax.random.key(0), 4)
    x = sign(jax.random.normal(keys[0], (2, 5, 4, 3)))
    w = jax.random.normal(keys[1], (3, 3, 3, 6))
    g = jax.random.normal(keys[2], (2, 5, 4, 6))
    arguments = (x, w, jax.random.uniform(keys[3], (6,))) if learnable else (x, w)
    ours = gradients(lambda x, *w: binary_conv(x, binarize(*w)), g, *arguments)
    plain = gradients(lambda x, *w: conv2d(x, binarize(*w)), g, *arguments)
    for value, expected in zip(ours, plain, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)


def test_binary_conv_adds_integers_exactly():
    keys = jax.random.split(jax.random.key(1), 2)
    x = sign(jax.random.normal(keys[0], (1, 6, 5, 64)))
    w = jax.random.normal(keys[1], (3, 3, 64, 8))
    counts = np.asarray(binary_conv(x, binarize_learnable(w, jnp.ones(8))))
    np.testing.assert_array_equal(counts, np.round(counts))
    # A pixel inside the image, by hand.
    inside = np.sum(
        np.asarray(x)[0, 1:4, 1:4, :, None] * np.where(np.asarray(w) > 0, 1, -1), (0, 1, 2)
    )
    np.testing.assert_array_equal(counts[0, 2, 2], inside)


@pytest.mark.parametrize(
    ("call", "error", "names"),
    [
        (lambda: sign(jnp.ones((2, 3), jnp.int32)), TypeError, ("int32", "x")),
        (lambda: rsign(jnp.ones((2, 3)), jnp.zeros(2)), ValueError, (r"\(2,\)", r"\(2, 3\)")),
        (
            lambda: rsign(jnp.ones((2, 3)), jnp.zeros(3, jnp.float16)),
            TypeError,
            ("float16", "float32"),
        ),
        (lambda: rsign(jnp.ones((2, 3)), jnp.zeros(3), "cubic"), ValueError, ("cubic", "parabola")),
        (lambda: binarize_mean(jnp.ones((3, 3, 1, 2), jnp.int8)), TypeError, ("int8", "w")),
        (
            lambda: binarize_learnable(jnp.ones((1, 1, 4, 2)), jnp.ones(4)),
            ValueError,
            (r"\(4,\)", r"\(1, 1, 4, 2\)"),
        ),
    ],
)
def test_wrong_shapes_and_types_are_named(call, error, names):
    with pytest.raises(error) as caught:
        call()
    for name in names:
        assert caught.match(name)
