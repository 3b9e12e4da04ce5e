"""The float convolution and how it starts."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from binsr_jax.ops.conv import conv2d


def uniform_fan_in(fan_in: int) -> nn.initializers.Initializer:
    """Uniform in ``+-1/sqrt(fan_in)``, where the papers' code starts kernels and biases."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key: jax.Array, shape, dtype=jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Conv(nn.Module):
    """A float convolution of stride 1, zero padding: ``[B, H, W, I] -> [B, H, W, features]``."""

    features: int
    kernel_size: int = 3
    use_bias: bool = True
    zero_init: bool = False  # start at zero, instead of uniform in +-1/sqrt(fan_in)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        init = nn.initializers.zeros if self.zero_init else uniform_fan_in(math.prod(shape[:3]))
        y = conv2d(x, self.param("kernel", init, shape))
        return y + self.param("bias", init, (self.features,)) if self.use_bias else y
