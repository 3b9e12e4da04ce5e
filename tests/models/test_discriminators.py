"""The discriminators: their sizes in the papers' code, spectral norm and batch norm by numpy."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from binsr_jax.models.discriminators import (
    DISCRIMINATORS,
    SPECTRAL,
    SpectralConv,
    UNetDiscriminator,
    VGGDiscriminator,
    fits,
)


@pytest.mark.parametrize(
    ("name", "side", "numbers", "output"),
    [
        # By hand, of BasicSR's UNetDiscriminatorSN and VGGStyleDiscriminator.
        ("unet", 64, 4_376_897, (2, 64, 64, 1)),
        ("vgg", 128, 14_499_401, (2, 1)),
        ("vgg", 256, 14_499_401 + 512 * 512 * (9 + 16) + 4 * 512, (2, 1)),
    ],
)
def test_sizes(name, side, numbers, output):
    model, image = DISCRIMINATORS[name](64), jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == numbers
    assert jax.eval_shape(model.apply, variables, image).shape == output


def test_a_kernel_is_divided_by_its_largest_singular_value():
    rng = np.random.default_rng(0)
    x = rng.random((1, 6, 6, 3), np.float32)
    module = SpectralConv(5, 4, 2)
    variables = jax.jit(module.init)(jax.random.key(0), x)
    kernel = rng.normal(size=(4, 4, 3, 5)).astype(np.float32)
    params = {"kernel": jnp.asarray(kernel)}
    spectral = variables[SPECTRAL]
    iterate = jax.jit(partial(module.apply, mutable=[SPECTRAL]))
    for _ in range(60):
        _, updated = iterate({"params": params, SPECTRAL: spectral}, x)
        spectral = updated[SPECTRAL]
    y: Any = module.apply({"params": params, SPECTRAL: spectral}, x)
    largest = np.linalg.svd(kernel.reshape(-1, 5), compute_uv=False)[0]
    padded = np.pad(x[0], ((1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (4, 4), (0, 1))[::2, ::2]
    expected = np.einsum("hwcij,ijco->hwo", windows, kernel / largest)
    np.testing.assert_allclose(y[0], expected, rtol=1e-4, atol=1e-4)
    # A larger kernel is the same function.
    scaled: Any = module.apply({"params": {"kernel": 7 * kernel}, SPECTRAL: spectral}, x)
    np.testing.assert_allclose(scaled, y, rtol=1e-5)


def test_one_step_of_power_iteration_by_numpy():
    rng = np.random.default_rng(1)
    x, kernel = rng.random((1, 4, 4, 2), np.float32), rng.normal(size=(3, 3, 2, 4))
    u = rng.normal(size=4)
    u /= np.linalg.norm(u)
    matrix = kernel.reshape(-1, 4)
    v = matrix @ u
    v /= np.linalg.norm(v)
    right = matrix.T @ v
    variables = {
        "params": {"kernel": jnp.asarray(kernel, jnp.float32)},
        SPECTRAL: {"u": jnp.asarray(u, jnp.float32)},
    }
    updated: Any = SpectralConv(4).apply(variables, x, mutable=[SPECTRAL])[1]
    np.testing.assert_allclose(updated[SPECTRAL]["u"], right / np.linalg.norm(right), atol=1e-6)


def test_an_untrained_vgg_sees_no_difference_of_brightness_in_its_norms():
    """Batch normalisation by the batch: the first normalised maps have mean 0 and deviation 1."""
    x = np.random.default_rng(0).random((3, 16, 16, 3), np.float32)
    model = VGGDiscriminator(4)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    captured = partial(model.apply, capture_intermediates=True, mutable=["intermediates"])
    state: Any = jax.jit(captured)(variables, x)[1]
    (maps,) = state["intermediates"]["down_norm_0"]["__call__"]
    np.testing.assert_allclose(maps.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(maps.std((0, 1, 2)), 1, atol=1e-2)


def test_the_unet_answers_for_each_pixel_where_it_is():
    """What changes at one place changes answers there, and within its reach alone."""
    model = UNetDiscriminator(4)
    x = np.random.default_rng(0).random((1, 96, 96, 3), np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), x[:, :16, :16])
    other = x.copy()
    other[0, 48, 48] += 0.5
    apply = jax.jit(model.apply)
    before, after = (np.asarray(apply(variables, image)) for image in (x, other))
    change = np.abs(before - after)[0, ..., 0]
    assert change[48, 48] > 10 * change[:8].max()
    assert change[0, 0] == 0


def test_which_sides_fit():
    assert [side for side in range(1, 300) if fits("vgg", side)] == [8, 16, 32, 64, 128, 256]
    assert fits("unet", 24)
    assert not fits("unet", 20)
