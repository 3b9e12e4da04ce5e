"""SRVGGNetCompact, the small float network of Real-ESRGAN."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax

from binsr_jax.config import ModelConfig
from binsr_jax.models.backbone import LEAKY_SLOPE, Backbone
from binsr_jax.nn.binary import PReLU
from binsr_jax.nn.conv import Conv
from binsr_jax.nn.units.base import Unit
from binsr_jax.ops.binarize import Progress
from binsr_jax.ops.upsampling import pixel_shuffle, upsample_nearest

SRVGG_ACTIVATIONS: dict[str, Callable[[], Callable[[jax.Array], jax.Array]]] = {
    "prelu": lambda: PReLU(name="prelu"),
    "relu": lambda: nn.relu,
    "leaky_relu": lambda: partial(nn.leaky_relu, negative_slope=LEAKY_SLOPE),
}


class ActivatedConv(Unit):
    """A convolution and its activation: ``[B, H, W, _] -> [B, H, W, features]``.

    Attributes:
        features: Output channels; 0: as many as the input has.
        activation: A key of ``SRVGG_ACTIVATIONS``.
    """

    features: int = 0
    activation: str = "prelu"

    @property
    def feature_maps(self) -> int:
        return 3

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        y = Conv(self.features or x.shape[-1], name="conv")(x)
        return SRVGG_ACTIVATIONS[self.activation]()(y)


class SRVGG(Backbone):
    """Head and ``units`` units, each a convolution with an activation, then tail and pixel shuffle.

        f   = unit(...unit(head(x)))                                              (``extract``)
        out = shuffle(tail(f)) + nearest(x)                                   (``reconstruct``)

    Of Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic
    Data", in its later, compact form.
    """

    def extract(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        return self._through(self._body, self._head(x, train, progress), train, progress)

    def reconstruct(self, features: jax.Array, x: jax.Array, progress: Progress = 0.0) -> jax.Array:
        y = pixel_shuffle(self._tail(features, progress), self.scale)
        return y + upsample_nearest(x, self.scale)


def build_srvgg(config: ModelConfig, scale: int, channels: int) -> SRVGG:
    """The network of a config's ``model`` part."""
    unit = partial(ActivatedConv, activation=config.activation)
    return SRVGG(
        head=partial(unit, features=config.features),
        unit=unit,
        units=config.blocks,
        tail=partial(Conv, channels * scale**2),
        scale=scale,
        amplification=1.0,
        head_activation="none",
    )
