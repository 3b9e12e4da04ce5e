"""The binary convolutions of a packed network.

``models.build(config, conv=PackedConv)`` is the packed form of a config's network: the same
modules, with only the binary convolution replaced. ``SignConv`` has the parameters of a model file,
which are signs. ``PackedFloatConv`` computes with the packed parameters in floats, for comparison.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from binsr_jax.ops.activation import rprelu
from binsr_jax.ops.binarize import Progress, rsign
from binsr_jax.ops.branch import Branch, add_residual, packed_branch
from binsr_jax.ops.conv import conv2d
from binsr_jax.ops.packed import (
    int8_conv,
    pack_activations,
    packed_conv,
    unpack_weights,
    word_count,
)
from binsr_jax.ops.upsampling import depth_to_space


class PackedFloatConv(nn.Module):
    """Convolution of signs with packed binary weights: ``[B, H, W, I] -> [B, H, W, features]``.

        y = scale * (signs of x convolved with signs of the kernel) + bias

    Attributes and value are those of ``binsr_jax.nn.binary.BinaryConv``, which computes the
    parameters: ``w_bits``, uint32 ``[kh, kw, ceil(I / 32), features]`` from
    ``ops.packed.pack_weights``, and float32 ``scale`` and (with ``use_bias`` or ``norm``) ``bias``,
    ``[features]``. It is called like ``BinaryConv``, but ``train`` and ``progress`` have no effect,
    since a packed network is not trained. This class convolves floats +1 and -1, for comparison.
    """

    features: int
    kernel_size: int = 3
    use_bias: bool = False
    weight_scale: str = "mean"  # every kind of scale is the parameter ``scale`` here
    norm: bool = False  # folded into ``scale`` and ``bias``
    start: float = 1.0  # used only in training

    @nn.compact
    def __call__(
        self, x: jax.Array, signs: bool = True, train: bool = False, progress: Progress = 0.0
    ) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, word_count(x.shape[-1]), self.features)
        w_bits = self.param("w_bits", nn.initializers.zeros, shape, jnp.uint32)
        return self._scaled(self._convolve(x, w_bits))

    def _convolve(self, x: jax.Array, w_bits: jax.Array) -> jax.Array:
        return convolve_signs(x, w_bits)

    def _scaled(self, y: jax.Array) -> jax.Array:
        weight_scale = self.param("scale", nn.initializers.ones, (self.features,))
        y = y.astype(weight_scale.dtype) * weight_scale
        if self.use_bias or self.norm:
            y += self.param("bias", nn.initializers.zeros, (self.features,))
        return y


class PackedConv(PackedFloatConv):
    """The same in integers: by XNOR and popcount on CPU, in int8 on GPU and TPU."""

    @staticmethod
    def branch(x: jax.Array, branch: Branch, shuffle: int = 1) -> jax.Array:
        """``ops.branch.packed_branch`` on CPU, and the same values in int8 on GPU and TPU."""
        cpu, default = (partial(f, shuffle=shuffle) for f in (packed_branch, _branch_by_int8))
        return lax.platform_dependent(x, branch, cpu=cpu, default=default)

    def _convolve(self, x: jax.Array, w_bits: jax.Array) -> jax.Array:
        return lax.platform_dependent(x, w_bits, cpu=_by_bits, default=_by_int8)


class PopcountConv(PackedFloatConv):
    """The same by XNOR and population count on every device: the form that is exported."""

    def _convolve(self, x: jax.Array, w_bits: jax.Array) -> jax.Array:
        return _by_bits(x, w_bits)


class SignConv(PackedFloatConv):
    """The same with another layout of its kernel: ``signs``, int8 ``[kh, kw, I, O]`` of +-1."""

    @nn.compact
    def __call__(
        self, x: jax.Array, signs: bool = True, train: bool = False, progress: Progress = 0.0
    ) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("signs", nn.initializers.ones, shape, jnp.int8)
        y = lax.conv_general_dilated(
            x.astype(jnp.int8),
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            preferred_element_type=jnp.int32,
        )
        return self._scaled(y)


@jax.jit  # so that a trace names it: see ``deploy.export.onnx_graph``
def convolve_signs(x: jax.Array, w_bits: jax.Array) -> jax.Array:
    """``conv2d`` of signs, given as floats, with the signs of a packed kernel."""
    return conv2d(x, unpack_weights(w_bits, x.shape[-1]))


def _by_bits(x: jax.Array, w_bits: jax.Array) -> jax.Array:
    return packed_conv(pack_activations(x), w_bits, x.shape[-1])


def _by_int8(x: jax.Array, w_bits: jax.Array) -> jax.Array:
    return int8_conv(x, unpack_weights(w_bits, x.shape[-1]))


def _branch_by_int8(x: jax.Array, branch: Branch, shuffle: int) -> jax.Array:
    dot = _by_int8(rsign(x, branch.threshold), branch.w_bits).astype(x.dtype)
    z = rprelu(
        dot * branch.weight_scale + branch.bias, branch.shift_in, branch.slope, branch.shift_out
    )
    return add_residual(branch.factor * depth_to_space(z, shuffle), x, branch.residual, shuffle)
