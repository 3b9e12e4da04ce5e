"""The units that a backbone is built from.

A new unit is a class here with the contract of ``Unit``, and a line in ``UNITS``.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from binsr_jax.nn.attention import ATTENTION, SqueezeExcitation
from binsr_jax.nn.binary import FOLDED, BinaryConv, RPReLU, RSign
from binsr_jax.nn.conv import Conv
from binsr_jax.nn.fence import call_apart, fence
from binsr_jax.ops.binarize import Progress
from binsr_jax.ops.image import depth_to_space, pixel_shuffle, upsample_nearest


class Unit(nn.Module):
    """The contract of all units: ``unit(x, train, progress) -> y``, x and y ``[B, H, W, C]``.

    ``train`` is a bool; ``progress`` is a float32 scalar in 0..1, how much of the training is done,
    for schedules inside a unit (or of the unit's own part of it: see ``unit_progress``). The
    attributes of a unit are its options: each is set from the config's ``model`` field of its name.
    """

    # How many convolutions in a row the unit stands for; a block of a backbone is two.
    convolutions: ClassVar[int] = 1


def unit_progress(
    progress: Progress, progressive: str, until: float, index: int, count: int
) -> Progress:
    """How far unit ``index`` of ``count`` is on its way to signs, in 0..1.

    Progressive binarisation takes the part ``until`` of the training. "together", all units are
    ``p = min(1, progress / until)`` on their way; "in_turn", each starts when the one before has
    arrived: ``clip(p count - index, 0, 1)``. With "none" it is the training's progress.
    """
    if progressive == "none":
        return progress
    done = progress / until
    return jnp.clip(done * count - index if progressive == "in_turn" else done, 0.0, 1.0)


PROGRESSIVE = ("none", "together", "in_turn")


class ResidualBlock(Unit):
    """The float unit of EDSR, without batch normalisation: ``y = x + s conv(relu(conv(x)))``."""

    residual_scale: float = 1.0
    float_conv: Callable[..., nn.Module] = Conv

    convolutions: ClassVar[int] = 2

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        features = x.shape[-1]
        y = self.float_conv(features, name="conv_0")(x)
        y = self.float_conv(features, name="conv_1")(nn.relu(y))
        return x + self.residual_scale * y


class FloatUnit(Unit):
    """The float unit of DnCNN, without batch normalisation: ``y = relu(conv(x))``."""

    float_conv: Callable[..., nn.Module] = Conv

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        return nn.relu(self.float_conv(x.shape[-1], name="conv")(x))


class BinaryUnit(Unit):
    """What units with one binary convolution share."""

    surrogate: str = "parabola"
    conv: Callable[..., nn.Module] = BinaryConv
    progressive: str = "none"

    def _bconv(
        self,
        x: jax.Array,
        train: bool,
        progress: Progress,
        learnable: bool = True,
        **options: Any,
    ) -> jax.Array:
        """``bconv(RSign(x))``, or with the plain sign, with submodules "rsign" and "conv".

        Progressive binarisation is of training alone: what is validated and packed has signs
        always.

        Args:
            x: ``[B, H, W, C]``.
            train: as of the unit.
            progress: as of the unit.
            learnable: whether the sign has thresholds.
            options: of ``BinaryConv``.
        """
        blend = train and self.progressive != "none"
        signs = RSign(self.surrogate, learnable, name="rsign")(x, progress, blend)
        conv = self.conv(x.shape[-1], **options, name="conv")
        return conv(signs, signs=not blend, train=train, progress=progress)


class BBCU(BinaryUnit):
    """The basic binary convolution unit, final form V4: ``y = RPReLU(bconv(RSign(x))) + x``.

    Xia et al., "Basic Binary Convolution Unit for Binarized Image Restoration Network", figure 1
    and section 3: no batch normalisation, the activation before the sum, the residual at full
    precision.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        return RPReLU(name="rprelu")(self._bconv(x, train, progress)) + x


class AttentionUnit(BinaryUnit):
    """The binary unit with attention on either branch and learnable branch scales.

        y = a_b A_b(RPReLU(bconv(RSign(x)))) + a_r A_r(x)

    "Efficient Image Super Resolution Using Attention In Binary Neural Networks". A is the identity
    ("none") or ``map(x) * x`` with a squeeze-and-excitation, spatial or pixel map. A branch scale
    starts at 1, or at 2 where there is an attention, whose map starts at 1/2: either way the branch
    starts with gain exactly 1, or a chain of such units would fade the image away.
    """

    residual_attention: str = "none"
    binary_attention: str = "none"
    attention_hidden: int = 4

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        y = RPReLU(name="rprelu")(self._bconv(x, train, progress))
        return self._branch("binary", self.binary_attention, y) + self._branch(
            "residual", self.residual_attention, x
        )

    def _branch(self, branch: str, kind: str, x: jax.Array) -> jax.Array:
        """``a A(x)`` for one of the two branches."""
        if kind == "none":
            return self._scale(branch, 1.0) * x
        if kind not in ATTENTION:
            raise ValueError(f"no attention {kind!r}: choose none, {', '.join(ATTENTION)}")
        options = {"hidden": self.attention_hidden} if ATTENTION[kind] is SqueezeExcitation else {}
        attention = ATTENTION[kind](**options, name=f"{branch}_attention")
        # Without a fence XLA convolves twice on CPU, for the map and for the product, and rounds
        # the sum of the branches differently from one size of image to another.
        y = fence(attention)(x)
        return self._scale(branch, 2.0) * y

    def _scale(self, branch: str, start: float) -> jax.Array:
        return self.param(f"{branch}_scale", nn.initializers.constant(start), ())


class ConvUnit(Unit):
    """A plain float convolution in the form of a unit: ``y = conv(x)``."""

    float_conv: Callable[..., nn.Module] = Conv

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        return self.float_conv(x.shape[-1], name="conv")(x)


UNITS: dict[str, type[Unit]] = {
    "residual": ResidualBlock,
    "float": FloatUnit,
    "bbcu": BBCU,
    "attention": AttentionUnit,
}


class Upsampler(nn.Module):
    """The float upsampler: a convolution to ``C r^2`` channels, then pixel shuffle.

    ``[B, H, W, C] -> [B, rH, rW, C]``.
    """

    scale: int
    float_conv: Callable[..., nn.Module] = Conv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.float_conv(x.shape[-1] * self.scale**2, name="conv")(x)
        return pixel_shuffle(y, self.scale)


class BinaryUpsampler(nn.Module):
    """The binary upsampler of BBCU: ``y = shuffle(RPReLU(bconv(RSign(x)))) + nearest(x)``.

    ``[B, H, W, C] -> [B, rH, rW, C]``; RPReLU acts on the ``C r^2`` channels, before the shuffle.
    """

    scale: int
    surrogate: str = "parabola"
    conv: Callable[..., nn.Module] = BinaryConv

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.is_mutable_collection(FOLDED) and not self.is_initializing():
            return pixel_shuffle(self._branch(x), self.scale) + upsample_nearest(x, self.scale)
        # The parameters are in the order of channels of ``pixel_shuffle``, but are used in that of
        # ``depth_to_space``, which moves whole runs of channels: on CPU several times faster.
        branch = nn.map_variables(
            BinaryUpsampler._branch,
            "params",
            partial(self._reordered, split=(-1, self.scale**2)),
            partial(self._reordered, split=(self.scale**2, -1)),
            init=self.is_initializing(),
        )
        return depth_to_space(branch(self, x), self.scale) + upsample_nearest(x, self.scale)

    def _branch(self, x: jax.Array) -> jax.Array:
        y = RSign(self.surrogate, name="rsign")(x)
        y = self.conv(x.shape[-1] * self.scale**2, name="conv")(y)
        return RPReLU(name="rprelu")(y)

    def _reordered(self, variables: Mapping[str, Any], split: tuple[int, int]) -> dict[str, Any]:
        """The variables with their ``C r^2`` output channels, as a matrix, transposed."""
        params = variables.get("params", {})
        outputs = {name: params[name] for name in ("conv", "rprelu") if name in params}
        # Apart, since XLA would look each one up where it is used, in the innermost loop.
        outputs = call_apart(partial(_transpose_channels, split=split), outputs)
        return {**variables, "params": {**params, **outputs}}


@partial(jax.jit, static_argnames="split")
def _transpose_channels(params: Any, split: tuple[int, int]) -> Any:
    def transpose(p: jax.Array) -> jax.Array:
        return p.reshape(*p.shape[:-1], *split).swapaxes(-1, -2).reshape(p.shape)

    return jax.tree.map(transpose, params)
