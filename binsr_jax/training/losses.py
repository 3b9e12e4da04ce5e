"""What training makes small: a penalty of the error, and terms that may join it."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from binsr_jax.config import Config

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


LOSSES: dict[str, Callable[[jax.Array, jax.Array, float], jax.Array]] = {
    "l1": _l1,
    "l2": _l2,
    "charbonnier": _charbonnier,
}


def make_loss(train: Config) -> Loss:
    """The loss of a config: ``penalty(output - target) + ssim_weight (1 - SSIM)``.

    The penalty is the mean of ``|e|`` ("l1"), ``e^2`` ("l2") or ``sqrt(e^2 + epsilon^2)``
    ("charbonnier"; Lai et al., "Deep Laplacian Pyramid Networks"), epsilon being
    ``train.loss_epsilon``.

    Args:
        train: ``config.train``; its ``loss`` is a key of ``LOSSES``.

    Returns:
        A function of two arrays ``[B, H, W, C]`` with values around 0..1 that gives a scalar.
    """
    penalty, weight = LOSSES[train.loss], train.ssim_weight

    def loss(output: jax.Array, target: jax.Array) -> jax.Array:
        value = penalty(output, target, train.loss_epsilon)
        return value + weight * (1.0 - ssim(output, target)) if weight else value

    return loss


def ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """Structural similarity of images in 0..1, averaged over all channels; differentiable.

    The formula and window of ``binsr_jax.evaluation.metrics.ssim``, in the arrays' own precision
    and for unrounded values. A filter along a side is a product with a banded matrix, which is fast
    on every backend.

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
