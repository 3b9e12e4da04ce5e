"""RRDBNet, the float network of ESRGAN and Real-ESRGAN."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from binsr_jax.config import ModelConfig
from binsr_jax.errors import UserError
from binsr_jax.models.backbone import Backbone
from binsr_jax.nn.conv import Conv
from binsr_jax.nn.units.base import Unit
from binsr_jax.ops.binarize import Progress
from binsr_jax.ops.upsampling import pixel_unshuffle, upsample_nearest

_SLOPE = 0.2  # slope of the leaky ReLU
_RESIDUAL_SCALE = 0.2
_OVERLAP = 64  # of tiles, in pixels of the features; docs/recipes.md has its error
_DENSE_BLOCKS, _DENSE_CONVS = 3, 5  # of a unit, and of one of its blocks


class DenseBlock(nn.Module):
    """Convolutions that see all maps before them: ``[B, H, W, C] -> [B, H, W, C]``.

        x_i = lrelu(conv_i([x, x_1, ..., x_{i-1}])), i = 1..4
        y   = x + 0.2 conv_5([x, x_1, ..., x_4])

    Attributes:
        growth: The channels of each ``x_i``.
    """

    growth: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = partial(Conv, start="kaiming")
        maps = x
        for i in range(_DENSE_CONVS - 1):
            y = nn.leaky_relu(conv(self.growth, name=f"conv_{i}")(maps), _SLOPE)
            maps = jnp.concatenate([maps, y], axis=-1)
        return x + _RESIDUAL_SCALE * conv(x.shape[-1], name=f"conv_{_DENSE_CONVS - 1}")(maps)


class RRDB(Unit):
    """The residual in residual dense block: ``y = x + 0.2 dense(dense(dense(x)))``.

    Attributes:
        features: C.
        growth: The growth of its dense blocks.
    """

    features: int = 64
    growth: int = 32

    @property
    def feature_maps(self) -> int:
        # The maps of a dense block before and after one is added, two skips, and the output.
        dense = self.features + (_DENSE_CONVS - 1) * self.growth
        return 2 + math.ceil(2 * dense / self.features)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        y = x
        for i in range(_DENSE_BLOCKS):
            y = DenseBlock(self.growth, name=f"dense_{i}")(y)
        return x + _RESIDUAL_SCALE * y


class RRDBNet(Backbone, kw_only=True):
    """Head, ``units`` RRDBs, a convolution, a skip over all of them, two doublings, tail.

        h   = head(unshuffled x)
        f   = body_end(unit(...unit(h))) + h                                      (``extract``)
        y   = lrelu(upsampler_i(nearest(y))), y starting at f, for each doubling
        out = tail(lrelu(hr_conv(y)))                                         (``reconstruct``)

    Wang et al., "ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks"; in Wang et
    al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data", the
    same for smaller scales: pixels of the input become channels first (pixel unshuffle), by 2 for
    x2 and by 4 for x1, and the rest enlarges four times.

    Attributes:
        features: Channels of the body.
        doublings: How often the features are enlarged twice.
    """

    features: int
    doublings: int = 2

    @property
    def stride(self) -> int:
        return 2**self.doublings // self.scale

    @property
    def overlap(self) -> int:
        return _OVERLAP * self.stride

    def setup(self) -> None:
        super().setup()
        self._body_end = Conv(self.features, name="body_end")
        self._upsamplers = [
            Conv(self.features, name=f"upsampler_{i}") for i in range(self.doublings)
        ]
        self._hr_conv = Conv(self.features, name="hr_conv")

    def extract(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        head = self._embed(pixel_unshuffle(x, self.stride), progress)
        return self._body_end(self._through(self._body, head, train, progress)) + head

    def reconstruct(self, features: jax.Array, x: jax.Array, progress: Progress = 0.0) -> jax.Array:
        y = features
        for upsampler in self._upsamplers:
            y = nn.leaky_relu(upsampler(upsample_nearest(y, 2)), _SLOPE)
        y = nn.leaky_relu(self._hr_conv(y), _SLOPE)
        return self._tail(y, progress)

    def reach(self, params: Any, tail: Any) -> tuple[int, int]:
        del params, tail
        # In the output's grid the last two convolutions see 2 pixels beside each; a doubling adds 1
        # to them, and half of that, rounded up, is seen in the grid before.
        rows = 2
        for _ in range(self.doublings):
            rows = -(-(rows + 1) // 2)
        body = _DENSE_BLOCKS * _DENSE_CONVS * self.units
        return self.stride * (1 + body + 1 + rows), rows


def build_rrdbnet(config: ModelConfig, scale: int, channels: int) -> RRDBNet:
    """The network of a config's ``model`` part.

    Raises:
        UserError: There is none of that scale.
    """
    if scale not in (1, 2, 4):
        raise UserError(f"config.scale is {scale}, but rrdbnet has scale 1, 2 or 4")
    return RRDBNet(
        head=partial(Conv, config.features),
        unit=partial(RRDB, features=config.features, growth=config.growth),
        units=config.blocks,
        tail=partial(Conv, channels),
        scale=scale,
        amplification=1.0,
        head_activation="none",
        features=config.features,
        doublings=2 if config.unshuffle else round(math.log2(scale)),
    )
