"""Attention: ``map(x) * x`` with a map in 0..1 per channel, per pixel, or per element.

All modules take and return ``[B, H, W, C]``. With ``bare`` they return the map alone, in a shape
that broadcasts to that of x. The last layer of every map starts at zero. So the map starts at
sigmoid(0) = 1/2 everywhere, and a branch scale of 2 cancels it exactly. The modules are called like
units (see ``binsr_jax.nn.units.base``) and ignore ``train`` and ``progress``.
"""

from collections.abc import Callable

import flax.linen as nn
import jax

from binsr_jax.ops.binarize import Progress

POOLED = "pooled"  # the collection of means over a whole image


class SqueezeExcitation(nn.Module):
    """SE attention, with one factor per channel and image.

        sigmoid(W2 relu(W1 mean_hw(x) + b1) + b2) * x

    Hu et al., "Squeeze-and-Excitation Networks".

    Attributes:
        hidden: The number of hidden features; the attention paper's networks of 64 channels have 4.
        bare: Whether to return the map alone, ``[B, 1, 1, C]``.
    """

    hidden: int = 4
    bare: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        y = nn.relu(nn.Dense(self.hidden, name="reduce")(_mean(self, x)))
        y = nn.Dense(x.shape[-1], kernel_init=nn.initializers.zeros, name="expand")(y)
        return nn.sigmoid(y) if self.bare else nn.sigmoid(y) * x


class GlobalAttention(nn.Module):
    """``sigmoid(conv1x1(mean_hw(x))) * x``, with one factor per channel and image.

    It belongs to the later forms of the attention paper. The convolution is from C channels to C.
    With ``bare`` the result is ``[B, 1, 1, C]``.
    """

    bare: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        y = nn.sigmoid(_pointwise(x.shape[-1])(_mean(self, x)))
        return y if self.bare else y * x


class SpatialAttention(nn.Module):
    """``sigmoid(conv1x1(x)) * x`` with one map for all channels: ``[B, H, W, 1]`` if ``bare``."""

    bare: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        y = nn.sigmoid(_pointwise(1)(x))
        return y if self.bare else y * x


class PixelAttention(nn.Module):
    """``sigmoid(conv1x1(x)) * x`` with one map per channel (PAN): ``[B, H, W, C]`` if ``bare``."""

    bare: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        y = nn.sigmoid(_pointwise(x.shape[-1])(x))
        return y if self.bare else y * x


def _mean(module: nn.Module, x: jax.Array) -> jax.Array:
    """The mean over an image, ``[B, 1, 1, C]``, which is variable "mean" of collection ``POOLED``.

    If the caller gives the variable, it is read instead of computed. If the collection is mutable,
    the mean is written to it. So tiles can be processed with the means of the whole image.
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
