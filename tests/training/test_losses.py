"""Losses against formulas by hand, and SSIM against the score of the same name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from binsr_jax.evaluation import metrics
from binsr_jax.training.losses import LOSSES, make_loss, ssim


def test_penalties_have_the_papers_formulas():
    output, target = jnp.array([1.0, 2.0, 5.0]), jnp.array([0.0, 4.0, 5.0])
    assert LOSSES["l1"](output, target, 0.0) == 1.0
    assert float(LOSSES["l2"](output, target, 0.0)) == pytest.approx(5 / 3)
    expected = (np.hypot(1, 0.5) + np.hypot(2, 0.5) + 0.5) / 3
    assert float(LOSSES["charbonnier"](output, target, 0.5)) == pytest.approx(expected)


def test_charbonnier_is_smooth_where_the_error_is_0(tiny):
    loss = make_loss(tiny(**{"train.loss": "charbonnier", "train.loss_epsilon": 1e-2}).train)
    image = jnp.full((1, 4, 4, 3), 0.5, jnp.float32)
    assert float(loss(image, image)) == pytest.approx(1e-2)
    np.testing.assert_array_equal(jax.grad(loss)(image, image), 0)


def _images(shape, seed):
    """Two different batches of 8-bit images."""
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 256, shape, np.uint8)
    noise = rng.normal(0, 1, shape) * rng.uniform(2, 40, (shape[0], 1, 1, 1))
    return a, np.clip(a + noise, 0, 255).astype(np.uint8)


def _as_floats(*images):
    return tuple(jnp.asarray(image, jnp.float32) / 255 for image in images)


def test_the_loss_psnr_is_less_the_score_of_that_name(tiny):
    a, b = _images((3, 9, 14, 3), 5)
    score = np.mean([metrics.psnr(x, y, 0, luma=False) for x, y in zip(a, b, strict=True)])
    loss = make_loss(tiny(**{"train.loss": "psnr", "train.loss_epsilon": 1e-6}).train)
    assert float(loss(*_as_floats(a, b))) == pytest.approx(-score, abs=1e-3)


def test_the_loss_psnr_ends_at_its_epsilon(tiny):
    loss = make_loss(tiny(**{"train.loss": "psnr", "train.loss_epsilon": 1e-2}).train)
    image = jnp.full((2, 4, 4, 3), 0.5, jnp.float32)
    assert float(loss(image, image)) == pytest.approx(-40.0, abs=1e-4)
    np.testing.assert_array_equal(jax.grad(loss)(image, image), 0)


def test_for_the_loss_psnr_ten_times_the_error_is_a_tenth_of_the_slope(tiny):
    loss = make_loss(tiny(**{"train.loss": "psnr", "train.loss_epsilon": 1e-6}).train)
    target = jnp.zeros((2, 4, 4, 3), jnp.float32)
    output = target.at[0].set(0.01).at[1].set(0.1)
    small, large = jax.grad(loss)(output, target)
    np.testing.assert_allclose(small, 10 * large, rtol=1e-4)


def test_the_luma_joins_the_loss_by_its_weight(tiny):
    a, b = _images((3, 9, 14, 3), 6)
    score = np.mean([metrics.psnr(x, y, 0, luma=True) for x, y in zip(a, b, strict=True)])
    fields = {"train.loss": "psnr", "train.loss_epsilon": 1e-6}
    images = _as_floats(a, b)
    plain = make_loss(tiny(**fields).train)(*images)
    joined = make_loss(tiny(**fields, **{"train.luma_weight": 0.5}).train)(*images)
    assert float(joined - plain) == pytest.approx(-0.5 * score, abs=1e-3)


def test_images_without_colour_have_no_luma(tiny):
    loss = make_loss(tiny(**{"train.luma_weight": 1.0}).train)
    with pytest.raises(ValueError, match="3 channels"):
        loss(*(jnp.ones((1, 4, 4, 1)),) * 2)


@pytest.mark.parametrize("shape", [(2, 24, 31, 3), (1, 11, 40, 1), (1, 5, 13, 3)])
def test_ssim_is_the_score_of_that_name(shape):
    rng = np.random.default_rng(sum(shape))
    a = rng.integers(0, 256, shape, np.uint8)
    b = np.clip(a + rng.normal(0, 40, shape), 0, 255).astype(np.uint8)
    expected = np.mean([metrics.ssim(x, y, 0, luma=False) for x, y in zip(a, b, strict=True)])
    ours = ssim(*(jnp.asarray(image, jnp.float32) / 255 for image in (a, b)))
    assert float(ours) == pytest.approx(expected, abs=2e-5)


def test_the_gradient_of_ssim_is_its_slope():
    rng = np.random.default_rng(3)
    a, b, way = (jnp.asarray(rng.random((1, 14, 13, 1)), jnp.float32) for _ in range(3))
    difference = (ssim(a + 1e-2 * way, b) - ssim(a - 1e-2 * way, b)) / 2e-2
    slope = jnp.vdot(jax.grad(ssim)(a, b), way)
    assert float(slope) == pytest.approx(float(difference), rel=2e-2)


def test_ssim_joins_the_loss_by_its_weight(tiny):
    rng = np.random.default_rng(4)
    a, b = (jnp.asarray(rng.random((2, 16, 16, 3)), jnp.float32) for _ in range(2))
    plain = make_loss(tiny().train)(a, b)
    joined = make_loss(tiny(**{"train.ssim_weight": 0.25}).train)(a, b)
    assert float(joined) == pytest.approx(float(plain + 0.25 * (1 - ssim(a, b))), rel=1e-6)


@pytest.mark.parametrize("shapes", [((1, 4, 4, 3), (1, 4, 5, 3)), ((4, 4, 3), (4, 4, 3))])
def test_arrays_that_are_no_pair_of_images_are_refused(shapes):
    with pytest.raises(ValueError, match="one shape"):
        ssim(*map(jnp.ones, shapes))
