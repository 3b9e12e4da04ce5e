"""What training makes small: a penalty of the error, and terms that may join it."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from binsr_jax.ops.image import LUMA_WEIGHTS
from binsr_jax.settings import TrainConfig

Loss = Callable[[jax.Array, jax.Array], jax.Array]

_WINDOW, _SIGMA = 11, 1.5  # of SSIM
_C1, _C2 = 0.01**2, 0.03**2


def _l1(output: jax.Array, target: jax.Array, epsilon: float) -> jax.Array:
    del epsilon
    return jnp.mean(jnp.abs(output - target))


def _l2(output: jax.Array, target: jax.Array, epsilon: float) -> jax.Array:
    del epsilon
    return jnp.mean(jnp.square(output - target))


def _charbonnier(output: jax.Array, target: jax.Array, epsilon: float) -> jax.Array:
    return jnp.mean(jnp.sqrt(jnp.square(output - target) + epsilon**2))


def _psnr(output: jax.Array, target: jax.Array, epsilon: float) -> jax.Array:
    errors = jnp.mean(jnp.square(output - target), axis=tuple(range(1, output.ndim)))
    return jnp.mean(10 * jnp.log10(errors + epsilon**2))


LOSSES: dict[str, Callable[[jax.Array, jax.Array, float], jax.Array]] = {
    "l1": _l1,
    "l2": _l2,
    "charbonnier": _charbonnier,
    "psnr": _psnr,
}


def make_loss(train: TrainConfig) -> Loss:
    """The loss of a config: a penalty of the error, and terms that may join it.

        penalty(output, target) + luma_weight penalty(Y(output), Y(target)) + ssim_weight (1 - SSIM)

    The penalty is the mean of ``|e|`` ("l1"), ``e^2`` ("l2") or ``sqrt(e^2 + epsilon^2)``
    ("charbonnier"; Lai et al., "Deep Laplacian Pyramid Networks"), epsilon being
    ``train.loss_epsilon``, or the mean of ``10 log10(mean e^2 + epsilon^2)`` over the images
    ("psnr"; Chen et al., "Simple Baselines for Image Restoration"): minus the PSNR in dB, so that
    images count alike whether their errors are large or small. Y is the luma that scores are of,
    without its constant.

    Args:
        train: ``config.train``; its ``loss`` is a key of ``LOSSES``.

    Returns:
        A function of two arrays ``[B, H, W, C]`` with values around 0..1 that gives a scalar, and
        that raises a ValueError if there is a luma to weigh and C is not 3.
    """
    penalty, luma_weight, ssim_weight = LOSSES[train.loss], train.luma_weight, train.ssim_weight

    def loss(output: jax.Array, target: jax.Array) -> jax.Array:
        value = penalty(output, target, train.loss_epsilon)
        if luma_weight:
            value += luma_weight * penalty(_luma(output), _luma(target), train.loss_epsilon)
        if ssim_weight:
            value += ssim_weight * (1.0 - ssim(output, target))
        return value

    return loss


def _luma(image: jax.Array) -> jax.Array:
    """``Y - 16 / 255`` of RGB ``[B, H, W, 3]`` in 0..1, as ``[B, H, W]``."""
    if image.shape[-1] != 3:
        raise ValueError(f"luma is that of 3 channels, not of an image {image.shape}")
    # A sum, not a matrix product, which accelerators would round to bfloat16.
    return jnp.sum(image * (jnp.asarray(LUMA_WEIGHTS, image.dtype) / 255), axis=-1)


def ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """Structural similarity of images in 0..1, averaged over all channels; differentiable.

    The formula and window of ``binsr_jax.evaluation.metrics.ssim``, in the arrays' own precision
    and for unrounded values. A filter along a side is a product with a banded matrix, which is fast
    on every backend. (``dm_pix.ssim`` is not used: its window does not shrink with images of fewer
    pixels than it has, as that of the metric does.)

    Args:
        a: ``[B, H, W, C]``.
        b: of the same shape.

    Returns:
        A scalar, at most 1.

    Raises:
        ValueError: the shapes differ, or are not those of images.
    """
    if a.shape != b.shape or a.ndim != 4:
        raise ValueError(
            f"ssim needs two arrays of one shape [B, H, W, C], not {a.shape}, {b.shape}"
        )
    rows, columns = (jnp.asarray(_gaussian_filter(side), a.dtype) for side in a.shape[1:3])

    def mean(x: jax.Array) -> jax.Array:
        return jnp.einsum("ph,qw,bhwc->bpqc", rows, columns, x, precision="highest")

    mean_a, mean_b = mean(a), mean(b)
    product, squares = mean_a * mean_b, jnp.square(mean_a) + jnp.square(mean_b)
    covariance = mean(a * b) - product
    variances = mean(jnp.square(a) + jnp.square(b)) - squares
    similarity = (2 * product + _C1) * (2 * covariance + _C2)
    return jnp.mean(similarity / ((squares + _C1) * (variances + _C2)))


def _gaussian_filter(side: int) -> np.ndarray:
    """``[positions, side]``: a row of weights for each place of the window inside the side."""
    taps = min(_WINDOW, side)
    weights = [math.exp(-((i - (taps - 1) / 2) ** 2) / (2 * _SIGMA**2)) for i in range(taps)]
    matrix = np.zeros((side - taps + 1, side))
    for position, row in enumerate(matrix):
        row[position : position + taps] = np.divide(weights, sum(weights))
    return matrix
