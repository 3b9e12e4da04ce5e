"""A binary convolution that changes the number of channels: a network's first or last layer."""

from collections.abc import Callable

import flax.linen as nn
import jax

from binsr_jax.nn.binary import BinaryConv, RSign
from binsr_jax.ops.binarize import Progress


class BinaryProjection(nn.Module):
    """A binary convolution of signs, scaled: ``[B, H, W, I] -> [B, H, W, features]``.

        y = s bconv(RSign(x - centre))

    The number of channels changes, so no residual can carry the magnitudes that the sign drops. The
    learnable ``s`` of each output channel restores their size.

    Attributes:
        features: The number of output channels.
        centre: The input value at which the sign starts to change.
        output_scale_start: The initial value of ``s``.
        surrogate: The surrogate of the sign's gradient, a key of ``SURROGATES``.
        conv: Makes the binary convolution.
    """

    features: int
    centre: float = 0.0
    output_scale_start: float = 1.0
    surrogate: str = "parabola"
    conv: Callable[..., nn.Module] = BinaryConv

    @nn.compact
    def __call__(self, x: jax.Array, progress: Progress = 0.0) -> jax.Array:
        signs = RSign(self.surrogate, name="rsign")(x - self.centre)
        y = self.conv(self.features, name="conv")(signs, progress=progress)
        start = nn.initializers.constant(self.output_scale_start)
        return self.param("scale", start, (self.features,)) * y
