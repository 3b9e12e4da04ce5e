"""A whole binary branch on packed weights as one function, and a chain of units of one branch each.

Native code (``ops.native``), where it is available, computes a branch in one pass over the features
and a chain in one call. Its results equal those of XLA's form, apart from the rounding of
``bias - shift_in``.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from binsr_jax.ops.activation import rprelu
from binsr_jax.ops.native import call, choose
from binsr_jax.ops.packed import pack_signs, packed_conv, word_count
from binsr_jax.ops.upsampling import depth_to_space, upsample_nearest


class PlainResidual(NamedTuple):
    """The term ``factor x``, which is added to a branch.

    Attributes:
        factor: f32 scalar.
    """

    factor: jax.Array


class SpatialResidual(NamedTuple):
    """The term ``factor sigmoid(weights . x + bias) x`` of spatial attention, added to a branch.

    Attributes:
        factor: f32 scalar.
        bias: f32 scalar.
        weights: f32 ``[C]``.
    """

    factor: jax.Array
    bias: jax.Array
    weights: jax.Array


Residual = PlainResidual | SpatialResidual
_KINDS = {type(None): "none", PlainResidual: "plain", SpatialResidual: "spatial"}


class Branch(NamedTuple):
    """The parameters of a binary branch on packed weights, in a unit or an upsampler.

        y = factor rprelu(weight_scale packed_conv(signs of x - threshold, w) + bias) + residual

    BBCU, figure 1.

    Attributes:
        threshold: f32 ``[C]``.
        w_bits: uint32 ``[kh, kw, words, O]`` from ``ops.packed.pack_weights``, odd sides.
        weight_scale: f32 ``[O]``.
        bias: f32 ``[O]``.
        shift_in: f32 ``[O]``, as are ``slope`` and ``shift_out``; see ``ops.activation.rprelu``.
        slope: f32 ``[O]``.
        shift_out: f32 ``[O]``.
        factor: A scalar.
        residual: The residual term, or None.
    """

    threshold: jax.Array
    w_bits: jax.Array
    weight_scale: jax.Array
    bias: jax.Array
    shift_in: jax.Array
    slope: jax.Array
    shift_out: jax.Array
    factor: jax.Array | float = 1.0
    residual: Residual | None = None


def packed_branch(x: jax.Array, branch: Branch, shuffle: int = 1) -> jax.Array:
    """The output of a branch, followed by a pixel shuffle in the order of ``depth_to_space``.

    The residual is upsampled by nearest neighbours and added after the shuffle.

    Args:
        x: f32 ``[B, H, W, C]``.
        branch: O is a multiple of r^2, and ``C r^2`` with a residual.
        shuffle: The factor r of the pixel shuffle.

    Returns:
        f32 ``[B, r H, r W, O / r^2]``.

    Raises:
        ValueError: The arrays do not fit each other or ``shuffle``.
        TypeError: ``w_bits`` is not uint32, in the form of XLA.
    """
    _check(x, branch, shuffle)
    form = choose.form_for_packed(x, branch.w_bits)
    if form == "xla":
        return _by_xla(x, branch, shuffle)

    def natively(x: jax.Array, branch: Branch) -> jax.Array:
        kind = _KINDS[type(branch.residual)]
        arrays = (branch.threshold, branch.w_bits, epilogue_of(branch), _numbers(branch.residual))
        return call.packed_branch(x, *arrays, kind, shuffle, form)

    by_xla = partial(_by_xla, shuffle=shuffle)
    return lax.platform_dependent(x, branch, cpu=natively, default=by_xla)


def can_chain(x: jax.Array, branches: Sequence[Branch]) -> bool:
    """Whether ``packed_chain`` takes these branches: it needs native code and equal shapes."""
    first = branches[0]
    return (
        jax.default_backend() == "cpu"
        and x.dtype == jnp.float32
        and first.residual is not None
        and all(jax.tree.structure(b) == jax.tree.structure(first) for b in branches)
        and all(b.w_bits.shape == first.w_bits.shape for b in branches)
        and first.w_bits.shape[-1] == x.shape[-1]
        and choose.form_for_packed(x, first.w_bits) != "xla"
    )


def packed_chain(x: jax.Array, branches: Sequence[Branch], skip: bool = False) -> jax.Array:
    """The output of a chain of units, each of one branch, by one native call.

    It equals ``packed_branch`` applied branch by branch, to the last bit.

    Args:
        x: f32 ``[B, H, W, C]``.
        branches: The units' branches, for which ``can_chain`` holds.
        skip: Whether x is added at the end.

    Returns:
        f32 ``[B, H, W, C]``.

    Raises:
        ValueError: See ``packed_branch``.
    """
    for branch in branches:
        _check(x, branch, 1)
    kind = _KINDS[type(branches[0].residual)]
    form = choose.form_for_packed(x, branches[0].w_bits)
    arrays = (
        jnp.stack([b.threshold for b in branches]),
        jnp.stack([b.w_bits for b in branches]),
        jnp.stack([epilogue_of(b) for b in branches]),
        jnp.stack([_numbers(b.residual) for b in branches]),
    )
    return call.packed_chain(x, *arrays, kind, skip, form)


def can_upsample(x: jax.Array, branch: Branch, tail: jax.Array, shuffle: int) -> bool:
    """Whether ``packed_upsample`` takes these: it needs native code and at most 3 outputs."""
    features = branch.w_bits.shape[-1] // shuffle**2
    large = jax.ShapeDtypeStruct((*x.shape[:3], features), x.dtype)
    form = choose.form_for_packed(x, branch.w_bits)
    return (
        jax.default_backend() == "cpu"
        and form != "xla"
        and tail.shape[-1] <= 3
        and choose.form_for_conv(large, tail) == form
        and jax.config.values["jax_default_matmul_precision"] != "bfloat16"
    )


def packed_upsample(x: jax.Array, branch: Branch, tail: jax.Array, shuffle: int) -> jax.Array:
    """``conv2d(packed_branch(x, branch, shuffle), tail)``, fused, to the last bit.

    The upsampled features are never in memory as a whole.

    Args:
        x: f32 ``[B, H, W, C]``.
        branch: See ``packed_branch``.
        tail: f32 ``[kh, kw, O / r^2, outputs]``, for which ``can_upsample`` holds.
        shuffle: The factor r of the pixel shuffle.

    Returns:
        f32 ``[B, r H, r W, outputs]``.

    Raises:
        ValueError: See ``packed_branch``.
    """
    _check(x, branch, shuffle)
    kind = _KINDS[type(branch.residual)]
    form = choose.form_for_packed(x, branch.w_bits)
    arrays = (branch.threshold, branch.w_bits, epilogue_of(branch), _numbers(branch.residual), tail)
    return call.packed_upsample(x, *arrays, kind, shuffle, form)


def add_residual(y: jax.Array, x: jax.Array, residual: Residual | None, shuffle: int) -> jax.Array:
    """``y`` plus the upsampled residual: ``[B, r H, r W, C], [B, H, W, C] -> [B, r H, r W, C]``."""
    if residual is None:
        return y
    gain = residual.factor
    if isinstance(residual, SpatialResidual):
        gain *= jax.nn.sigmoid(x @ residual.weights[:, None] + residual.bias)
    return y + upsample_nearest(gain * x, shuffle)


def _by_xla(x: jax.Array, branch: Branch, shuffle: int) -> jax.Array:
    dot = packed_conv(pack_signs(x > branch.threshold), branch.w_bits, x.shape[-1])
    z = dot.astype(jnp.float32) * branch.weight_scale + branch.bias
    y = depth_to_space(rprelu(z, branch.shift_in, branch.slope, branch.shift_out), shuffle)
    return add_residual(branch.factor * y, x, branch.residual, shuffle)


def epilogue_of(branch: Branch) -> jax.Array:
    """The epilogue's numbers, f32 ``[5, O]``: see ``native.call``."""
    factors = jnp.broadcast_to(branch.factor, branch.weight_scale.shape)
    shift_in = branch.bias - branch.shift_in
    return jnp.stack([branch.weight_scale, shift_in, branch.slope, branch.shift_out, factors])


