"""Traces a packed network, and reduces the trace to the steps of a ``deploy.program.Program``."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from binsr_jax.deploy.fusing import fused
from binsr_jax.deploy.program import ELEMENTWISE, ENLARGING, KERNELS, Half, Step
from binsr_jax.ops.native import choose

# The sides of the image for a trace: two primes, so that no size can be confused with another.
_SIDES = (37, 41)
# Operations that call a function, by the parameter that holds its trace.
_CALLS = {
    "jit": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vmap_call": "call",
    "custom_partitioning": "call",
}
# Operations that do not change a value.
_SUMS = ("add", "sub")
# What only moves values, by numpy: XLA would compile each one for each shape.
_MOVES: dict[str, Callable[[Any, list[np.ndarray]], np.ndarray]] = {
    "broadcast_in_dim": lambda params, arrays: _broadcast(arrays[0], **params),
    "concatenate": lambda params, arrays: np.concatenate(arrays, params["dimension"]),
    "reshape": lambda params, arrays: arrays[0].reshape(params["new_sizes"]),
    "squeeze": lambda params, arrays: np.squeeze(arrays[0], params["dimensions"]),
    "stack": lambda params, arrays: np.stack(arrays, params["axis"]),
}
_UNNAMED = core.DebugInfo("step", "step", None, None)
_NOTHING = ("copy", "copy_p", "name", "optimization_barrier", "stop_gradient")


class UntraceableError(Exception):
    """A network has an operation that programs do not support."""


def half_of(
    function: Callable[..., jax.Array], params: Any, channels: Sequence[int], form: str
) -> Half:
    """The steps of one half of a network.

    Args:
        function: ``function(params, *inputs)``.
        params: The parameters of the network.
        channels: The channels of each input.
        form: The native form for the trace.

    Raises:
        UntraceableError: An operation is not supported in programs.
    """
    images = [jax.ShapeDtypeStruct((1, *_SIDES, count), jnp.float32) for count in channels]
    with choose.for_steps():
        trace = jax.make_jaxpr(function)(params, *images)
    tracer = _Tracer(form)
    leaves = jax.tree.leaves(params)
    known = [tracer.constant(leaf) for leaf in leaves]
    given = [tracer.given() for _ in images]
    consts = [tracer.constant(value) for value in trace.consts]
    (output,) = tracer.walk(trace.jaxpr, consts, [*known, *given])
    return fused(tracer.half(given, output))


class _Tracer:
    """Walks a trace: computes what depends only on parameters, and turns the rest into steps.

    A value is represented by its number. ``known`` has the values that do not depend on the inputs.
    """

    def __init__(self, form: str) -> None:
        self._form = form
        self._numbers = itertools.count()
        self._steps: list[Step] = []
        self._known: dict[int, Any] = {}

    def constant(self, value: Any) -> int:
        number = next(self._numbers)
        self._known[number] = value
        return number

    def given(self) -> int:
        return next(self._numbers)

    def walk(self, jaxpr: core.Jaxpr, consts: Sequence[int], inputs: Sequence[int]) -> list[int]:
        """The numbers of a trace's outputs, given the numbers of its constants and inputs."""
        numbers = dict(zip(jaxpr.constvars, consts, strict=True))
        numbers |= dict(zip(jaxpr.invars, inputs, strict=True))

        def number(value: Any) -> int:
            return self.constant(value.val) if isinstance(value, core.Literal) else numbers[value]

        for equation in jaxpr.eqns:
            outputs = self._follow(equation, [number(value) for value in equation.invars])
            numbers |= dict(zip(equation.outvars, outputs, strict=True))
        return [number(value) for value in jaxpr.outvars]

    def half(self, given: Sequence[int], output: int) -> Half:
        used = {number for step in self._steps for number in step.inputs}
        constants = {n: np.asarray(self._known[n]) for n in sorted(used & self._known.keys())}
        return Half(tuple(self._steps), constants, tuple(given), output)

    def _follow(self, equation: core.JaxprEqn, inputs: list[int]) -> list[int]:
        name, params = equation.primitive.name, equation.params
        if name == "cond" and params.get("branches_platforms"):
            # The trace holds one branch per platform. Programs run the one for the CPU.
            platforms = params["branches_platforms"]
            on_cpu = next(i for i, names in enumerate(platforms) if names and "cpu" in names)
            return self._called(params["branches"][on_cpu], inputs[1:])
        if all(number in self._known for number in inputs):
            return self._computed(equation, inputs)
        if name == "jit" and params["name"] in ENLARGING:
            return [self._step(params["name"], equation, inputs, {})]
        if name in _CALLS:
            return self._called(params[_CALLS[name]], inputs)
        if name == "ffi_call":
            kernel = params["target_name"].removeprefix(f"binsr_{self._form}_")
            if kernel in KERNELS:
                attributes = _attributes(params["attributes"])
                # Means, its other result, are not used inside a network.
                others = [next(self._numbers) for _ in equation.outvars[1:]]
                return [self._step(kernel, equation, inputs, attributes), *others]
        if name in _NOTHING:
            return inputs
        if name in ELEMENTWISE and _is_simple(name, params):
            return [self._step(name, equation, inputs, {})]
        raise UntraceableError(name)

    def _called(self, trace: Any, inputs: list[int]) -> list[int]:
        consts = [self.constant(value) for value in getattr(trace, "consts", ())]
        return self.walk(getattr(trace, "jaxpr", trace), consts, inputs)

    def _computed(self, equation: core.JaxprEqn, inputs: list[int]) -> list[int]:
        if (move := _MOVES.get(equation.primitive.name)) is not None:
            arrays = [np.asarray(self._known[number]) for number in inputs]
            return [self.constant(move(equation.params, arrays))]
        values = {}
        for value, number in zip(equation.invars, inputs, strict=True):
            if not isinstance(value, core.Literal):
                values[value] = self._known[number]
        alone = core.Jaxpr((), list(values), equation.outvars, [equation], debug_info=_UNNAMED)
        results = core.jaxpr_as_fun(core.ClosedJaxpr(alone, ()))(*values.values())
        return [self.constant(result) for result in results]

    def _step(
        self, name: str, equation: core.JaxprEqn, inputs: list[int], attributes: dict[str, Any]
    ) -> int:
        """A new step, whose output is as large as the image or a multiple of it."""
        if name in ELEMENTWISE:
            for number, value in zip(inputs, equation.invars, strict=True):
                shape = _shape(value)
                if number in self._known and shape and shape[:-1] != (1, 1, 1):
                    raise UntraceableError(f"{name} with an array {shape}")
            made_by = {step.output: step.name for step in self._steps}
            if name in _SUMS and any(made_by.get(number) == "mul" for number in inputs):
                raise UntraceableError("a product in a sum, which XLA may fuse")
        output, *_ = equation.outvars
        batch, height, width, channels = _shape(output)
        size = height // _SIDES[0]
        if (batch, height, width) != (1, size * _SIDES[0], size * _SIDES[1]):
            raise UntraceableError(f"{name} to an array {_shape(output)}")
        number = next(self._numbers)
        self._steps.append(Step(name, tuple(inputs), number, attributes, size, channels))
        return number


def _broadcast(
    x: np.ndarray, shape: Sequence[int], broadcast_dimensions: Sequence[int], **_: Any
) -> np.ndarray:
    """``lax.broadcast_in_dim``."""
    sides = [1] * len(shape)
    for axis, size in zip(broadcast_dimensions, x.shape, strict=True):
        sides[axis] = size
    return np.broadcast_to(x.reshape(sides), shape)


def _attributes(attributes: Any) -> dict[str, Any]:
    """A kernel's attributes as Python's own types."""
    values = {}
    for name, value in dict(attributes).items():
        if isinstance(value, bool | np.bool_):
            values[name] = bool(value)
        else:
            values[name] = value if isinstance(value, str) else int(value)
    return values


def _is_simple(name: str, params: dict[str, Any]) -> bool:
    """Whether programs support an elementwise operation with these parameters."""
    if name == "reduce_precision":
        return (params["exponent_bits"], params["mantissa_bits"]) == (8, 22)
    return True


def _shape(value: core.Var | core.Literal) -> tuple[int, ...]:
    """The shape of a value, which must be an array; JAX's types also allow other values."""
    return cast(Any, value.aval).shape
