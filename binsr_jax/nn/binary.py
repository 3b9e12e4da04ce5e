"""The three layers of a binary unit: RSign, the binary convolution and RPReLU."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from binsr_jax.nn.conv import uniform_fan_in
from binsr_jax.ops.activation import rprelu
from binsr_jax.ops.binarize import (
    binarize_learnable,
    binarize_mean,
    binary_conv,
    mean_scale,
    rsign,
)
from binsr_jax.ops.conv import conv2d

WEIGHT_SCALES = ("mean", "learnable")


class RSign(nn.Module):
    """Sign with a threshold per channel (BBCU, equation 5): ``[..., C] -> [..., C]`` of +-1.

    With a ``progress`` p in 0..1 it is on its way from the hard tanh of ``u = x - threshold`` to
    the sign, ``(1 - p) clip(u, -1, 1) + p sign(u)``, which p = 1 makes exactly +-1.
    """

    surrogate: str = "parabola"

    @nn.compact
    def __call__(self, x: jax.Array, progress: jax.Array | float | None = None) -> jax.Array:
        threshold = self.param("threshold", nn.initializers.zeros, x.shape[-1:])
        signs = rsign(x, threshold, self.surrogate)
        if progress is None:
            return signs
        p = jnp.asarray(progress, x.dtype)
        return (1 - p) * jnp.clip(x - threshold, -1, 1) + p * signs


class RPReLU(nn.Module):
    """PReLU with learnable shifts (BBCU, equation 9): ``[..., C] -> [..., C]``."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = x.shape[-1:]
        return rprelu(
            x,
            self.param("shift_in", nn.initializers.zeros, shape),
            self.param("slope", nn.initializers.constant(0.25), shape),
            self.param("shift_out", nn.initializers.zeros, shape),
        )


class BinaryConv(nn.Module):
    """Convolution of signs with binary weights (BBCU, equation 7).

    ``[B, H, W, I] -> [B, H, W, features]``; zero padding comes after the sign. An input that is not
    all signs is convolved in floats, with ``signs=False``.

    ``weight_scale`` is ``"mean"``: alpha is mean |w| per output channel, without a gradient; or
    ``"learnable"``: alpha is a parameter that starts there.
    """

    features: int
    kernel_size: int = 3
    use_bias: bool = False
    weight_scale: str = "mean"

    @nn.compact
    def __call__(self, x: jax.Array, signs: bool = True) -> jax.Array:
        if self.weight_scale not in WEIGHT_SCALES:
            raise ValueError(
                f"no weight scale {self.weight_scale!r}: choose from {', '.join(WEIGHT_SCALES)}"
            )
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        init = uniform_fan_in(math.prod(shape[:3]))
        kernel = self.param("kernel", init, shape)
        scale = None
        if self.weight_scale == "learnable":
            scale = self.param("scale", lambda _: mean_scale(kernel))
        if signs:
            y = binary_conv(x, kernel, scale)
        elif scale is None:
            y = conv2d(x, binarize_mean(kernel))
        else:
            y = conv2d(x, binarize_learnable(kernel, scale))
        return y + self.param("bias", init, (self.features,)) if self.use_bias else y
