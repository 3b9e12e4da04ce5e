"""Rounding to 8 and 16 bits against numpy, and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from binsr_jax.ops.quantise import dequantise, quantise, rounded, stored_as


def kernels():
    """Kernels of channels of very different sizes, and two special channels."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((3, 3, 5, 8)).astype(np.float32)
    w *= np.float32(10.0) ** rng.integers(-6, 6, 8).astype(np.float32)
    w[..., 3] = 0
    w[..., 4] = np.float32(1e-36)
    return w


def test_whole_numbers_and_steps_are_those_of_numpy():
    w = kernels()
    q, step = map(np.asarray, quantise(jnp.asarray(w)))
    assert (q.dtype, q.shape, step.shape) == (np.int8, w.shape, (8,))
    assert (step > 0).all()
    exact = np.abs(w.astype(np.float64)).max((0, 1, 2)) / 127
    usual = exact > 1e-37
    np.testing.assert_allclose(step[usual], exact[usual], rtol=1e-6)
    numbers = np.rint(w[..., usual] / exact[usual])
    assert np.abs(q[..., usual] - numbers).max() <= 1  # at a half, float32 may go either way
    assert np.mean(q[..., usual] != numbers) < 0.01
    assert (np.abs(q).max((0, 1, 2))[usual] == 127).all()
    assert not q[..., 3].any()


def test_the_error_is_at_most_half_a_step():
    w = kernels()
    q, step = quantise(jnp.asarray(w))
    error = np.abs(np.asarray(dequantise(q, step), np.float64) - w)
    assert (error <= np.asarray(step, np.float64) * (0.5 + 1e-4)).all()
    # No finer step has numbers that fit into 8 bits for every weight.
    assert error[..., :3].max() > 0.3 * np.asarray(step)[:3].max()
    np.testing.assert_array_equal(rounded(jnp.asarray(w), "int8"), dequantise(q, step))
    again = rounded(rounded(jnp.asarray(w), "int8"), "int8")
    np.testing.assert_allclose(np.asarray(again), dequantise(q, step), rtol=1e-6)


def test_vectors_become_float16_beside_quantised_kernels():
    x = np.array([0.1, 70.3, -3e-6], np.float32)
    for floats in ("int8", "float16"):
        expected = x.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(rounded(jnp.asarray(x), floats), expected)
    np.testing.assert_array_equal(rounded(jnp.asarray(x), "float32"), x)
    forms = [stored_as(shape, "int8") for shape in ((), (4,), (4, 1), (3, 3, 4, 4))]
    assert forms == ["float16", "float16", "int8", "int8"]


@pytest.mark.parametrize("floats", ["float32", "float16", "int8"])
def test_the_gradient_is_straight_through(floats):
    rng = np.random.default_rng(1)
    w, g = (jnp.asarray(rng.standard_normal((3, 3, 4, 6)), jnp.float32) for _ in range(2))
    y, pull = jax.vjp(lambda w: rounded(w, floats), w)
    np.testing.assert_array_equal(pull(g)[0], g)
    np.testing.assert_array_equal(y, rounded(w, floats))
    assert (floats == "float32") == np.array_equal(np.asarray(y), w)
