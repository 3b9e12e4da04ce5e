"""The binary units with attention, of "Efficient Image Super Resolution Using Attention In Binary
Neural Networks".

``AttentionUnit`` is that of the paper's public code. Of the author's later forms the paper's source
names the blocks and their costs, and gives ``RPReLU(a conv(sign x) + b) + x`` as the base; the code
is not public. What each name stands for is inferred: "Single" is attention on the binary branch
alone, "Both" on both branches (their cost is that of one and two attentions), "Rescale" a map of
the unit's own input that scales the binary branch before or after its activation (as in Martinez et
al., "Training Binary Neural Networks with Real-to-Binary Convolutions"), and "Dual" both such a map
and one of the branch.
"""

import flax.linen as nn
import jax

from binsr_jax.nn.attention import ATTENTION, SqueezeExcitation
from binsr_jax.nn.binary import RPReLU
from binsr_jax.nn.fence import fence
from binsr_jax.nn.units.base import BinaryUnit
from binsr_jax.ops.binarize import Progress
from binsr_jax.ops.branch import Branch, PlainResidual, SpatialResidual


class _Attended(BinaryUnit):
    """A binary unit with an attention, "none" or a key of ``ATTENTION``, for either branch."""

    residual_attention: str = "none"
    binary_attention: str = "none"
    attention_hidden: int = 4

    def _attend(self, branch: str, x: jax.Array, bare: bool = False) -> jax.Array | None:
        """``map(x) * x``, or the map alone if ``bare``, of a branch; None if it has none."""
        kind = self._kind(branch)
        if kind == "none":
            return None
        if kind not in ATTENTION:
            raise ValueError(f"no attention {kind!r}: choose none, {', '.join(ATTENTION)}")
        options = {"hidden": self.attention_hidden} if ATTENTION[kind] is SqueezeExcitation else {}
        attention = ATTENTION[kind](**options, bare=bare, name=f"{branch}_attention")
        # Without a fence XLA convolves twice on CPU, for the map and for the product, and rounds
        # the sum of the branches differently from one size of image to another.
        return fence(attention)(x)

    def _kind(self, branch: str) -> str:
        return self.residual_attention if branch == "residual" else self.binary_attention


class AttentionUnit(_Attended):
    """The binary unit with attention on either branch and learnable branch scales.

        y = a_b A_b(RPReLU(bconv(RSign(x)))) + a_r A_r(x)

    A is the identity ("none") or ``map(x) * x`` with a map of ``ATTENTION``. A branch scale starts
    at 1, or at 2 where there is an attention, whose map starts at 1/2: either way the branch starts
    with gain exactly 1, or a chain of such units would fade the image away.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        if (branch := self.as_branch()) is not None:
            return self.conv(x.shape[-1], name="conv").branch(x, branch)
        y = self._branch(x, train, progress)
        return self._scaled("binary", y) + self._scaled("residual", x)

    def _scaled(self, branch: str, x: jax.Array) -> jax.Array:
        """``a A(x)`` for one of the two branches."""
        attended = self._attend(branch, x)
        return self._branch_scale(branch) * (x if attended is None else attended)

    def _branch_scale(self, branch: str) -> jax.Array:
        start = 1.0 if self._kind(branch) == "none" else 2.0
        return self.param(f"{branch}_scale", nn.initializers.constant(start), ())

    def as_branch(self) -> Branch | None:
        kinds = self._kind("binary"), self._kind("residual")
        params = self.variables.get("params", {})
        if kinds not in (("none", "none"), ("none", "spatial")) or "residual_scale" not in params:
            return None
        residual = PlainResidual(params["residual_scale"])
        if self._kind("residual") == "spatial":
            attention = params["residual_attention"]["map"]
            residual = SpatialResidual(*residual, attention["bias"][0], attention["kernel"][:, 0])
        return self._packed_branch(residual, params["binary_scale"])


class Base(_Attended):
    """The base of the later forms: ``y = RPReLU(a bconv(sign x) + b) + x``.

    a and b, learnable by channel, start at 1 and 0. In the forms built on it a map is doubled: maps
    start at 1/2, so that every branch starts with gain exactly 1 and every form as this one. (The
    doubling is ours.)
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        return self._activated(self._convolved(x, train, progress)) + x

    def _convolved(self, x: jax.Array, train: bool, progress: Progress) -> jax.Array:
        """``a bconv(sign x) + b``."""
        y = self._bconv(x, train, progress, learnable=False)
        a = self.param("scale", nn.initializers.ones, x.shape[-1:])
        return a * y + self.param("shift", nn.initializers.zeros, x.shape[-1:])

    def _activated(self, x: jax.Array) -> jax.Array:
        return RPReLU(name="rprelu")(x)

    def _gated(self, branch: str, x: jax.Array) -> jax.Array:
        """``2 map(x) * x`` with the map of a branch, or ``x`` if it has none."""
        attended = self._attend(branch, x)
        return x if attended is None else 2.0 * attended

    def _gain(self, branch: str, x: jax.Array, y: jax.Array) -> jax.Array:
        """``2 map(x) * y`` with the map of a branch, or ``y`` if it has none."""
        gate = self._attend(branch, x, bare=True)
        return y if gate is None else 2.0 * gate * y


class RescalePre(Base):
    """A map of the input before the activation: ``y = RPReLU(2 m(x) (a bconv(sign x) + b)) + x``.

    m is that of ``binary_attention``.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        y = self._convolved(x, train, progress)
        return self._activated(self._gain("binary", x, y)) + x


class RescalePost(Base):
    """A map of the input after the activation: ``y = 2 m(x) RPReLU(a bconv(sign x) + b) + x``.

    m is that of ``binary_attention``.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        y = self._activated(self._convolved(x, train, progress))
        return self._gain("binary", x, y) + x


class Single(Base):
    """Attention on the binary branch: ``y = 2 m(z) z + x``, ``z = RPReLU(a bconv(sign x) + b)``."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        return self._gated("binary", self._activated(self._convolved(x, train, progress))) + x


class Dual(Base):
    """Maps of the input and of the branch: ``y = 2 m(x) 2 n(z) z + x``, z as in ``Single``.

    m is that of ``residual_attention``, n of ``binary_attention``.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        z = self._gated("binary", self._activated(self._convolved(x, train, progress)))
        return self._gain("residual", x, z) + x


class Both(Base):
    """Attention on both branches: ``y = 2 n(z) z + 2 m(x) x``, z as in ``Single``.

    m is that of ``residual_attention``, n of ``binary_attention``.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        z = self._activated(self._convolved(x, train, progress))
        return self._gated("binary", z) + self._gated("residual", x)
