"""The cost of a network: parameters, operations and bytes, counted from the network itself.

The network is traced with ``SignConv`` as its binary convolution, and the operations of the trace
are counted. So a new unit or backbone needs no line here. Papers weigh these numbers in different
ways, which ``CONVENTIONS`` names.
"""

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from binsr_jax import models
from binsr_jax.config import Config
from binsr_jax.nn.attention import ATTENTION
from binsr_jax.nn.packed import SignConv
from binsr_jax.ops.quantise import FLOATS, stored_as
from binsr_jax.tasks import task_of
from binsr_jax.trace import Trace

# The size in the papers' tables: an LR image of 320x180 is an HR image of 720p at x4.
DEFAULT_SIZE = (180, 320)


@dataclass(frozen=True)
class Cost:
    """The cost of a network.

    Attributes:
        size: Height and width of the input for operations and activations.
        float_parameters: The number of float parameters in the packed network.
        binary_parameters: The number of one-bit parameters.
        float_weights: The number of float weights of convolutions and dense layers, without biases
            and without the parameters of elementwise operations.
        float_macs: Multiply-accumulates of float convolutions and dense layers.
        binary_macs: Multiply-accumulates of binary convolutions.
        elementwise: All other arithmetic, one per number written (for sums, per number read):
            scales, biases, shifts, activations, the products of attention, residual sums.
        profiled: Ptflops's count of everything but binary convolutions: ``float_macs``, and one per
            number to which a bias is added, that a rectifier (ReLU, LeakyReLU, PReLU) writes, or
            that is pooled.
        profiled_again: What ptflops would count in addition if all units of the body shared their
            attention, as in the attention paper's code. It adds up the n calls of the one module,
            and visits it under each of its n parents, so n calls count as n n.
        activation_bytes: The largest memory of feature maps at any convolution, for one whole
            image: its input, its output, and earlier results that are still needed, with 4 bytes
            per number and one bit per sign. Elementwise operations count as in place.
        file_bytes: The size of the tensors in the model file with float32.
        half_file_bytes: The same with float16.
        int8_file_bytes: The same with int8: see ``ops.quantise``.
    """

    size: tuple[int, int]
    float_parameters: int
    binary_parameters: int
    float_weights: int
    float_macs: int
    binary_macs: int
    elementwise: int
    profiled: int
    profiled_again: int
    activation_bytes: int
    file_bytes: int
    half_file_bytes: int
    int8_file_bytes: int

    def bytes_of(self, floats: str) -> int:
        """Bytes of the tensors in a model file with floats of this kind."""
        sizes = (self.file_bytes, self.half_file_bytes, self.int8_file_bytes)
        return sizes[FLOATS.index(floats)]


@dataclass(frozen=True)
class Convention:
    """How a paper counts.

    Attributes:
        size: Height and width of the input.
        summary: Its formulas in words.
        operations: Maps a cost to operations.
        parameters: Maps a cost to parameters; None if the paper does not count them.
        true_operations: The operations without a mistake of the paper's tools; None if there is
            none.
    """

    size: tuple[int, int]
    summary: str
    operations: Callable[[Cost], float]
    parameters: Callable[[Cost], float] | None = None
    true_operations: Callable[[Cost], float] | None = None


def _as_ptflops(cost: Cost) -> float:
    return 2 * (cost.profiled + cost.binary_macs / 8)


CONVENTIONS: dict[str, Convention] = {
    # Xia et al., "Basic Binary Convolution Unit for Binarized Image Restoration Network".
    "bbcu": Convention(
        size=DEFAULT_SIZE,
        summary="float + binary MACs / 64; weights, float + binary / 32",
        operations=lambda cost: cost.float_macs + cost.binary_macs / 64,
        parameters=lambda cost: cost.float_weights + cost.binary_parameters / 32,
    ),
    # The Binary Super-Resolution Challenge, 2023.
    "bsrc": Convention(
        size=(96, 96),
        summary="float + binary MACs / 8",
        operations=lambda cost: cost.float_macs + cost.binary_macs / 8,
    ),
    # "Efficient Image Super Resolution Using Attention In Binary Neural Networks".
    "ptflops": Convention(
        size=(128, 128),
        summary="2 (ptflops's count of the float part + binary MACs / 8), shared attention counted "
        "again under each unit",
        operations=lambda cost: _as_ptflops(cost) + 2 * cost.profiled_again,
        true_operations=_as_ptflops,
    ),
}


