"""The contract of the units that a backbone is built from, and what the binary ones share."""

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from binsr_jax.nn.binary import BinaryConv, RPReLU, RSign, binary_branch, branch_of, is_packed
from binsr_jax.ops.binarize import Progress
from binsr_jax.ops.branch import Branch, Residual


class Unit(nn.Module):
    """The contract of all units: ``unit(x, train, progress) -> y``, x and y ``[B, H, W, C]``.

    ``train`` is a bool; ``progress`` is a float32 scalar in 0..1, how much of the training is done,
    for schedules inside a unit (or of the unit's own part of it: see ``unit_progress``). The
    attributes of a unit are its options: each is set from the config's ``model`` field of its name.
    """

    # How many convolutions in a row the unit stands for; a block of a backbone is two. 0: for those
    # of a whole body, however many; their number is then set as the attribute ``length``.
    convolutions: ClassVar[int] = 1

    @property
    def feature_maps(self) -> int:
        """What a network of such units keeps at a time at inference, in feature maps, at most.

        By XLA's own account of its programs: 3 without attention, 4 with SE, 5 with spatial and 6
        with pixel attention on both branches.
        """
        return 6

    def as_branch(self) -> Branch | None:
        """The whole unit as one packed branch; None where it is more, or is not packed.

        A run of such units is one native call: see ``binsr_jax.nn.fence.chain``.
        """
        return None


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
        surrogate: str | None = None,
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
            surrogate: of the sign's gradient, where the unit has its own.
            options: of ``BinaryConv``.
        """
        signs = RSign(surrogate or self.surrogate, learnable, name="rsign")
        conv = self.conv(x.shape[-1], **options, name="conv")
        blend = self._blends(train)
        return conv(signs(x, progress, blend), signs=not blend, train=train, progress=progress)

    def _packed_branch(self, residual: Residual, factor: jax.Array | float = 1.0) -> Branch | None:
        """The branch that ``_branch`` computes and more, where its convolution is packed."""
        if not is_packed(self.conv) or self.is_initializing():
            return None
        return branch_of(self.variables["params"], factor, residual)

    def _branch(
        self, x: jax.Array, train: bool, progress: Progress, skip: bool = False
    ) -> jax.Array:
        """``RPReLU(bconv(RSign(x)))``, with "rprelu" too; and ``+ x`` with ``skip``."""
        return binary_branch(x, *self._parts(x), train, progress, self._blends(train), skip)

    def _parts(self, x: jax.Array) -> tuple[RSign, nn.Module, RPReLU]:
        """The submodules "rsign", "conv" and "rprelu" of a branch."""
        rsign = RSign(self.surrogate, name="rsign")
        return rsign, self.conv(x.shape[-1], name="conv"), RPReLU(name="rprelu")

    def _blends(self, train: bool) -> bool:
        return train and self.progressive != "none"
