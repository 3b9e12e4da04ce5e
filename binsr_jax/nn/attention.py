"""Attention: ``map(x) * x`` with a map in 0..1 per channel, per pixel, or per element.

The last layer of every map starts at zero, so that the map starts at sigmoid(0) = 1/2 everywhere
and a unit can undo it exactly with a branch scale of 2. With ``bare`` each gives the map alone, of
a shape that broadcasts to that of x. It is called as a unit is (see ``binsr_jax.nn.units.base``)
and ignores ``train`` and ``progress``.
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

    """

    hidden: int = 4
    bare: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        y = nn.relu(nn.Dense(self.hidden, name="reduce")(_mean(self, x)))
        y = nn.Dense(x.shape[-1], kernel_init=nn.initializers.zeros, name="expand")(y)
        return nn.sigmoid(y) if self.bare else nn.sigmoid(y) * x


class GlobalAttention(nn.Module):
    """``sigmoid(conv1x1(mean_hw(x))) * x``: a factor a channel, ``[B, H, W, C] -> [B, H, W, C]``.

    Of the later forms of the attention paper: average pooling, then a convolution from all channels
    to all.
    """

    bare: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        y = nn.sigmoid(_pointwise(x.shape[-1])(_mean(self, x)))
        return y if self.bare else y * x


class SpatialAttention(nn.Module):
    """``sigmoid(conv1x1(x)) * x``, one map for all channels: ``[B, H, W, C] -> [B, H, W, C]``."""

    bare: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        y = nn.sigmoid(_pointwise(1)(x))
        return y if self.bare else y * x


class PixelAttention(nn.Module):
    """``sigmoid(conv1x1(x)) * x``, a map a channel (PAN): ``[B, H, W, C] -> [B, H, W, C]``."""

    bare: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        y = nn.sigmoid(_pointwise(x.shape[-1])(x))
        return y if self.bare else y * x


def _mean(module: nn.Module, x: jax.Array) -> jax.Array:
    """The mean over an image, ``[B, 1, 1, C]``: variable "mean" of the collection ``POOLED``.

    It is written where that collection is mutable, and read instead of computed where it is given.
    So the pieces of an image are worked with the means of the whole of it.
    """
    if module.has_variable(POOLED, "mean"):
        return module.get_variable(POOLED, "mean")
    mean = x.mean(axis=(1, 2), keepdims=True)
    if module.is_mutable_collection(POOLED) and not module.is_initializing():
        module.put_variable(POOLED, "mean", mean)
    return mean


def _pointwise(features: int) -> nn.Module:
    return nn.Dense(features, kernel_init=nn.initializers.zeros, name="map")


ATTENTION: dict[str, Callable[..., nn.Module]] = {
    "se": SqueezeExcitation,
    "spatial": SpatialAttention,
    "pixel": PixelAttention,
    "global": GlobalAttention,
}
