"""The binary units with attention.

``AttentionUnit`` is the unit in the public code of "Efficient Image Super Resolution Using
Attention In Binary Neural Networks", the attention paper. The author's later forms have no public
code. The paper's source gives their names, their costs, and the base, ``RPReLU(a conv(sign x) + b)
+ x``. The formulas of the others are inferred from these:

- "Single" has attention on the binary branch, and "Both" on both branches. Their costs are those of
  one and of two attentions.
- "Rescale" scales the binary branch by a map of the unit's input, before or after the activation.
  Martinez et al., "Training Binary Neural Networks with Real-to-Binary Convolutions", do the same.
- "Dual" scales the binary branch by such a map and by a map of the branch itself.
"""

from typing import Any

import flax.linen as nn
import jax

from binsr_jax.nn.attention import ATTENTION, SqueezeExcitation
from binsr_jax.nn.binary import RPReLU
from binsr_jax.nn.fence import fence
from binsr_jax.nn.units.base import BinaryUnit
from binsr_jax.ops.attended import ARRAYS, Attended
from binsr_jax.ops.binarize import Progress
from binsr_jax.ops.branch import Branch, PlainResidual, SpatialResidual


class _Attended(BinaryUnit):
    """A binary unit with an attention for each branch: "none" or a key of ``ATTENTION``."""

    residual_attention: str = "none"
    binary_attention: str = "none"
    attention_hidden: int = 4

    def _attend(self, branch: str, x: jax.Array, bare: bool = False) -> jax.Array | None:
        """``map(x) * x`` of a branch, or the map if ``bare``; None if there is no attention."""
        kind = self._kind(branch)
        if kind == "none":
            return None
        if kind not in ATTENTION:
            raise ValueError(f"no attention {kind!r}: choose none, {', '.join(ATTENTION)}")
        options = {"hidden": self.attention_hidden} if ATTENTION[kind] is SqueezeExcitation else {}
        attention = ATTENTION[kind](**options, bare=bare, name=f"{branch}_attention")
        # Without a fence XLA on CPU recomputes the convolution for the map and for the product, and
        # the rounding of the branches' sum depends on the size of the image.
        return fence(attention)(x)

    def _kind(self, branch: str) -> str:
        return self.residual_attention if branch == "residual" else self.binary_attention


class AttentionUnit(_Attended):
    """The binary unit with an attention and a learnable scale on each branch.

        y = a_b A_b(RPReLU(bconv(RSign(x)))) + a_r A_r(x)

    A is the identity ("none") or ``map(x) * x`` with a map of ``ATTENTION``. A branch scale starts
    at 1, or at 2 with an attention, because maps start at 1/2. So every branch starts with gain
    exactly 1; with a smaller gain, a chain of units would fade the image away.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        if (branch := self.as_branch()) is not None:
            return self.conv(x.shape[-1], name="conv").branch(x, branch)
        y = self._branch(x, train, progress)
        return self._scaled("binary", y) + self._scaled("residual", x)

    def _scaled(self, branch: str, x: jax.Array) -> jax.Array:
        """``a A(x)`` of one branch."""
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

    def as_attended(self) -> Attended | None:
        params = self.variables.get("params", {})
        kinds = self._kind("binary"), self._kind("residual")
        if "residual_scale" not in params or not ARRAYS.keys() >= {*kinds}:
            return None
        residual = PlainResidual(params["residual_scale"])
        if (branch := self._packed_branch(residual, params["binary_scale"])) is None:
            return None
        binary, residual = (
            [_array(params[f"{name}_attention"], path) for path in ARRAYS[kind]]
            for name, kind in zip(("binary", "residual"), kinds, strict=True)
        )
        return Attended(branch, binary, residual, kinds)


def _array(params: Any, path: str) -> jax.Array:
    layer, name = path.split("/")
    return params[layer][name]


class Base(_Attended):
    """The base of the later forms: ``y = RPReLU(a bconv(sign x) + b) + x``.

    a and b are learnable per channel and start at 1 and 0. The forms built on it double their maps,
    which start at 1/2. So every branch starts with gain exactly 1, and every form starts equal to
    this one. The doubling is ours.
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
        """``2 map(x) * x`` with the map of a branch, or ``x`` for a branch without attention."""
        attended = self._attend(branch, x)
        return x if attended is None else 2.0 * attended

    def _gain(self, branch: str, x: jax.Array, y: jax.Array) -> jax.Array:
        """``2 map(x) * y`` with the map of a branch, or ``y`` for a branch without attention."""
        gate = self._attend(branch, x, bare=True)
        return y if gate is None else 2.0 * gate * y


class RescalePre(Base):
    """A map of the input before the activation: ``y = RPReLU(2 m(x) (a bconv(sign x) + b)) + x``.

    m is the map of ``binary_attention``.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        y = self._convolved(x, train, progress)
        return self._activated(self._gain("binary", x, y)) + x


class RescalePost(Base):
    """A map of the input after the activation: ``y = 2 m(x) RPReLU(a bconv(sign x) + b) + x``.

    m is the map of ``binary_attention``.
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

    m is the map of ``residual_attention`` and n that of ``binary_attention``.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        z = self._gated("binary", self._activated(self._convolved(x, train, progress)))
        return self._gain("residual", x, z) + x


class Both(Base):
    """Attention on both branches: ``y = 2 n(z) z + 2 m(x) x``, z as in ``Single``.

    m is the map of ``residual_attention`` and n that of ``binary_attention``.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        z = self._activated(self._convolved(x, train, progress))
        return self._gated("binary", z) + self._gated("residual", x)