def count(config: Config, size: tuple[int, int] = DEFAULT_SIZE) -> Cost:
    """Counts a network, without making its parameters.

    Args:
        config: A full config.
        size: Height and width of the input.

    Raises:
        UserError: The config describes no network.
    """
    task = task_of(config)
    network = models.build(config, conv=SignConv)
    image = jax.ShapeDtypeStruct((1, *size, task.channels), jnp.float32)
    attentions: dict[tuple[str, ...], tuple[nn.Module, Any]] = {}

    def notice(call, args, kwargs, context):
        if context.method_name == "__call__" and type(context.module) in ATTENTION.values():
            x = jax.ShapeDtypeStruct(args[0].shape, args[0].dtype)
            attentions[context.module.path] = context.module.clone(parent=None, name=None), x
        return call(*args, **kwargs)

    with nn.intercept_methods(notice):
        variables = jax.eval_shape(network.init, jax.random.key(0), image)
    params: dict[tuple[str, ...], Any] = flatten_dict(variables["params"])
    numbers: Counter[str] = Counter()
    for path, leaf in params.items():
        numbers[str(leaf.dtype)] += math.prod(leaf.shape)
        numbers["weights"] += math.prod(leaf.shape) if path[-1] == "kernel" else 0
    trace = Trace(network, variables, image)
    operations = trace.operations()
    return Cost(
        size=size,
        float_parameters=numbers["float32"],
        binary_parameters=numbers["int8"],
        float_weights=numbers["weights"],
        float_macs=operations["float"],
        binary_macs=operations["binary"],
        elementwise=operations["elementwise"],
        profiled=trace.profiled(),
        profiled_again=_profiled_again(attentions),
        activation_bytes=trace.activation_bytes(),
        file_bytes=sum(stored_bytes(leaf, "float32") for leaf in params.values()),
        half_file_bytes=sum(stored_bytes(leaf, "float16") for leaf in params.values()),
        int8_file_bytes=sum(stored_bytes(leaf, "int8") for leaf in params.values()),
    )


def _profiled_again(attentions: dict[tuple[str, ...], tuple[nn.Module, Any]]) -> int:
    """``Cost.profiled_again`` of attention modules and their inputs, by path in the network."""
    shared: Counter[tuple[str, ...]] = Counter()
    calls = [path for path in attentions if re.fullmatch(r"body_\d+", path[0])]
    for path in calls:
        shared[path[1:]] += 1
    again: dict[tuple[str, ...], int] = {}
    for path in calls:
        if path[1:] not in again:
            module, x = attentions[path]
            variables = jax.eval_shape(module.init, jax.random.key(0), x)
            number = shared[path[1:]]
            again[path[1:]] = Trace(module, variables, x).profiled() * number * (number - 1)
    return sum(again.values())


def stored_bytes(leaf: Any, floats: str) -> int:
    """Bytes of a parameter of a ``SignConv`` network in a model file.

    Args:
        leaf: An array or its shape; signs are stored as bits, in whole bytes.
        floats: How floats are stored, a name of ``ops.quantise.FLOATS``.
    """
    number = math.prod(leaf.shape)
    if leaf.dtype == jnp.int8:
        return -(-number // 8)
    form = stored_as(leaf.shape, floats)
    return number + 4 * leaf.shape[-1] if form == "int8" else number * np.dtype(form).itemsize


def markdown(cost: Cost) -> str:
    """The cost as a Markdown table."""
    size = f"LR {size_text(cost.size)}"
    rows = [
        ("cost", "number"),
        ("---", "---:"),
        ("parameters, float", f"{cost.float_parameters:,}"),
        ("parameters, binary", f"{cost.binary_parameters:,}"),
        (f"multiply-accumulates, float, {size}", f"{cost.float_macs:,}"),
        (f"multiply-accumulates, binary, {size}", f"{cost.binary_macs:,}"),
        (f"elementwise operations, {size}", f"{cost.elementwise:,}"),
        (f"bytes of feature maps at their most, {size}", f"{cost.activation_bytes:,}"),
        ("bytes of tensors in a model file, float32", f"{cost.file_bytes:,}"),
        ("bytes of tensors in a model file, float16", f"{cost.half_file_bytes:,}"),
        ("bytes of tensors in a model file, int8", f"{cost.int8_file_bytes:,}"),
    ]
    return "\n".join(f"| {name} | {value} |" for name, value in rows)


def giga(operations: float, decimals: int = 2) -> str:
    """Operations in G, rounded twice as in BBCU's tables: to whole millions, and then half up.

    BBCU-M x2 has 1,824.8 million, printed as 1.83; BBCU-L x4 has 79,194.9, printed as 79.20.
    """
    millions = Decimal(round(operations / 1e6)).scaleb(-3)
    return str(millions.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))


def size_text(size: tuple[int, int]) -> str:
    """A height and width as the papers write it, width first: ``320x180``."""
    return f"{size[1]}x{size[0]}"
