"""The fence around a unit: a chain of units costs as much as its units do one by one.

XLA's fusion on CPU computes the producers of a residual sum again in every unit that follows, so
the time of a chain grows with the square of its depth. It stops at a function that is not inlined.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

from binsr_jax.nn.attention import POOLED


def fence(unit: nn.Module) -> Callable[..., jax.Array]:
    """Calls a unit in a function of its own, forward and backward.

    ``fence(unit)(x, train, progress)`` equals ``unit(x, train, progress)`` in value, gradient,
    parameters and updates of mutable collections; see ``binsr_jax.nn.units`` for the contract of a
    unit. Equal units of one shape are compiled once. Only the unit's input is kept for the
    gradient, which runs the unit forward again. On other backends than CPU the function is inlined.

    Args:
        unit: a unit made inside the module that calls it. It draws no random numbers, and its
            variables are floating point.
    """

    def call(x: jax.Array, train: bool = False, progress: jax.Array | float = 0.0) -> jax.Array:
        if unit.is_initializing():
            return unit(x, train, progress)
        variables = dict(unit.variables)
        collections = sorted({"intermediates", POOLED, *variables})
        mutable = tuple(name for name in collections if unit.is_mutable_collection(name))
        # Without its place in the network a unit equals its neighbours, and shares their function.
        placeless = unit.clone(parent=None, name=None)
        inputs = variables, x, jnp.asarray(progress, jnp.float32)
        y, updates = cast(tuple[jax.Array, Any], _fenced(placeless, train, mutable, *inputs))
        for collection, values in updates.items():
            for name, value in values.items():
                unit.put_variable(collection, name, value)
        return y

    return call


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _fenced(unit: nn.Module, train: bool, mutable: tuple[str, ...], *inputs: Any) -> Any:
    return call_apart(partial(_forward, unit, train, mutable), *inputs)


def _fenced_forward(unit: nn.Module, train: bool, mutable: tuple[str, ...], *inputs: Any):
    return _fenced(unit, train, mutable, *inputs), inputs


def _fenced_backward(unit: nn.Module, train: bool, mutable: tuple[str, ...], inputs, gradients):
    return call_apart(partial(_backward, unit, train, mutable), inputs, gradients)


_fenced.defvjp(_fenced_forward, _fenced_backward)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _forward(unit: nn.Module, train: bool, mutable: tuple[str, ...], variables, x, progress):
    with set_xla_metadata(inlineable=None):  # the functions inside are inlined again
        return unit.apply(variables, x, train, progress, mutable=mutable)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _backward(unit: nn.Module, train: bool, mutable: tuple[str, ...], inputs, gradients):
    with set_xla_metadata(inlineable=None):  # the functions inside are inlined again
        _, pullback = jax.vjp(partial(_forward, unit, train, mutable), *inputs)
        return pullback(gradients)


def call_apart(f: Callable[..., Any], *inputs: Any) -> Any:
    """Calls a jitted function, on CPU without inlining it."""

    def not_inlined(*inputs: Any):
        with set_xla_metadata(inlineable="false"):
            return f(*inputs)

    return lax.platform_dependent(*inputs, cpu=not_inlined, default=f)
