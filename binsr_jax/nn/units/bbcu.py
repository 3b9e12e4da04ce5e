"""The basic binary convolution unit, and the steps of its paper's ablation."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from binsr_jax.nn.binary import RPReLU
from binsr_jax.nn.units.base import BinaryUnit
from binsr_jax.ops.binarize import Progress
from binsr_jax.ops.branch import Branch, PlainResidual


class BBCUV2(BinaryUnit):
    """BBCU's V2, without batch normalisation: ``y = RPReLU(bconv(RSign(x)) + x)``.

    In a network with an amplification k above 1 it is V3.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        return RPReLU(name="rprelu")(self._bconv(x, train, progress) + x)


class BBCU(BinaryUnit):
    """The basic binary convolution unit, final form V4: ``y = RPReLU(bconv(RSign(x))) + x``.

    Xia et al., "Basic Binary Convolution Unit for Binarized Image Restoration Network", figure 1
    and section 3; equation 10 of the attention paper, whose factor k is applied once at the
    network's input. There is no batch normalisation, the activation precedes the sum, and the
    residual has full precision. The ablation's V1 is ``ReActNet``; V2 and V3 are ``BBCUV2``.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        return self._branch(x, train, progress, skip=True)

    def as_branch(self) -> Branch | None:
        return self._packed_branch(PlainResidual(jnp.ones(())))
