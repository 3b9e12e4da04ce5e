"""EDSR, float and binary: one backbone, which takes its parts as attributes."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from binsr_jax.models.backbone import UPSAMPLING_STEPS, Backbone, Factory
from binsr_jax.nn.upsamplers import native_upsampling
from binsr_jax.ops.binarize import Progress
from binsr_jax.ops.image import product
from binsr_jax.ops.upsampling import pixel_shuffle, upsample_bilinear

# The mean of DIV2K's training images, RGB in 0..1. Networks for other channels subtract no mean.
DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


class EDSR(Backbone, kw_only=True):
    """Head, ``units`` units with a skip over all of them, upsampler, tail.

        h   = act(head(k (x - mean)))
        f   = body_end(unit(...unit(h))) + h                                      (``extract``)
        y   = tail(upsampler(f))      (+ k (x - mean) enlarged, where image_skip is "bilinear")
        out = y / k + mean                                                    (``reconstruct``)

    Without an upsampler the tail makes all s^2 pixels of an input pixel as channels, as in ESPCN:
    ``y = shuffle(tail(f))``. Nothing has the features' channels at the output's size then, which
    saves much of the time of a network with few units.

    Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution". With binary
    units it is the network of "Efficient Image Super Resolution Using Attention In Binary Neural
    Networks".

    Attributes:
        body_end: Makes the layer after the units: a float convolution, or one more unit.
        upsampler: Makes one upsampling step: ``upsampler(factor)``. None: the tail has ``C s^2``
            outputs, for images of C channels.
        image_skip: ``"none"`` or ``"bilinear"``.
    """

    body_end: Factory
    upsampler: Factory | None
    image_skip: str

    def setup(self) -> None:
        super().setup()
        self._body_end = self.body_end(name="body_end")
        upsampler = self.upsampler
        if upsampler is None:
            self._upsamplers = []
            return
        steps = enumerate(UPSAMPLING_STEPS[self.scale])
        self._upsamplers = [upsampler(step, name=f"upsampler_{i}") for i, step in steps]

    def parts(self) -> tuple[list[nn.Module], list[nn.Module]]:
        return [*self._body, self._body_end], list(self._upsamplers)

    def extract(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        units, _ = self.parts()
        features = self._embed(self.amplification * (x - _mean(x)), progress)
        return self._through(units, features, train, progress, skip=True)

    def held_scale(self, features: jax.Array) -> int:
        if not self.upsampler:
            return 1
        if self._native_end(features) is None:
            return self.scale
        return self.scale // self._upsamplers[-1].scale

    def reconstruct(self, features: jax.Array, x: jax.Array, progress: Progress = 0.0) -> jax.Array:
        y = features
        natively = self._native_end(features)
        for upsampler in self._upsamplers[:-1] if natively else self._upsamplers:
            y = upsampler(y, progress)
        y = natively(y) if natively else self._tail(y, progress)
        if not self.upsampler:
            y = pixel_shuffle(y, self.scale)
        if self.image_skip == "bilinear":
            y += upsample_bilinear(product(self.amplification, x - _mean(x)), self.scale)
        return product(1 / self.amplification, y) + _mean(x)

    def _native_end(self, features: jax.Array) -> Callable[[jax.Array], jax.Array] | None:
        """The last upsampler and the tail as one native call; None if there is no such call."""
        if not self._upsamplers:
            return None
        return native_upsampling(self._upsamplers[-1], self._tail, features)


def _mean(x: jax.Array) -> jax.Array:
    return jnp.asarray(DIV2K_MEAN if x.shape[-1] == 3 else 0.0, x.dtype)
