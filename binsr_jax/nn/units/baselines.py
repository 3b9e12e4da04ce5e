"""The units with which BBCU and the attention unit are compared, float and binary."""

import math
from collections.abc import Callable
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from binsr_jax.nn.binary import PReLU, RPReLU
from binsr_jax.nn.conv import Conv
from binsr_jax.nn.fence import fence, keep
from binsr_jax.nn.units.base import BinaryUnit, Unit
from binsr_jax.ops.binarize import Progress


class ResidualBlock(Unit):
    """The float unit of EDSR, without batch normalisation: ``y = x + s conv(relu(conv(x)))``.

    s is ``residual_scale``.
    """

    residual_scale: float = 1.0
    float_conv: Callable[..., nn.Module] = Conv

    convolutions: ClassVar[int] = 2

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        features = x.shape[-1]
        y = keep(self, "features", self.float_conv(features, name="conv_0")(x))
        y = self.float_conv(features, name="conv_1")(nn.relu(y))
        return x + self.residual_scale * y


class FloatUnit(Unit):
    """The float unit of DnCNN, without batch normalisation: ``y = relu(conv(x))``."""

    float_conv: Callable[..., nn.Module] = Conv

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        return nn.relu(self.float_conv(x.shape[-1], name="conv")(x))


class ConvUnit(Unit):
    """A plain float convolution in the form of a unit: ``y = conv(x)``."""

    float_conv: Callable[..., nn.Module] = Conv

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        return self.float_conv(x.shape[-1], name="conv")(x)


class BNN(BinaryUnit):
    """The plain binary unit: ``y = norm(bconv(sign x))``, without a skip connection.

    Hubara et al., "Binarized Neural Networks". The gradient of their hard tanh before the sign is
    the surrogate "clip", which replaces the config's. Their weights have no scale; a scale makes no
    difference before batch normalisation.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        return self._bconv(x, train, progress, learnable=False, surrogate="clip", norm=True)


class BiReal(BinaryUnit):
    """The unit of Bi-Real Net: ``y = norm(bconv(sign x)) + x``, without an activation.

    Liu et al., "Bi-Real Net: Enhancing the Performance of 1-bit CNNs With Improved Representational
    Capability and Advanced Training Algorithm".
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        return self._bconv(x, train, progress, learnable=False, norm=True) + x


class ReActNet(BinaryUnit):
    """The unit of ReActNet, BBCU's V1: ``y = RPReLU(norm(bconv(RSign(x))) + x)``.

    Liu et al., "ReActNet: Towards Precise Binary Neural Network with Generalized Activation
    Functions".
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        return RPReLU(name="rprelu")(self._bconv(x, train, progress, norm=True) + x)


class IRNet(BinaryUnit):
    """The unit of IR-Net: ``y = clip(norm(bconv(sign x)) + x, -1, 1)``.

    Qin et al., "Forward and Backward Information Retention for Accurate Binary Neural Networks".
    The weights are balanced (``binarize_libra``). The surrogate of weights and activations changes
    from the identity to the sign during training (``tanh_schedule``), and replaces the config's.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        own = {"learnable": False, "surrogate": "tanh", "weight_scale": "libra", "norm": True}
        y = self._bconv(x, train, progress, **own)
        return jnp.clip(y + x, -1.0, 1.0)


class BTM(BinaryUnit):
    """The unit of the binary training mechanism: ``y = PReLU(bconv(sign x)) + x``.

    Jiang et al., "Training Binary Neural Network without Batch Normalization for Image
    Super-Resolution". Descriptions of the paper by others give: no batch normalisation, weights
    initialised by Xavier's uniform rule, images normalised by mean and deviation, PReLU, XNOR-Net's
    scales, and Bi-Real Net's surrogate. They do not say where the skip joins; here each convolution
    has a skip, as in the other units. Nor do they define the weights' surrogate "of higher order";
    here it is that of all units. The paper's blocks of several receptive fields and its
    distillation belong to a network of its own, and not to SRResNet.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        # Xavier: uniform in +-sqrt(6 / (fan in + fan out)), where the two are equal.
        y = self._bconv(x, train, progress, learnable=False, start=math.sqrt(3.0))
        return PReLU(name="prelu")(y) + x


class BAM(BinaryUnit):
    """A whole body with the bit accumulation mechanism: ``length`` binary convolutions.

        s_n = sum_{i<n} beta_ni a_i,    k_n = sum_{i<n} gamma_ni mean_c |a_i|,
        a_n = k_n bconv(RSign(s_n)) + a_{n-1},    a_0 = x,    y = a_length

    Xin et al., "Binarized Neural Network for Single Image Super Resolution". Descriptions of the
    paper by others give: the activations of all previous layers are summed with learnable weights,
    normalised and binarised; a learnable two-dimensional array scales the result; mean |w| scales
    the weights.

    The rest is inferred. The array is the mean over the channels, accumulated in the same way. The
    evidence is BBCU's table, where BAM has 34,203 to 34,352 operations per pixel and 864 to 1,404
    parameters more than the other units. Sums of n maps of 64 + 1 channels, n = 1 to 32, are 34,320
    products with 1,056 weights. Each convolution has a skip. The threshold of RSign replaces the
    normalisation before the sign, to which it is equivalent at inference. The accumulation of the
    weights, with factors that are solved for and not learnt, is left out.
    """

    length: int = 1

    convolutions: ClassVar[int] = 0

    @property
    def feature_maps(self) -> int:
        """The last convolution holds all previous maps, and a second time as one stack."""
        return max(super().feature_maps, 2 * self.length + 2)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        history = (x,)
        for n in range(self.length):
            layer = _Accumulating(self.surrogate, self.conv, self.progressive, name=f"layer_{n}")
            history += (fence(layer)(history, train, progress),)
        return history[-1]


class _Accumulating(BinaryUnit):
    """One convolution of ``BAM``, called with the n previous maps, each ``[B, H, W, C]``."""

    @nn.compact
    def __call__(
        self, history: tuple[jax.Array, ...], train: bool = False, progress: Progress = 0.0
    ) -> jax.Array:
        features = jnp.stack(history, -1)
        sizes = jnp.abs(features).mean(-2, keepdims=True)
        # Without a fence, XLA's rounding of the sums depends on the size of the image.
        sums = fence(_Accumulate(name="activations"))(features)
        pixel_scale = fence(_Accumulate(name="scales"))(sizes)
        return pixel_scale * self._bconv(sums, train, progress) + history[-1]


class _Accumulate(nn.Module):
    """A weighted sum over the last axis, ``[..., n] -> [...]``. It starts as the last element."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        def last(_, shape: tuple[int]) -> jax.Array:
            return jnp.zeros(shape, x.dtype).at[-1].set(1.0)

        kernel = self.param("kernel", last, x.shape[-1:])
        return (x @ kernel[:, None]).squeeze(-1)
