"""Attention: ``map(x) * x`` with a map in 0..1 per channel, per pixel, or per element.

The last layer of every map starts at zero, so that the map starts at sigmoid(0) = 1/2 everywhere
and a unit can undo it exactly with a branch scale of 2. Called as a unit is (see
``binsr_jax.nn.units``), with whether it is trained and how far, of which none makes use.
"""

from collections.abc import Callable

import flax.linen as nn
import jax

from binsr_jax.ops.binarize import Progress

POOLED = "pooled"  # the collection of the means that are taken over a whole image


class SqueezeExcitation(nn.Module):
    """``sigmoid(W2 relu(W1 mean_hw(x) + b1) + b2) * x``: a factor a channel, of the whole image.

    ``[B, H, W, C] -> [B, H, W, C]``; Hu et al., "Squeeze-and-Excitation Networks". The papers'
    networks of 64 channels use 4 hidden features.

    The mean, ``[B, 1, 1, C]``, is the variable "mean" of the collection ``POOLED``: written where
    that collection is mutable, and read instead of computed where it is given. So the pieces of an
    image are worked with the means of the whole of it.
    """

    hidden: int = 4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        if self.has_variable(POOLED, "mean"):
            mean = self.get_variable(POOLED, "mean")
        else:
            mean = x.mean(axis=(1, 2), keepdims=True)
            if self.is_mutable_collection(POOLED) and not self.is_initializing():
                self.put_variable(POOLED, "mean", mean)
        y = nn.relu(nn.Dense(self.hidden, name="reduce")(mean))
        y = nn.Dense(x.shape[-1], kernel_init=nn.initializers.zeros, name="expand")(y)
        return nn.sigmoid(y) * x


class SpatialAttention(nn.Module):
    """``sigmoid(conv1x1(x)) * x``, one map for all channels: ``[B, H, W, C] -> [B, H, W, C]``."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        return nn.sigmoid(_pointwise(1)(x)) * x


class PixelAttention(nn.Module):
    """``sigmoid(conv1x1(x)) * x``, a map a channel (PAN): ``[B, H, W, C] -> [B, H, W, C]``."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        return nn.sigmoid(_pointwise(x.shape[-1])(x)) * x


def _pointwise(features: int) -> nn.Module:
    return nn.Dense(features, kernel_init=nn.initializers.zeros, name="map")


ATTENTION: dict[str, Callable[..., nn.Module]] = {
    "se": SqueezeExcitation,
    "spatial": SpatialAttention,
    "pixel": PixelAttention,
}
