"""The fence around a unit: a chain of units costs as much as its units one by one.

On CPU, XLA's fusion recomputes the producers of a residual sum in every following unit, so the time
of a chain grows with the square of its depth. Fusion stops at a function that is not inlined.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.xla_metadata import set_xla_metadata

from binsr_jax.nn.attention import POOLED
from binsr_jax.nn.binary import FOLDED
from binsr_jax.ops.attended import Attended, attended_chain, can_chain_attended
from binsr_jax.ops.branch import Branch, can_chain, packed_chain

UNIT_INPUT = "unit_input"  # the name of a unit's input for ``jax.checkpoint``
KEPT = "kept"  # the collection of values that a unit saves for its gradient: see ``keep``


def chain(
    units: Sequence[nn.Module],
    x: jax.Array,
    train: bool = False,
    progress: Sequence[jax.Array | float] | None = None,
    scan: bool = False,
    skip: bool = False,
) -> jax.Array:
    """Calls units in sequence, each behind its fence: ``unit_n(... unit_1(x))``.

    On CPU, consecutive packed units of one branch each, with arrays of equal shapes, become one
    native call (``ops.branch.packed_chain``), which gives the same bits. So do those with attention
    (``ops.attended``), whose floats it rounds differently.

    Args:
        units: Made inside the calling module, see ``fence``.
        x: ``[B, H, W, C]``.
        train: Whether they are trained.
        progress: One value per unit; 0 if left out.
        scan: Whether consecutive equal units run as one ``lax.scan``, over a stack of their
            variables. The program then holds a unit once for any depth, so it compiles faster, but
            loops are slow on CPU. The variables themselves keep their form.
        skip: Whether x is added at the end.
    """
    if (y := _natively(units, x, skip)) is not None:
        return y
    progress = [0.0] * len(units) if progress is None else progress
    pairs = zip(units, progress, strict=True)
    start = x
    for _, run in groupby(pairs, lambda pair: (_placeless(pair[0]), _shapes(pair[0]))):
        alike, own = zip(*run, strict=True)
        if (y := _natively(alike, x)) is not None:
            x = y
        elif scan and len(alike) > 1 and not alike[0].is_initializing():
            x = _scanned(alike, x, train, own)
        else:
            for unit, p in zip(alike, own, strict=True):
                x = fence(unit)(x, train, p)
    return x + start if skip else x


def _natively(units: Sequence[nn.Module], x: jax.Array, skip: bool = False) -> jax.Array | None:
    """The output of packed units by one native call; None if they do not fit into one."""
    if not units or any(units[0].is_mutable_collection(name) for name in ("intermediates", FOLDED)):
        return None  # the caller captures intermediates inside the units
    branches: list[Branch] = _all(units, "as_branch")
    if branches and can_chain(x, branches):
        return packed_chain(x, branches, skip)
    attended: list[Attended] = _all(units, "as_attended")
    if not attended or not can_chain_attended(x, attended):
        return None
    y, means = attended_chain(x, attended, _given(units, attended[0]), skip)
    if any(attended[0].pooling) and units[0].is_mutable_collection(POOLED):
        for i, unit in enumerate(units):
            own = zip(_pooling(attended[0]), jnp.moveaxis(means[:, i], 1, 0), strict=True)
            _put(unit, {POOLED: {name: {"mean": mean[:, None, None]} for name, mean in own}})
    return y


def _all(units: Sequence[nn.Module], method: str) -> list[Any]:
    """What a method returns for each unit; empty if one has no such method or returns None."""
    known = [form for unit in units if (form := getattr(unit, method, lambda: None)()) is not None]
    return known if len(known) == len(units) else []


def _pooling(unit: Attended) -> list[str]:
    """The modules of a unit that take means over an image."""
    names = ("binary_attention", "residual_attention")
    return [name for name, pools in zip(names, unit.pooling, strict=True) if pools]


def _given(units: Sequence[nn.Module], first: Attended) -> jax.Array | None:
    """The means that the caller gives, ``[B, units, m, C]``; None if it gives none."""
    pooled = [unit.variables.get(POOLED) for unit in units]
    given = [own for own in pooled if own]
    if not any(first.pooling) or len(given) < len(units):
        return None
    means = [[own[name]["mean"][:, 0, 0] for name in _pooling(first)] for own in given]
    return jnp.stack([jnp.stack(own, 1) for own in means], 1)


def fence(unit: nn.Module) -> Callable[..., jax.Array]:
    """Wraps a unit in its own function, forward and backward.

    ``fence(unit)(x, train, progress)`` equals ``unit(x, train, progress)`` in value, gradient,
    parameters and updates of mutable collections; see ``binsr_jax.nn.units.base`` for the contract
    of a unit. Equal units of one shape are compiled once. The gradient recomputes the unit's
    forward pass from its saved input and from the values that it passes to ``keep``. On other
    backends than CPU the function is inlined.

    Args:
        unit: A unit made inside the calling module. It draws no random numbers, and its variables
            are floating point.
    """

    def call(x: jax.Array, train: bool = False, progress: jax.Array | float = 0.0) -> jax.Array:
        if unit.is_initializing():
            return unit(x, train, progress)
        y, updates = _call(unit, train, dict(unit.variables), x, progress)
        _put(unit, updates)
        return y

    return call


def keep(unit: nn.Module, name: str, value: jax.Array) -> jax.Array:
    """Returns ``value``, which the gradient of a fenced unit reads instead of recomputing it.

    It is worth the memory if ``value`` is expensive. A mutable collection ``KEPT`` stores the
    value. If the collection already has it, the stored value is returned instead; the computation
    of ``value`` is then unused, and XLA removes it.
    """
    if unit.has_variable(KEPT, name):
        return _instead(value, unit.get_variable(KEPT, name))
    if unit.is_mutable_collection(KEPT) and not unit.is_initializing():
        unit.put_variable(KEPT, name, value)
    return value


@jax.custom_vjp
def _instead(computed: jax.Array, kept: jax.Array) -> jax.Array:
    """``kept``, with the gradient of ``computed``, which has the same value."""
    del computed
    return kept


def _instead_forward(computed: jax.Array, kept: jax.Array):
    return _instead(computed, kept), None


def _instead_backward(saved: None, gradient: jax.Array):
    del saved
    return gradient, None


_instead.defvjp(_instead_forward, _instead_backward)


def _scanned(
    units: Sequence[nn.Module], x: jax.Array, train: bool, progress: Sequence[jax.Array | float]
) -> jax.Array:
    """``chain`` of equal units, as one loop."""

    def body(x: jax.Array, inputs: Any) -> tuple[jax.Array, Any]:
        return _call(units[0], train, inputs[0], x, inputs[1])

    variables = [dict(unit.variables) for unit in units]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *variables)
    own = jnp.stack([jnp.asarray(p, jnp.float32) for p in progress])
    y, updates = lax.scan(body, x, (stacked, own))
    for i, unit in enumerate(units):
        _put(unit, jax.tree.map(lambda leaf, i=i: leaf[i], updates))
    return y


def _call(unit: nn.Module, train: bool, variables: Any, x: jax.Array, progress: Any) -> Any:
    """``y, updates`` of a unit with these variables."""
    collections = sorted({"intermediates", POOLED, FOLDED, *variables})
    mutable = tuple(name for name in collections if unit.is_mutable_collection(name))
    inputs = variables, checkpoint_name(x, UNIT_INPUT), jnp.asarray(progress, jnp.float32)
    return cast(tuple[jax.Array, Any], _fenced(_placeless(unit), train, mutable, *inputs))


def _placeless(unit: nn.Module) -> nn.Module:
    """The unit without its name and parent, so that equal units share one function."""
    return unit.clone(parent=None, name=None)


def _shapes(unit: nn.Module) -> Any:
    return jax.tree.map(jnp.shape, dict(unit.variables))


def _put(unit: nn.Module, updates: Any) -> None:
    for collection, values in updates.items():
        for name, value in values.items():
            unit.put_variable(collection, name, value)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _fenced(unit: nn.Module, train: bool, mutable: tuple[str, ...], *inputs: Any) -> Any:
    return call_apart(partial(_forward, unit, train, mutable), *inputs)


def _fenced_forward(unit: nn.Module, train: bool, mutable: tuple[str, ...], *inputs: Any):
    y, updates = call_apart(partial(_forward, unit, train, (*mutable, KEPT)), *inputs)
    updates = dict(updates)
    kept = updates.pop(KEPT, {})
    return (y, updates), (inputs, kept)


def _fenced_backward(unit: nn.Module, train: bool, mutable: tuple[str, ...], saved, gradients):
    return call_apart(partial(_backward, unit, train, mutable), *saved, gradients)


_fenced.defvjp(_fenced_forward, _fenced_backward)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _forward(unit: nn.Module, train: bool, mutable: tuple[str, ...], variables, x, progress):
    with set_xla_metadata(inlineable=None):  # the functions inside are inlined again
        return unit.apply(variables, x, train, progress, mutable=mutable)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _backward(unit: nn.Module, train: bool, mutable: tuple[str, ...], inputs, kept, gradients):
    def forward(variables: Any, x: jax.Array, progress: jax.Array):
        return _forward(unit, train, mutable, {**variables, KEPT: kept}, x, progress)

    with set_xla_metadata(inlineable=None):  # the functions inside are inlined again
        _, pullback = jax.vjp(forward, *inputs)
        return pullback(gradients)


def call_apart(f: Callable[..., Any], *inputs: Any) -> Any:
    """Calls a jitted function; on CPU it is not inlined."""

    def not_inlined(*inputs: Any):
        with set_xla_metadata(inlineable="false"):
            return f(*inputs)

    return lax.platform_dependent(*inputs, cpu=not_inlined, default=f)
