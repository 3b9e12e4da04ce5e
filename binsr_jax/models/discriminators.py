"""The discriminators, which distinguish real images from a generator's: U-Net and VGG style."""

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from binsr_jax.ops.upsampling import upsample_bilinear

SPECTRAL = "spectral"  # the collection of the vectors of spectral normalisation

_SLOPE = 0.2  # slope of the leaky ReLU
_EPSILON = 1e-5  # epsilon of batch normalisation
_MOST_FEATURES = 8  # limit of the features, as a multiple of the first layer's
_LAST_SIDE = 4  # of the VGG-style network's last maps
_start = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # +-1/sqrt(fan in)


def _act(x: jax.Array) -> jax.Array:
    return nn.leaky_relu(x, _SLOPE)


class SpectralConv(nn.Module):
    """A convolution without bias whose kernel is divided by its largest singular value.

    The kernel counts as a matrix ``[kh kw I, O]``. Each call with a mutable collection ``SPECTRAL``
    makes one step of power iteration to estimate the value, and stores the vector. The gradient is
    taken of ``v W u`` with fixed vectors. Miyato et al., "Spectral Normalization for Generative
    Adversarial Networks".
    """

    features: int
    kernel_size: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", _start, shape)
        u = self.variable(
            SPECTRAL, "u", lambda: _unit(jax.random.normal(self.make_rng("params"), shape[-1:]))
        )
        matrix = kernel.reshape(-1, self.features)
        v = _unit(matrix @ u.value)
        right = _unit(v @ matrix)
        v, right = jax.lax.stop_gradient((v, right))
        if self.is_mutable_collection(SPECTRAL) and not self.is_initializing():
            u.value = right
        return _conv(x, kernel / (v @ matrix @ right), self.stride)


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)


def _conv(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """A convolution with a border of one zero."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


class UNetDiscriminator(nn.Module):
    """A logit per pixel that says how real an image is: ``[B, H, W, C] -> [B, H, W, 1]``.

    Three downsampling and three upsampling steps, with sums between maps of one size. All
    convolutions but the first and the last have spectral normalisation. From Wang et al.,
    "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data". Sides are
    multiples of 8.
    """

    features: int = 64

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        plain = partial(nn.Conv, kernel_size=(3, 3), kernel_init=_start)
        maps = [_act(plain(self.features, name="first")(x))]
        for i in range(3):
            down = SpectralConv(self.features * 2 ** (i + 1), 4, 2, name=f"down_{i}")
            maps.append(_act(down(maps[-1])))
        y = maps.pop()
        for i in range(3):
            skip = maps.pop()
            up = SpectralConv(skip.shape[-1], name=f"up_{i}")
            y = _act(up(upsample_bilinear(y, 2))) + skip
        for i in range(2):
            y = _act(SpectralConv(self.features, name=f"last_{i}")(y))
        return plain(1, name="tail")(y)


class VGGDiscriminator(nn.Module):
    """A logit that says how real an image is: ``[B, H, W, C] -> [B, 1]``.

    It has pairs of convolutions, each second one with stride 2, batch normalisation with the
    batch's own statistics, and two dense layers. From Wang et al., "ESRGAN: Enhanced
    Super-Resolution Generative Adversarial Networks". Sides are equal: 4 times a power of two.
    """

    features: int = 64

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(round(math.log2(x.shape[1] / _LAST_SIDE))):
            features = self.features * min(2**i, _MOST_FEATURES)
            conv = partial(nn.Conv, features, padding=1, kernel_init=_start)
            x = conv(kernel_size=(3, 3), use_bias=not i, name=f"conv_{i}")(x)
            x = _act(_BatchNorm(name=f"norm_{i}")(x) if i else x)
            x = conv(kernel_size=(4, 4), strides=2, use_bias=False, name=f"down_{i}")(x)
            x = _act(_BatchNorm(name=f"down_norm_{i}")(x))
        x = x.reshape(x.shape[0], -1)
        x = _act(nn.Dense(100, kernel_init=_start, name="dense")(x))
        return nn.Dense(1, kernel_init=_start, name="tail")(x)


class _BatchNorm(nn.Module):
    """Batch normalisation with the batch's statistics only, since it is only used in training."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        gain = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - mean) * jax.lax.rsqrt(variance + _EPSILON) * gain + bias


DISCRIMINATORS: dict[str, Callable[[int], nn.Module]] = {
    "unet": UNetDiscriminator,
    "vgg": VGGDiscriminator,
}


def fits(name: str, side: int) -> bool:
    """Whether a discriminator, a key of ``DISCRIMINATORS``, accepts images of this side."""
    if name == "vgg":
        doublings = math.log2(side / _LAST_SIDE)
        return doublings >= 1 and doublings == round(doublings)
    return side % 8 == 0
