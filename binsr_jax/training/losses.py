"""The training loss: a penalty of the error and optional further terms."""

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
    """The loss of a config: a penalty of the error and optional further terms.

        penalty(output, target) + luma_weight penalty(Y(output), Y(target)) + ssim_weight (1 - SSIM)

    ``train.loss`` names the penalty:

    * "l1": the mean of ``|e|``.
    * "l2": the mean of ``e^2``.
    * "charbonnier": the mean of ``sqrt(e^2 + epsilon^2)``, with ``train.loss_epsilon`` (Lai et al.,
      "Deep Laplacian Pyramid Networks").
    * "psnr": the mean over images of ``10 log10(mean e^2 + epsilon^2)`` (Chen et al., "Simple
      Baselines for Image Restoration"). It is minus the PSNR in dB, so images with large and small
      errors count alike.

    Y is the luma used for scores, without its constant.

    Args:
        train: ``config.train``; its ``loss`` is a key of ``LOSSES``.

    Returns:
        A function of two arrays ``[B, H, W, C]`` with values around 0..1, which returns a scalar.
        It raises ValueError if ``luma_weight`` is set and C is not 3.
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
        raise ValueError(f"luma needs an image of 3 channels, not {image.shape}")
    # A sum, not a matrix product, which accelerators would round to bfloat16.
    return jnp.sum(image * (jnp.asarray(LUMA_WEIGHTS, image.dtype) / 255), axis=-1)


def ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """Structural similarity of images in 0..1, averaged over all channels; differentiable.

    Formula and window are those of ``binsr_jax.evaluation.metrics.ssim``, applied to unrounded
    values in the arrays' own precision. A filter along a side is a product with a banded matrix,
    which is fast on every backend. ``dm_pix.ssim`` is not used: its window does not shrink for
    images smaller than the window, as the metric's does.

    Args:
        a: ``[B, H, W, C]``.
        b: Of the same shape.

    Returns:
        A scalar, at most 1.

    Raises:
        ValueError: The shapes differ, or are not image shapes.
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
    """``[positions, side]``: one row of weights per position of the window inside the side."""
    taps = min(_WINDOW, side)
    weights = [math.exp(-((i - (taps - 1) / 2) ** 2) / (2 * _SIGMA**2)) for i in range(taps)]
    matrix = np.zeros((side - taps + 1, side))
    for position, row in enumerate(matrix):
        row[position : position + taps] = np.divide(weights, sum(weights))
    return matrix
