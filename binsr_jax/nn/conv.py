"""The float convolution and its initialisation."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from binsr_jax.ops.binarize import Progress
from binsr_jax.ops.conv import conv2d


def uniform_fan_in(fan_in: float) -> nn.initializers.Initializer:
    """Uniform in ``+-1/sqrt(fan_in)``, as the papers' code initialises kernels and biases."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key: jax.Array, shape, dtype=jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Conv(nn.Module):
    """A float convolution of stride 1, zero padding: ``[B, H, W, I] -> [B, H, W, features]``.

    It ignores ``progress``, which a binary convolution in its place needs.

    Attributes:
        features: The number of output channels.
        kernel_size: Odd.
        use_bias: Whether a bias is added.
        start: The initialisation. ``"uniform"``: kernel and bias in ``+-1/sqrt(fan_in)``.
            ``"kaiming"``: the kernel normal with a tenth of He's deviation,
            ``0.1 sqrt(2 / fan_in)``, and the bias zero, as BBCU's networks outside their body.
            ``"zero"``: both zero.
    """

    features: int
    kernel_size: int = 3
    use_bias: bool = True
    start: str = "uniform"

    @nn.compact
    def __call__(self, x: jax.Array, progress: Progress = 0.0) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        fan_in = math.prod(shape[:3])
        starts: dict[str, nn.initializers.Initializer] = {
            "uniform": uniform_fan_in(fan_in),
            "kaiming": nn.initializers.normal(0.1 * math.sqrt(2 / fan_in)),
            "zero": nn.initializers.zeros,
        }
        if self.start not in starts:
            raise ValueError(f"no start {self.start!r}: choose from {', '.join(starts)}")
        y = conv2d(x, self.param("kernel", starts[self.start], shape))
        if not self.use_bias:
            return y
        bias_start = starts["uniform" if self.start == "uniform" else "zero"]
        return y + self.param("bias", bias_start, (self.features,))
