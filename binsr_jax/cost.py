"""What a network costs: parameters, operations and bytes, counted from the network itself.

The network is traced with ``SignConv`` for its binary convolutions, and the operations of the trace
are counted: a new unit or backbone is counted without a line here.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from binsr_jax import models
from binsr_jax.config import Config
from binsr_jax.nn.packed import SignConv
from binsr_jax.tasks import task_of

# Of the papers' tables: an LR image of 320x180 is an HR image of 720p at x4.
DEFAULT_SIZE = (180, 320)

# Sums and the like: an operation for an element read. All other arithmetic: for one written.
_REDUCTIONS = {"reduce_max", "reduce_min", "reduce_prod", "reduce_sum"}
# These only move or convert numbers.
_FREE = {
    "broadcast_in_dim",
    "concatenate",
    "convert_element_type",
    "copy",
    "dynamic_slice",
    "gather",
    "iota",
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


@dataclass(frozen=True)
class Cost:
    """The cost of a network.

    Attributes:
        size: Height and width of the input that the operations are counted for.
        float_parameters: How many parameters are floats, in the packed network.
        binary_parameters: How many are bits.
        float_macs: Multiply-accumulates of float convolutions and dense layers.
        binary_macs: The same of binary convolutions.
        elementwise: All other arithmetic, one for each number written (of sums, for each read):
            scales, biases, activations, residual sums.
        file_bytes: Of the tensors in the model file with float32.
        half_file_bytes: The same with float16.
    """

    size: tuple[int, int]
    float_parameters: int
    binary_parameters: int
    float_macs: int
    binary_macs: int
    elementwise: int
    file_bytes: int
    half_file_bytes: int


def count(config: Config, size: tuple[int, int] = DEFAULT_SIZE) -> Cost:
    """Counts a network, without making its parameters.

    Args:
        config: a full config.
        size: height and width of the input.

    Raises:
        UserError: the config describes no network.
    """
    channels = task_of(config).channels
    network = models.build(config.model, config.scale, channels, conv=SignConv)
    image = jax.ShapeDtypeStruct((1, *size, channels), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), image)
    leaves = jax.tree.leaves(variables["params"])
    parameters = Counter()
    for leaf in leaves:
        parameters[str(leaf.dtype)] += math.prod(leaf.shape)
    operations = Counter()
    for kind, number in _operations(jax.make_jaxpr(network.apply)(variables, image).jaxpr):
        operations[kind] += number
    return Cost(
        size=size,
        float_parameters=parameters["float32"],
        binary_parameters=parameters["int8"],
        float_macs=operations["float"],
        binary_macs=operations["binary"],
        elementwise=operations["elementwise"],
        file_bytes=sum(stored_bytes(leaf, half=False) for leaf in leaves),
        half_file_bytes=sum(stored_bytes(leaf, half=True) for leaf in leaves),
    )


def stored_bytes(leaf: Any, half: bool) -> int:
    """Bytes of a parameter of a ``SignConv`` network in a model file.

    Args:
        leaf: an array or its shape; signs are stored as bits, in whole bytes.
        half: whether floats are stored as float16 instead of float32.
    """
    number = math.prod(leaf.shape)
    return -(-number // 8) if leaf.dtype == jnp.int8 else number * (2 if half else 4)


def markdown(cost: Cost) -> str:
    """The cost as a Markdown table."""
    height, width = cost.size
    rows = [
        ("parameters, float", f"{cost.float_parameters:,}"),
        ("parameters, binary", f"{cost.binary_parameters:,}"),
        (f"multiply-accumulates, float, LR {width}x{height}", f"{cost.float_macs:,}"),
        (f"multiply-accumulates, binary, LR {width}x{height}", f"{cost.binary_macs:,}"),
        (f"elementwise operations, LR {width}x{height}", f"{cost.elementwise:,}"),
        ("bytes of tensors in a model file, float32", f"{cost.file_bytes:,}"),
        ("bytes of tensors in a model file, float16", f"{cost.half_file_bytes:,}"),
    ]
    lines = [f"| {name} | {value} |" for name, value in [("cost", "number"), *rows]]
    return "\n".join([lines[0], "|---|---:|", *lines[1:]])


def _operations(jaxpr: core.Jaxpr) -> Iterator[tuple[str, int]]:
    """The kind and number of operations of every step of a trace."""
    for step in jaxpr.eqns:
        name, inner = step.primitive.name, _inner_traces(step)
        if inner:  # if several, they are forms of one computation for several backends
            yield from _operations(inner[-1])
        elif name == "conv_general_dilated":
            signs = step.params["preferred_element_type"] == jnp.int32  # of a SignConv
            yield "binary" if signs else "float", _conv_macs(step)
        elif name == "dot_general":
            (contracted, _), _ = step.params["dimension_numbers"]
            products = math.prod(_shape(step.invars[0])[axis] for axis in contracted)
            yield "float", _size(step.outvars[0]) * products
        elif name in _REDUCTIONS:
            yield "elementwise", _size(step.invars[0])
        elif name not in _FREE:
            yield "elementwise", sum(_size(result) for result in step.outvars)


def _inner_traces(step: core.JaxprEqn) -> list[core.Jaxpr]:
    """The traces of the functions that a step calls."""
    values = jax.tree.leaves(list(step.params.values()), is_leaf=_is_trace)
    return [getattr(value, "jaxpr", value) for value in values if _is_trace(value)]


def _is_trace(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


def _conv_macs(step: core.JaxprEqn) -> int:
    kernel = _shape(step.invars[1])
    output_features = kernel[step.params["dimension_numbers"].rhs_spec[0]]
    return _size(step.outvars[0]) * math.prod(kernel) // output_features


def _size(value: Any) -> int:
    return math.prod(_shape(value))


def _shape(value: Any) -> tuple[int, ...]:
    return value.aval.shape
