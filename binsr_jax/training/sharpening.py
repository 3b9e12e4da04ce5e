"""The unsharp mask for Real-ESRGAN's targets, on JAX arrays."""

import jax
import jax.numpy as jnp
import numpy as np

from binsr_jax.data.real_degradation import (
    USM_RADIUS,
    USM_SIGMA,
    USM_THRESHOLD,
)


def sharpened(images: jax.Array, weight: float) -> jax.Array:
    """``data.real_degradation.sharpened`` of each image of ``[B, H, W, C]`` in 0..1."""
    rows, columns = (jnp.asarray(_blur_matrix(side)) for side in images.shape[1:3])

    def blurred(x: jax.Array) -> jax.Array:
        return jnp.einsum("ph,qw,bhwc->bpqc", rows, columns, x, precision="highest")

    residual = images - blurred(images)
    mask = blurred((jnp.abs(residual) > USM_THRESHOLD).astype(images.dtype))
    sharp = jnp.clip(images + weight * residual, 0, 1)
    return mask * sharp + (1 - mask) * images


def _blur_matrix(side: int) -> np.ndarray:
    """``[side, side]``: the weights of a line's pixels in each blurred pixel, mirrored."""
    offsets = np.arange(-USM_RADIUS, USM_RADIUS + 1)
    weights = np.exp(-0.5 * (offsets / USM_SIGMA) ** 2)
    weights /= weights.sum()
    matrix = np.zeros((side, side))
    period = max(1, 2 * (side - 1))
    for offset, weight in zip(offsets, weights, strict=True):
        place = (np.arange(side) + offset) % period
        np.add.at(matrix, (np.arange(side), np.minimum(place, period - place) % side), weight)
    return matrix.astype(np.float32)
