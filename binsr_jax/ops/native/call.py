"""Calls the native kernels as XLA foreign calls on CPU."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from binsr_jax.ops.native import choose


def _by_batch(rule: str, operands: int) -> Callable[..., Any]:
    """A decorator for a foreign call: each device computes its part of the batch.

    Args:
        rule: The axes of operands and results; "b" is the batch, which comes first.
        operands: The number of array arguments, which come first; the rest is static.
    """

    def decorate(f: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        def partition(*arguments: Any):
            *static, mesh, _, results = arguments
            first = jax.tree.leaves(results)[0]
            batch = NamedSharding(mesh, PartitionSpec(*first.sharding.spec[:1]))
            whole = NamedSharding(mesh, PartitionSpec())
            places = tuple(batch if axes.split()[0] == "b" else whole for axes in axes_of_operands)
            made = jax.tree.map(lambda _: batch, results)
            return mesh, lambda *arrays: f(*arrays, *static), made, places

        axes_of_operands = rule.split("->")[0].split(",")
        signature = inspect.signature(f)
        count = len(signature.parameters)
        call = custom_partitioning(f, static_argnums=tuple(range(operands, count)))
        axes = dict.fromkeys(rule.replace(",", " ").replace("->", " ").split())
        call.def_partition(
            partition=partition,
            sharding_rule=rule,
            need_replication_factors=tuple(axis for axis in axes if axis != "b"),
        )

        @functools.wraps(f)
        def one_by_one(*args: Any, **kwargs: Any) -> jax.Array:
            # Under ``jax.vmap`` the call is repeated in a loop.
            arguments = signature.bind(*args, **kwargs).args
            arrays, static = arguments[:operands], arguments[operands:]
            each = jax.custom_batching.custom_vmap(lambda *arrays: call(*arrays, *static))

            @each.def_vmap
            def _(size: int, mapped: Sequence[bool], *arrays: jax.Array):
                whole = [
                    a if m else jnp.broadcast_to(a, (size, *a.shape))
                    for a, m in zip(arrays, mapped, strict=True)
                ]
                results = lax.map(lambda one: call(*one, *static), tuple(whole))
                return results, jax.tree.map(lambda _: True, results)

            return each(*arrays)

        return one_by_one

    return decorate


def _handler(name: str, form: str, result: Any) -> Callable[..., Any]:
    """The foreign call of a kernel in a form of ``choose.forms``."""
    choose.load(form)
    return jax.ffi.ffi_call(f"binsr_{form}_{name}", result)


@_by_batch("b h w c, i j c o -> b h w o", operands=2)
def packed_conv(x_bits: jax.Array, w_bits: jax.Array, in_channels: int, form: str) -> jax.Array:
    """``ops.packed.packed_conv`` in a native form; the same values as int16."""
    y = jax.ShapeDtypeStruct((*x_bits.shape[:3], w_bits.shape[3]), jnp.int16)
    call = _handler("packed_conv", form, y)
    return call(x_bits, w_bits, channels=np.int64(in_channels))


@_by_batch("b h w c, c, i j k o, e o, r -> b y x f", operands=5)
def packed_branch(
    x: jax.Array,
    threshold: jax.Array,
    w_bits: jax.Array,
    epilogue: jax.Array,
    residual: jax.Array,
    kind: str,
    shuffle: int,
    form: str,
) -> jax.Array:
    """``ops.branch.packed_branch`` in a native form; equal except for rounding.

    Args:
        x: See ``ops.branch.packed_branch``.
        threshold: See ``ops.branch.Branch``.
        w_bits: See ``ops.branch.Branch``.
        epilogue: f32 ``[5, O]``: scale, shift after the scale, slope, shift after the slope,
            factor.
        residual: The numbers of the residual, f32 ``[n]``.
        kind: The kind of residual: "none", "plain" or "spatial".
        shuffle: See ``ops.branch.packed_branch``.
        form: One of ``choose.forms``.
    """
    batch, height, width, _ = x.shape
    shape = (batch, height * shuffle, width * shuffle, w_bits.shape[3] // shuffle**2)
    y = jax.ShapeDtypeStruct(shape, jnp.float32)
    call = _handler("packed_branch", form, y)
    return call(x, threshold, w_bits, epilogue, residual, kind=kind, shuffle=np.int64(shuffle))


@_by_batch("b h w c, c, i j k o, e o, r, m n f d -> b y x d", operands=6)
def packed_upsample(
    x: jax.Array,
    threshold: jax.Array,
    w_bits: jax.Array,
    epilogue: jax.Array,
    residual: jax.Array,
    tail: jax.Array,
    kind: str,
    shuffle: int,
    form: str,
) -> jax.Array:
    """``conv`` to few outputs after ``packed_branch``, fused: ``[B, r H, r W, outputs]``.

    It equals the two calls to the last bit.
    """
    batch, height, width, _ = x.shape
    shape = (batch, height * shuffle, width * shuffle, tail.shape[3])
    y = jax.ShapeDtypeStruct(shape, jnp.float32)
    call = _handler("packed_upsample", form, y)
    arrays = (x, threshold, w_bits, epilogue, residual, tail)
    return call(*arrays, kind=kind, shuffle=np.int64(shuffle))


@_by_batch("b h w c, u c, u i j k c, u e c, u r -> b h w c", operands=5)
def packed_chain(
    x: jax.Array,
    threshold: jax.Array,
    w_bits: jax.Array,
    epilogue: jax.Array,
    residual: jax.Array,
    kind: str,
    skip: bool,
    form: str,
) -> jax.Array:
    """``ops.branch.packed_chain`` in a native form, equal to ``packed_branch`` calls."""
    y = jax.ShapeDtypeStruct(x.shape, jnp.float32)
    call = _handler("packed_chain", form, y)
    return call(x, threshold, w_bits, epilogue, residual, kind=kind, skip=skip)


@_by_batch("b h w c, u c, u i j k c, u e c, u n, u r, b v m c -> b h w c, b u m c", operands=7)
def packed_attended(
    x: jax.Array,
    threshold: jax.Array,
    w_bits: jax.Array,
    epilogue: jax.Array,
    binary: jax.Array,
    residual: jax.Array,
    means: jax.Array,
    kinds: tuple[str, str],
    skip: bool,
    form: str,
) -> tuple[jax.Array, jax.Array]:
    """``ops.attended.attended_chain`` in a native form: the features, and the means that it took.

    Args:
        x: f32 ``[B, H, W, C]``.
        threshold: f32 ``[units, C]``, as are the arrays below those of ``packed_branch`` for units.
        w_bits: uint32 ``[units, kh, kw, words, C]``.
        epilogue: f32 ``[units, 5, C]``.
        binary: The numbers of the attentions on the binary branches, f32 ``[units, n]``.
        residual: The factors of the residuals, and the numbers of their attentions.
        means: f32 ``[B, units, m, C]`` for the m attentions of ``kinds`` that take means over an
            image, or ``[B, 0, m, C]`` to compute them.
        kinds: The attentions of the binary and of the residual branches.
        skip: See ``ops.attended.attended_chain``.
        form: One of ``choose.forms``.
    """
    units, count = len(threshold), means.shape[2]
    shape = (x.shape[0], units, count, x.shape[3])
    results = jax.ShapeDtypeStruct(x.shape, jnp.float32), jax.ShapeDtypeStruct(shape, jnp.float32)
    call = _handler("packed_attended", form, results)
    arrays = (x, threshold, w_bits, epilogue, binary, residual, means)
    return tuple(call(*arrays, binary=kinds[0], residual=kinds[1], skip=skip))


@_by_batch("b h w c, i j c o -> b h w o", operands=2)
def conv(x: jax.Array, kernel: jax.Array, form: str, factors: str = "float32") -> jax.Array:
    """``ops.conv.conv2d`` in a native form.

    Args:
        x: f32 ``[B, H, W, I]``.
        kernel: f32 ``[kh, kw, I, O]``. With float32 factors, O is a multiple of 16, or at most 3
            with I a multiple of 8. With bfloat16 factors, I and O are multiples of 32.
        form: One of ``choose.forms``; for bfloat16 factors ``choose.has_amx`` holds.
        factors: What the factors of all products are rounded to, "float32" or "bfloat16".
    """
    y = jax.ShapeDtypeStruct((*x.shape[:3], kernel.shape[3]), jnp.float32)
    handler = {"float32": "float_conv", "bfloat16": "bf16_conv"}[factors]
    return _handler(handler, form, y)(x, kernel)


def conv_gradient(
    x: jax.Array, kernel: jax.Array, dy: jax.Array, form: str, factors: str = "float32"
) -> tuple[jax.Array, jax.Array]:
    """The gradients of ``ops.conv.conv2d`` with respect to x and kernel.

    The kernel's gradient is summed over each image, and then over the images. ``factors`` is as
    for ``conv``.
    """
    kh, kw, _, _ = kernel.shape
    dx = conv(dy, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), form, factors)
    images = _kernel_gradients(x, dy, kh, kw, form, factors).reshape(len(x), -1)
    # As a matrix product, because XLA's sum over the first axis is slow.
    total = jnp.matmul(jnp.ones(len(x)), images, precision="highest")
    return dx, total.reshape(kernel.shape)


@_by_batch("b h w c, b h w o -> b i j c o", operands=2)
def _kernel_gradients(
    x: jax.Array, dy: jax.Array, kh: int, kw: int, form: str, factors: str
) -> jax.Array:
    """The kernel's gradient of each image: ``[B, H, W, I], [B, H, W, O] -> [B, kh, kw, I, O]``."""
    y = jax.ShapeDtypeStruct((x.shape[0], kh, kw, x.shape[3], dy.shape[3]), jnp.float32)
    handler = {"float32": "kernel_gradients", "bfloat16": "bf16_kernel_gradients"}[factors]
    return _handler(handler, form, y)(x, dy)
