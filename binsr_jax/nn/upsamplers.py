"""The upsamplers of the super-resolution networks, float and binary."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from binsr_jax.nn.binary import (
    FOLDED,
    BinaryConv,
    RPReLU,
    RSign,
    binary_branch,
    branch_of,
    is_packed,
)
from binsr_jax.nn.conv import Conv
from binsr_jax.nn.fence import call_apart
from binsr_jax.ops.binarize import Progress
from binsr_jax.ops.branch import Branch, PlainResidual, can_upsample, packed_upsample
from binsr_jax.ops.upsampling import pixel_shuffle, upsample_nearest


class Upsampler(nn.Module):
    """The float upsampler: ``y = shuffle(conv(x))``, ``[B, H, W, C] -> [B, rH, rW, C]``.

    The convolution has ``C r^2`` output channels; r is ``scale``.
    """

    scale: int
    float_conv: Callable[..., nn.Module] = Conv

    @nn.compact
    def __call__(self, x: jax.Array, progress: Progress = 0.0) -> jax.Array:
        y = self.float_conv(x.shape[-1] * self.scale**2, name="conv")(x)
        return pixel_shuffle(y, self.scale)


class BinaryUpsampler(nn.Module):
    """The binary upsampler of BBCU: ``y = shuffle(RPReLU(bconv(RSign(x)))) + nearest(x)``.

    ``[B, H, W, C] -> [B, rH, rW, C]``, r is ``scale``. RPReLU acts on the ``C r^2`` channels before
    the shuffle.
    """

    scale: int
    surrogate: str = "parabola"
    conv: Callable[..., nn.Module] = BinaryConv

    @nn.compact
    def __call__(self, x: jax.Array, progress: Progress = 0.0) -> jax.Array:
        if self.is_mutable_collection(FOLDED) and not self.is_initializing():
            # Folded parameters keep the order of channels of the parameters.
            y = pixel_shuffle(self._branch(x, progress, 1, False), self.scale)
            return y + upsample_nearest(x, self.scale)
        # The parameters are stored in the channel order of ``pixel_shuffle`` and used in that of
        # ``depth_to_space``, which moves whole runs of channels and is faster on CPU.
        branch = nn.map_variables(
            BinaryUpsampler._branch,
            "params",
            partial(self._reordered, split=(-1, self.scale**2)),
            partial(self._reordered, split=(self.scale**2, -1)),
            init=self.is_initializing(),
        )
        return branch(self, x, progress, self.scale, True)

    def as_branch(self) -> Branch | None:
        """The upsampler as one packed branch, before its shuffle; None if it is not packed."""
        if not is_packed(self.conv) or self.is_initializing():
            return None
        variables = self._reordered(self.variables, split=(-1, self.scale**2))
        return branch_of(variables["params"], residual=PlainResidual(jnp.ones(())))

    def _branch(self, x: jax.Array, progress: Progress, shuffle: int, skip: bool) -> jax.Array:
        rsign = RSign(self.surrogate, name="rsign")
        conv = self.conv(x.shape[-1] * self.scale**2, name="conv")
        rprelu = RPReLU(name="rprelu")
        return binary_branch(x, rsign, conv, rprelu, progress=progress, skip=skip, shuffle=shuffle)

    def _reordered(self, variables: Mapping[str, Any], split: tuple[int, int]) -> dict[str, Any]:
        """The variables with the ``C r^2`` output channels transposed, as a matrix of ``split``."""
        params = variables.get("params", {})
        outputs = {name: params[name] for name in ("conv", "rprelu") if name in params}
        # In a function of its own: otherwise XLA fuses the lookups into the innermost loop.
        outputs = call_apart(partial(_transpose_channels, split=split), outputs)
        return {**variables, "params": {**params, **outputs}}


def native_upsampling(
    upsampler: nn.Module, tail: nn.Module, features: jax.Array
) -> Callable[[jax.Array], jax.Array] | None:
    """``tail(upsampler(x))`` as a function with one native call; None if there is no such call.

    The upsampled features, several times as large as x, are never in memory as a whole.

    Args:
        upsampler: The last one.
        tail: The convolution that follows.
        features: Of the type and channels of x; their sides may differ.
    """
    if not isinstance(upsampler, BinaryUpsampler):
        return None
    branch, params = upsampler.as_branch(), tail.variables.get("params", {})
    if branch is None or not isinstance(tail, Conv):
        return None
    if not can_upsample(features, branch, params["kernel"], upsampler.scale):
        return None

    def call(x: jax.Array) -> jax.Array:
        y = packed_upsample(x, branch, params["kernel"], upsampler.scale)
        return y + params["bias"] if "bias" in params else y

    return call


@partial(jax.jit, static_argnames="split")
def _transpose_channels(params: Any, split: tuple[int, int]) -> Any:
    def transpose(p: jax.Array) -> jax.Array:
        return p.reshape(*p.shape[:-1], *split).swapaxes(-1, -2).reshape(p.shape)

    return jax.tree.map(transpose, params)
