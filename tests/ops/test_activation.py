"""RPReLU against the reference arrays and its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from binsr_jax.ops.activation import rprelu


def test_rprelu_equals_the_reference(reference):
    arrays = reference("2_rprelu")
    cases = {key.split("_")[0] for key in arrays}
    assert cases
    for case in cases:
        a = {
            key[len(case) + 1 :]: value
            for key, value in arrays.items()
            if key.startswith(case + "_")
        }
        x = jnp.asarray(np.moveaxis(a["x"], 1, -1))
        parameters = -a["bias0"].ravel(), a["slope"], a["bias1"].ravel()
        y, vjp = jax.vjp(rprelu, x, *map(jnp.asarray, parameters))
        np.testing.assert_allclose(y, np.moveaxis(a["y"], 1, -1), atol=1e-6)
        gradients = vjp(jnp.asarray(np.moveaxis(a["upstream"], 1, -1)))
        expected = (
            np.moveaxis(a["grad_x"], 1, -1),
            -a["grad_bias0"].ravel(),
            a["grad_slope"],
            a["grad_bias1"].ravel(),
        )
        for gradient, wanted in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(gradient, wanted, rtol=1e-5, atol=1e-5)


def test_rprelu_at_its_corner():
    # x == shift_in belongs to the lower branch: slope there, and no gradient for the slope.
    x, shift_in, slope, shift_out = map(jnp.float32, ([[1.5]], [1.5], [0.25], [-3.0]))
    y, vjp = jax.vjp(rprelu, x, shift_in, slope, shift_out)
    assert y == -3.0
    assert [float(g.squeeze()) for g in vjp(jnp.ones_like(y))] == [0.25, -0.25, 0.0, 1.0]


def test_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"slope has shape \(2,\).*\(4, 3\)"):
        rprelu(jnp.ones((4, 3)), jnp.ones(3), jnp.ones(2), jnp.ones(3))
