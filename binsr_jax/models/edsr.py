"""EDSR, float and binary: one backbone, whose parts are given to it."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from binsr_jax.nn.fence import chain
from binsr_jax.nn.units import Progress, unit_progress
from binsr_jax.ops.image import upsample_bilinear

# Of the DIV2K training images, for RGB in 0..1; a network of another number of channels uses no
# mean.
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)

# How each factor is built up from steps of pixel shuffle.
UPSAMPLING_STEPS = {2: (2,), 3: (3,), 4: (2, 2)}


class EDSR(nn.Module):
    """Head, ``units`` units with a skip over all of them, upsampler, tail.

        h   = act(head(k (x - mean)))
        f   = body_end(unit(...unit(h))) + h                                      (``extract``)
        y   = tail(upsampler(f))      (+ k (x - mean) enlarged, where image_skip is "bilinear")
        out = y / k + mean                                                    (``reconstruct``)

    Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution"; with binary
    units, the network of "Efficient Image Super Resolution Using Attention In Binary Neural
    Networks". k is the amplification of BBCU's equation 10: one factor at the input, undone at the
    output.

    Attributes:
        head: makes the first convolution, to the body's number of features.
        unit: makes one unit of the body (see ``binsr_jax.nn.units``).
        units: how many there are.
        body_end: makes what follows the units: a float convolution, or one more unit.
        upsampler: makes one upsampling step, of the ``scale`` it is given.
        tail: makes the last convolution, back to an image.
        scale: 2, 3 or 4.
        amplification: k.
        head_activation: ``"none"``, or ``"leaky_relu"`` of slope 0.1 as in the binary networks.
        image_skip: ``"none"``, or ``"bilinear"``.
        progressive, progressive_until: how units become binary; see ``unit_progress``.
        scan: works equal units in a loop; see ``binsr_jax.nn.fence.chain``.

    Called with an image ``[B, h, w, C]`` in 0..1 it gives ``[B, scale h, scale w, C]``, not
    clipped. The two halves, ``extract`` and ``reconstruct``, are what inference runs: the second,
    whose intermediates are far larger than its input, in strips of rows. Every backbone has them.
    """

    head: Callable[..., nn.Module]
    unit: Callable[..., nn.Module]
    units: int
    body_end: Callable[..., nn.Module]
    upsampler: Callable[..., nn.Module]
    tail: Callable[..., nn.Module]
    scale: int
    amplification: float
    head_activation: str
    image_skip: str
    progressive: str = "none"
    progressive_until: float = 1.0
    scan: bool = False

    def setup(self) -> None:
        self._head = self.head(name="head")
        self._body = [self.unit(name=f"body_{i}") for i in range(self.units)]
        self._body_end = self.body_end(name="body_end")
        steps = UPSAMPLING_STEPS[self.scale]
        self._upsamplers = [
            self.upsampler(step, name=f"upsampler_{i}") for i, step in enumerate(steps)
        ]
        self._tail = self.tail(name="tail")

    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        return self.reconstruct(self.extract(x, train, progress), x)

    def extract(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        """The features ``f`` of an image: ``[B, h, w, C] -> [B, h, w, features]``."""
        features = self._head(self.amplification * (x - _mean(x)))
        if self.head_activation == "leaky_relu":
            features = nn.leaky_relu(features, 0.1)
        units = [*self._body, self._body_end]
        own = [
            unit_progress(progress, self.progressive, self.progressive_until, i, len(units))
            for i in range(len(units))
        ]
        return chain(units, features, train, own, self.scan) + features

    def reconstruct(self, features: jax.Array, x: jax.Array) -> jax.Array:
        """The output for an image and its features; looks at a few pixels around each alone."""
        y = features
        for upsampler in self._upsamplers:
            y = upsampler(y)
        y = self._tail(y)
        if self.image_skip == "bilinear":
            y += upsample_bilinear(self.amplification * (x - _mean(x)), self.scale)
        return y / self.amplification + _mean(x)


def _mean(x: jax.Array) -> jax.Array:
    return jnp.asarray(DIV2K_MEAN if x.shape[-1] == 3 else 0.0, x.dtype)
