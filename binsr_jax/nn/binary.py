"""The three layers of a binary unit: RSign, the binary convolution and RPReLU."""

import math
from collections.abc import Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from binsr_jax.nn.conv import uniform_fan_in
from binsr_jax.ops.activation import prelu, rprelu
from binsr_jax.ops.binarize import (
    Progress,
    binarize_learnable,
    binarize_libra,
    binarize_mean,
    binary_conv,
    mean_weight_scale,
    rsign,
)
from binsr_jax.ops.branch import Branch, PlainResidual, Residual
from binsr_jax.ops.conv import conv2d
from binsr_jax.ops.packed import pack_weights
from binsr_jax.ops.upsampling import depth_to_space, upsample_nearest

WEIGHT_SCALES = ("mean", "learnable", "libra")
FOLDED = "folded"  # the collection of the packed layer's parameters: see ``BinaryConv``


class RSign(nn.Module):
    """Sign with a threshold per channel, ``ops.binarize.rsign``: ``[..., C] -> [..., C]`` of +-1.

    With ``blend`` it returns a mixture of the hard tanh and the sign of ``u = x - threshold``:

        (1 - p) clip(u, -1, 1) + p sign(u),    p = ``progress`` in 0..1

    which is exactly +-1 at p = 1. The threshold starts at 0, and stays there without ``learnable``.
    """

    surrogate: str = "parabola"
    learnable: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, progress: Progress = 0.0, blend: bool = False) -> jax.Array:
        threshold = jnp.zeros(x.shape[-1:], x.dtype)
        if self.learnable:
            threshold = self.param("threshold", nn.initializers.zeros, x.shape[-1:])
        signs = rsign(x, threshold, self.surrogate, progress)
        if not blend:
            return signs
        p = jnp.asarray(progress, x.dtype)
        return (1 - p) * jnp.clip(x - threshold, -1, 1) + p * signs


class PReLU(nn.Module):
    """PReLU with a slope per channel: ``[..., C] -> [..., C]``."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return prelu(x, self.param("slope", nn.initializers.constant(0.25), x.shape[-1:]))


class RPReLU(nn.Module):
    """PReLU with learnable shifts, ``ops.activation.rprelu``: ``[..., C] -> [..., C]``."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = x.shape[-1:]
        return rprelu(
            x,
            self.param("shift_in", nn.initializers.zeros, shape),
            self.param("slope", nn.initializers.constant(0.25), shape),
            self.param("shift_out", nn.initializers.zeros, shape),
        )


class BinaryConv(nn.Module):
    """Convolution of signs with binary weights.

        y = norm(conv2d(x, binary weights) + bias),    [B, H, W, I] -> [B, H, W, features]

    Zero padding comes after the sign. With ``signs=False`` the input may have any values, and is
    convolved in floats. If the collection ``FOLDED`` is mutable, the parameters of the same layer
    in a packed network (``binsr_jax.nn.packed``) are written to it, with bias and normalisation
    folded.

    Attributes:
        features: The number of output channels.
        kernel_size: Odd.
        use_bias: Whether a bias is added.
        weight_scale: ``"mean"``: alpha is mean |w| per output channel, detached. ``"learnable"``:
            alpha is a parameter that starts at mean |w|. ``"libra"``: IR-Net's balanced weights
            (``binarize_libra``).
        norm: Whether batch normalisation follows. Its statistics cover the whole batch under
            ``jax.jit``, and the device's part of it under ``jax.pmap``.
        start: The latent weights start uniform in ``+-start / sqrt(fan in)``.
    """

    features: int
    kernel_size: int = 3
    use_bias: bool = False
    weight_scale: str = "mean"
    norm: bool = False
    start: float = 1.0

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        signs: bool = True,
        train: bool = False,
        progress: Progress = 0.0,
    ) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        fan_in = math.prod(shape[:3])
        kernel = self.param("kernel", uniform_fan_in(fan_in / self.start**2), shape)
        weights = self._binarised(kernel, progress)
        y = binary_conv(x, weights) if signs else conv2d(x, weights)
        bias = None
        if self.use_bias:
            bias = self.param("bias", uniform_fan_in(fan_in), (self.features,))
            y += bias
        norm = None
        if self.norm:
            norm = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, name="norm")
            y = norm(y)
        if self.is_mutable_collection(FOLDED) and not self.is_initializing():
            for name, value in _folded(weights, bias, norm).items():
                self.put_variable(FOLDED, name, value)
        return y

    def _binarised(self, kernel: jax.Array, progress: Progress) -> jax.Array:
        if self.weight_scale == "mean":
            return binarize_mean(kernel)
        if self.weight_scale == "learnable":
            return binarize_learnable(
                kernel, self.param("scale", lambda _: mean_weight_scale(kernel))
            )
        if self.weight_scale == "libra":
            return binarize_libra(kernel, progress)
        raise ValueError(
            f"no weight scale {self.weight_scale!r}: choose from {', '.join(WEIGHT_SCALES)}"
        )


