"""The contract of the units of a backbone, and the common part of the binary ones."""

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from binsr_jax.nn.binary import BinaryConv, RPReLU, RSign, binary_branch, branch_of, is_packed
from binsr_jax.ops.attended import Attended
from binsr_jax.ops.binarize import Progress
from binsr_jax.ops.branch import Branch, Residual


class Unit(nn.Module):
    """The contract of all units: ``unit(x, train, progress) -> y``, x and y ``[B, H, W, C]``.

    ``train`` is a bool. ``progress`` is a float32 scalar in 0..1 for schedules inside a unit: the
    finished fraction of training, or the unit's own part of it (see ``unit_progress``). The
    attributes of a unit are its options. Each is set from the config's ``model`` field of its name.
    """

    # The number of convolutions in a row that the unit replaces; a block of a backbone has two. 0
    # stands for all convolutions of a body; their number is then set as the attribute ``length``.
    convolutions: ClassVar[int] = 1

    @property
    def feature_maps(self) -> int:
        """The most feature maps that a network of such units holds in memory at inference.

        XLA reports for its programs: 3 without attention, and with attention on both branches 4 for
        SE, 5 for spatial and 6 for pixel.
        """
        return 6

    def as_branch(self) -> Branch | None:
        """The whole unit as one packed branch; None if it has more parts or is not packed.

        Such units in a row become one native call: see ``binsr_jax.nn.fence.chain``.
        """
        return None

    def as_attended(self) -> Attended | None:
        """The whole unit as a packed branch with attention, likewise; or None."""
        return None


def unit_progress(
    progress: Progress, progressive: str, until: float, index: int, count: int
) -> Progress:
    """The progress of unit ``index`` of ``count`` from floats (0) to signs (1).

    Progressive binarisation is finished at the fraction ``until`` of training.

        "together"   min(1, progress / until): the same for all units
        "in_turn"    clip(count progress / until - index, 0, 1): one unit after the other
        "none"       progress: the units are binary throughout
    """
    if progressive == "none":
        return progress
    done = progress / until
    return jnp.clip(done * count - index if progressive == "in_turn" else done, 0.0, 1.0)


class BinaryUnit(Unit):
    """The common part of units with one binary convolution."""

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
        """``bconv(RSign(x))`` by the submodules "rsign" and "conv".

        Progressive binarisation applies only in training. Networks are validated and packed with
        signs.

        Args:
            x: ``[B, H, W, C]``.
            train: As for the unit.
            progress: As for the unit.
            learnable: Whether the sign has thresholds.
            surrogate: The sign's surrogate, if it is not the unit's attribute.
            options: Attributes of ``BinaryConv``.
        """
        signs = RSign(surrogate or self.surrogate, learnable, name="rsign")
        conv = self.conv(x.shape[-1], **options, name="conv")
        blend = self._blends(train)
        return conv(signs(x, progress, blend), signs=not blend, train=train, progress=progress)

    def _packed_branch(self, residual: Residual, factor: jax.Array | float = 1.0) -> Branch | None:
        """The branch of ``_branch`` with a residual; None if its convolution is not packed."""
        if not is_packed(self.conv) or self.is_initializing():
            return None
        return branch_of(self.variables["params"], factor, residual)

    def _branch(
        self, x: jax.Array, train: bool, progress: Progress, skip: bool = False
    ) -> jax.Array:
        """``RPReLU(bconv(RSign(x)))`` by the submodules of ``_parts``; ``+ x`` with ``skip``."""
        return binary_branch(x, *self._parts(x), train, progress, self._blends(train), skip)

    def _parts(self, x: jax.Array) -> tuple[RSign, nn.Module, RPReLU]:
        """The submodules "rsign", "conv" and "rprelu" of a branch."""
        rsign = RSign(self.surrogate, name="rsign")
        return rsign, self.conv(x.shape[-1], name="conv"), RPReLU(name="rprelu")

    def _blends(self, train: bool) -> bool:
        return train and self.progressive != "none"