def _numbers(residual: Residual | None) -> jax.Array:
    """All numbers of a residual in one array, f32 ``[n]``."""
    if residual is None:
        return jnp.zeros((0,), jnp.float32)
    return jnp.concatenate([jnp.atleast_1d(numbers) for numbers in residual])


def _check(x: jax.Array, branch: Branch, shuffle: int) -> None:
    if x.ndim != 4 or x.shape[-1] == 0 or x.dtype != jnp.float32:
        raise ValueError(
            f"packed_branch: x must be float32 [B, H, W, C] with channels, got {x.dtype} {x.shape}"
        )
    channels, w_bits = x.shape[-1], branch.w_bits
    if w_bits.ndim != 4 or w_bits.shape[2] != word_count(channels):
        raise ValueError(
            f"packed_branch: w_bits {w_bits.shape} must be [kh, kw, {word_count(channels)}, O] for "
            f"{channels} channels"
        )
    outputs = w_bits.shape[-1]
    if shuffle < 1 or outputs % shuffle**2:
        raise ValueError(f"packed_branch: {outputs} outputs do not fit shuffle {shuffle}")
    if branch.residual is not None and outputs != channels * shuffle**2:
        raise ValueError(
            f"packed_branch: {outputs} outputs do not fit a residual of {channels} channels and "
            f"shuffle {shuffle}"
        )
    expected: dict[str, Any] = {"threshold": (channels,), "factor": ()}
    expected |= dict.fromkeys(
        ("weight_scale", "bias", "shift_in", "slope", "shift_out"), (outputs,)
    )
    given = {name: jnp.shape(getattr(branch, name)) for name in expected}
    if isinstance(branch.residual, tuple):
        expected |= {"residual.factor": (), "residual.bias": (), "residual.weights": (channels,)}
        given |= {f"residual.{k}": jnp.shape(v) for k, v in branch.residual._asdict().items()}
    for name, shape in given.items():
        if shape != expected[name]:
            raise ValueError(f"packed_branch: {name} has shape {shape} and needs {expected[name]}")
