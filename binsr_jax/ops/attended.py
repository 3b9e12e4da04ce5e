"""A chain of binary units with attention on their branches, by one native call.

    y = factor A(z) + residual_factor B(x),   z the activation of the binary branch

A and B multiply by the maps of ``nn.attention``. Without native code the modules there compute the
same, apart from the order of sums and the rounding of exponentials.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from binsr_jax.ops.branch import Branch, PlainResidual, epilogue_of
from binsr_jax.ops.native import call, choose

# The arrays of an attention in their order, by its kind; the kernel has them in one array. A kind
# that is not here has no native form.
ARRAYS = {
    "none": (),
    "spatial": ("map/bias", "map/kernel"),
    "pixel": ("map/bias", "map/kernel"),
    "global": ("map/bias", "map/kernel"),
    "se": ("reduce/bias", "reduce/kernel", "expand/bias", "expand/kernel"),
}
POOLING = ("global", "se")  # the kinds that take means over an image


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["branch", "binary", "residual"],
    meta_fields=["kinds"],
)
@dataclass(frozen=True)
class Attended:
    """A binary unit with attention.

    Attributes:
        branch: The binary branch with its factor, and the factor of the residual.
        binary: The numbers of the attention on the binary branch, in the order of ``ARRAYS``.
        residual: Those of the attention on the residual.
        kinds: The kinds of both attentions: keys of ``ARRAYS``.
    """

    branch: Branch
    binary: Sequence[jax.Array]
    residual: Sequence[jax.Array]
    kinds: tuple[str, str]

    @property
    def pooling(self) -> tuple[bool, bool]:
        """Whether the attention of each branch takes means over an image."""
        binary, residual = self.kinds
        return binary in POOLING, residual in POOLING


def can_chain_attended(x: jax.Array, units: Sequence[Attended]) -> bool:
    """Whether ``attended_chain`` takes these units: it needs native code and equal shapes."""
    first = units[0]
    shapes = [jax.tree.map(jnp.shape, unit) for unit in units]
    return (
        jax.default_backend() == "cpu"
        and x.dtype == jnp.float32
        and all(own == shapes[0] for own in shapes)
        and first.branch.w_bits.shape[-1] == x.shape[-1]
        and choose.form_for_packed(x, first.branch.w_bits) != "xla"
    )


def attended_chain(
    x: jax.Array,
    units: Sequence[Attended],
    means: jax.Array | None = None,
    skip: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """The output of units with attention, and the means over the image that they took.

    A pixel has the same bits in every tile, if the means are given.

    Args:
        x: f32 ``[B, H, W, C]``.
        units: For which ``can_chain_attended`` holds.
        means: What an earlier call returned, or None to compute them.
        skip: Whether x is added at the end.

    Returns:
        f32 ``[B, H, W, C]``; f32 ``[B, units, m, C]`` for the m attentions in ``kinds`` that take
        means, the one on the binary branch first.
    """
    first = units[0]
    form = choose.form_for_packed(x, first.branch.w_bits)
    if means is None:
        means = jnp.zeros((x.shape[0], 0, sum(first.pooling), x.shape[-1]))
    arrays = (
        jnp.stack([unit.branch.threshold for unit in units]),
        jnp.stack([unit.branch.w_bits for unit in units]),
        jnp.stack([epilogue_of(unit.branch) for unit in units]),
        jnp.stack([_flat(unit.binary) for unit in units]),
        jnp.stack([_flat([_factor(unit.branch), *unit.residual]) for unit in units]),
    )
    return call.packed_attended(x, *arrays, means, first.kinds, skip, form)


def _factor(branch: Branch) -> jax.Array:
    assert isinstance(branch.residual, PlainResidual)
    return branch.residual.factor


def _flat(arrays: Sequence[jax.Array]) -> jax.Array:
    return jnp.concatenate([jnp.zeros((0,), jnp.float32), *(jnp.ravel(a) for a in arrays)])
