"""The trace of a network's inference, and counts of its operations and memory."""

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend import core

# Reductions count one operation per element read; all other arithmetic, one per element written.
_REDUCTIONS = {"reduce_max", "reduce_min", "reduce_prod", "reduce_sum"}
# These only move, convert or name numbers, so they count nothing.
_FREE = {
    "broadcast_in_dim",
    "concatenate",
    "convert_element_type",
    "copy",
    "dynamic_slice",
    "gather",
    "iota",
    "name",
    "pad",
    "platform_index",
    "reshape",
    "rev",
    "slice",
    "split",
    "squeeze",
    "stop_gradient",
    "transpose",
}
_PRODUCTS = {"conv_general_dilated", "dot_general"}


@dataclass(frozen=True)
class _Step:
    """A step of a trace.

    Attributes:
        equation: The step.
        times: How often it runs.
        inputs: The numbers of its input values; -1 for a literal.
        outputs: The numbers of its output values.
    """

    equation: core.JaxprEqn
    times: int
    inputs: list[int]
    outputs: list[int]

    @property
    def name(self) -> str:
        return self.equation.primitive.name

    @property
    def written(self) -> int:
        return sum(_size(value) for value in self.equation.outvars)


class Trace:
    """The steps of a network's inference, including those of functions that it calls.

    Args:
        module: The network, or a part of one.
        variables: Its variables, or their shapes.
        x: Its input, or its shape.
    """

    def __init__(self, module: nn.Module, variables: Any, x: jax.ShapeDtypeStruct) -> None:
        jaxpr = jax.make_jaxpr(module.apply)(variables, x).jaxpr
        self._numbers = itertools.count()
        known = {value: next(self._numbers) for value in jaxpr.invars}
        self._input = known[jaxpr.invars[-1]]
        self._input_bytes = _bytes(jaxpr.invars[-1])
        self._steps = list(self._walk(jaxpr, known, 1))
        # For each value that depends on the input: the value of which it is a view, or itself.
        self._views = {self._input: self._input}
        for step in self._steps:
            sources = [self._views[i] for i in step.inputs if i in self._views]
            if sources:
                view = step.name in _FREE
                self._views |= {o: sources[0] if view else o for o in step.outputs}

    def operations(self) -> Counter[str]:
        """Counts of "binary" and "float" multiply-accumulates and of "elementwise" operations."""
        result: Counter[str] = Counter()
        for step in self._steps:
            if step.name in _PRODUCTS:
                result["binary" if _is_binary(step) else "float"] += step.times * _macs(step)
            elif step.name in _REDUCTIONS:
                result["elementwise"] += step.times * _size(step.equation.invars[0])
            elif step.name not in _FREE:
                result["elementwise"] += step.times * step.written
        return result

    def profiled(self) -> int:
        """ptflops's count of everything but binary convolutions; see ``cost.Cost``.

        A bias is added to a product and does not depend on the input. A rectifier is the larger of
        a value and a constant, or a choice that compares one of its cases.
        """
        result = 0
        products: set[int | None] = set()
        compared: dict[int | None, list[int]] = {}
        for step in self._steps:
            sources = [self._views.get(i) for i in step.inputs]
            features = [source for source in sources if source is not None]
            bias = step.name == "add" and len(features) == 1 and features[0] in products
            larger = step.name == "max" and len(features) == 1
            choice = step.name == "select_n" and set(sources[1:]) & set(
                compared.get(sources[0], ())
            )
            if step.name in _PRODUCTS and not _is_binary(step):
                result += step.times * _macs(step)
                products.update(step.outputs)
            elif step.name in _REDUCTIONS:
                result += step.times * _size(step.equation.invars[0])
            elif step.name in {"gt", "ge", "lt", "le"}:
                compared |= dict.fromkeys(step.outputs, features)
            elif bias or larger or choice:
                result += step.times * step.written
        return result

    def activation_bytes(self) -> int:
        """The largest memory of feature maps at any product; see ``cost.Cost``."""
        size, born, last = {self._input: self._input_bytes}, {self._input: 0}, {self._input: 0}
        for now, step in enumerate(self._steps):
            for i in step.inputs:
                if i in self._views:
                    last[self._views[i]] = now
            for output, value in zip(step.outputs, step.equation.outvars, strict=True):
                if self._views.get(output) == output:
                    size[output], born[output], last[output] = _bytes(value), now, now
            if step.name in _PRODUCTS and _is_binary(step):
                signs = step.equation.invars[0]
                size[self._views[step.inputs[0]]] = -(-_size(signs) // 8)
        products = [now for now, step in enumerate(self._steps) if step.name in _PRODUCTS]
        return max(
            (sum(size[v] for v in size if born[v] <= now <= last[v]) for now in products),
            default=0,
        )

    def _walk(self, jaxpr: core.Jaxpr, known: dict[Any, int], times: int) -> Iterator[_Step]:
        """The steps; adds the numbers of their values to ``known``."""

        def number(value: Any) -> int:
            if isinstance(value, core.Literal):
                return -1
            if value not in known:
                known[value] = next(self._numbers)
            return known[value]

        for step in jaxpr.eqns:
            inner = _inner_traces(step)
            if not inner:
                inputs, outputs = map(number, step.invars), map(number, step.outvars)
                yield _Step(step, times, list(inputs), list(outputs))
                continue
            body = inner[-1]  # if several, they are forms of one computation for several backends
            arguments = step.invars[len(step.invars) - len(body.invars) :]
            inside = {own: number(value) for own, value in zip(body.invars, arguments, strict=True)}
            yield from self._walk(body, inside, times * step.params.get("length", 1))
            for value, own in zip(step.outvars, body.outvars, strict=True):
                known[value] = -1 if isinstance(own, core.Literal) else inside[own]


def _inner_traces(step: core.JaxprEqn) -> list[core.Jaxpr]:
    """The traces of the functions that a step calls."""
    values = jax.tree.leaves(list(step.params.values()), is_leaf=_is_trace)
    return [getattr(value, "jaxpr", value) for value in values if _is_trace(value)]


def _is_trace(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


def _is_binary(step: _Step) -> bool:
    """Whether a product belongs to a ``SignConv``."""
    return step.equation.params["preferred_element_type"] == jnp.int32


def _macs(step: _Step) -> int:
    """Multiply-accumulates of a convolution or a matrix product."""
    left, right = map(_shape, step.equation.invars)
    if step.name == "dot_general":
        (contracted, _), _ = step.equation.params["dimension_numbers"]
        return step.written * math.prod(left[axis] for axis in contracted)
    output_features = right[step.equation.params["dimension_numbers"].rhs_spec[0]]
    return step.written * math.prod(right) // output_features


def _bytes(value: Any) -> int:
    return _size(value) * value.aval.dtype.itemsize


def _size(value: Any) -> int:
    return math.prod(_shape(value))


def _shape(value: Any) -> tuple[int, ...]:
    return value.aval.shape
