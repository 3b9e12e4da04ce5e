"""The binary convolution between other numbers of channels: a network's first and last layer."""

from collections.abc import Callable

import flax.linen as nn
import jax

from binsr_jax.nn.binary import BinaryConv, RSign
from binsr_jax.ops.binarize import Progress


class BinaryProjection(nn.Module):
    """A binary convolution of signs, scaled: ``[B, H, W, I] -> [B, H, W, features]``.

        y = s bconv(RSign(x - centre))

    The number of channels changes, so there is no residual to carry what the sign drops. What is
    lost at the start is the size of the numbers, which the learnable ``s`` of each output channel
    gives back.

    Attributes:
        features: of the output.
        centre: where the thresholds start.
        output_scale_start: where ``s`` starts.
        surrogate: of the sign's gradient.
        conv: makes the binary convolution.
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