def binary_branch(
    x: jax.Array,
    rsign: RSign,
    conv: nn.Module,
    rprelu: RPReLU,
    train: bool = False,
    progress: Progress = 0.0,
    blend: bool = False,
    skip: bool = False,
    shuffle: int = 1,
) -> jax.Array:
    """``depth_to_space(rprelu(conv(rsign(x))), shuffle)``: ``[B, H, W, I] -> [B, rH, rW, O/r^2]``.

    A packed convolution computes all of it as one function of the three modules' parameters.

    Args:
        x: ``[B, H, W, I]``.
        rsign: A submodule of the calling module, as are ``conv`` and ``rprelu``.
        conv: A ``BinaryConv`` or its packed form.
        rprelu: The activation.
        train: As for a unit.
        progress: As for a unit.
        blend: See ``RSign``.
        skip: Whether x is added, upsampled by nearest neighbours.
        shuffle: The factor r of the pixel shuffle; 1 stands for none.
    """
    if is_packed(conv) and not conv.is_initializing():
        params = {
            name: dict(module.variables.get("params", {}))
            for name, module in (("rsign", rsign), ("conv", conv), ("rprelu", rprelu))
        }
        residual = PlainResidual(jnp.ones((), x.dtype)) if skip else None
        return cast(Any, conv).branch(x, branch_of(params, residual=residual), shuffle)
    signs = rsign(x, progress, blend)
    y = rprelu(conv(signs, signs=not blend, train=train, progress=progress))
    y = depth_to_space(y, shuffle)
    return y + upsample_nearest(x, shuffle) if skip else y


def is_packed(conv: Any) -> bool:
    """Whether a convolution, or its factory, is the packed form, which computes whole branches."""
    return hasattr(getattr(conv, "func", conv), "branch")


def branch_of(
    params: Mapping[str, Mapping[str, jax.Array]],
    factor: jax.Array | float = 1.0,
    residual: Residual | None = None,
) -> Branch:
    """The packed branch with the parameters of the submodules "rsign", "conv" and "rprelu".

    ``ops.branch.Branch`` describes ``factor`` and ``residual``.
    """
    conv, rprelu = params["conv"], params["rprelu"]
    bias = conv.get("bias", jnp.zeros_like(conv["scale"]))
    shifts = (rprelu["shift_in"], rprelu["slope"], rprelu["shift_out"])
    return Branch(
        params["rsign"]["threshold"], conv["w_bits"], conv["scale"], bias, *shifts, factor, residual
    )


def _folded(
    weights: jax.Array, bias: jax.Array | None, norm: nn.BatchNorm | None
) -> dict[str, jax.Array]:
    """``w_bits``, ``scale`` and ``bias`` of the packed layer.

    Normalisation is ``g (y - mean) / sqrt(variance + epsilon) + b``: per channel a factor and a
    summand, which are merged into ``scale`` and ``bias``.
    """
    weight_scale = jnp.abs(weights[0, 0, 0])
    if norm is not None:
        params, statistics = norm.variables["params"], norm.variables["batch_stats"]
        factor = params["scale"] / jnp.sqrt(statistics["var"] + norm.epsilon)
        before = -statistics["mean"] if bias is None else bias - statistics["mean"]
        weight_scale, bias = factor * weight_scale, factor * before + params["bias"]
    folded = {"w_bits": pack_weights(weights), "scale": weight_scale}
    return folded if bias is None else {**folded, "bias": bias}
