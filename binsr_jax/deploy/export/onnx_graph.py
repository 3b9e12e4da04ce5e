"""A packed network as an ONNX graph, made of its trace by JAX: a network is defined only once.

Arrays of four and more axes ``[B, H, W, C, ...]`` have their channels second in the graph, as the
convolutions of ONNX do. Whatever does not depend on the image becomes a constant. Constants are
never broadcast to the image's size: the operations of ONNX do that.

An operation of JAX without a rule here is refused. A new one needs a line in ``_ELEMENTWISE`` or a
method ``_jax_NAME`` of ``_Writer``. A method ``_our_NAME`` writes the jitted function NAME of this
package as one node, where ONNX has one for it.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from binsr_jax.deploy.export.tracing import free_images, function_of
from binsr_jax.deploy.model_file import PackedModel
from binsr_jax.errors import UserError
from binsr_jax.nn.packed import PackedFloatConv
from binsr_jax.ops.native import choose
from binsr_jax.ops.packed import unpack_weights

_OPSET, _IR_VERSION = 17, 9
_ELEMENTWISE = {
    "abs": "Abs",
    "add": "Add",
    "add_any": "Add",
    "div": "Div",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "logistic": "Sigmoid",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "sub": "Sub",
}
# What has no effect on a value, apart from the last of its bits.
_IDENTITIES = ("copy", "name", "optimization_barrier", "reduce_precision", "stop_gradient")


def onnx_model(model: PackedModel, int8: bool = False, size: tuple[int, int] | None = None) -> Any:
    """The network as an ``onnx.ModelProto``: ``x`` ``[b, channels, h, w]`` in 0..1 to ``y``.

    y is ``[b, channels, scale h, scale w]``, not clipped. Binary convolutions are float
    convolutions of +1 and -1, and their scales follow. With ``int8`` signs and binary weights pass
    through QuantizeLinear and DequantizeLinear of scale 1, from which a runtime can make
    convolutions of 8-bit integers.

    Args:
        model: the network.
        int8: whether binary convolutions are of int8.
        size: the height and width of images; all are free if it is left out.

    Raises:
        UserError: the library onnx is not installed, or an operation has no form in ONNX.
    """
    try:
        from onnx import TensorProto, helper
    except ImportError as error:
        raise UserError(
            "ONNX needs a library that is not installed: pip install 'binsr-jax[onnx]'."
        ) from error
    f, multiple = function_of(model, PackedFloatConv)
    with choose.without_native():
        traced = jax.make_jaxpr(f)(free_images(model.task.channels, multiple))
    writer = _Writer(int8)
    writer.image = traced.in_avals[0].shape
    (y,) = writer.run(traced.jaxpr, traced.consts, [_Node("x")])
    writer.nodes.append(helper.make_node("Identity", [y.name], ["y"]))
    names = ("b", "h", "w")
    shapes = [[names[0], model.task.channels, *names[1:]]]
    shapes.append([names[0], model.task.channels, *(f"{model.task.scale}{n}" for n in names[1:])])
    if size is not None:
        shapes = [
            [1, model.task.channels, *(n * side for side in size)] for n in (1, model.task.scale)
        ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip("xy", shapes, strict=True)
    ]
    graph = helper.make_graph(writer.nodes, "binsr", ends[:1], ends[1:], writer.constants)
    proto = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="binsr-jax",
    )
    about = {"task": model.task.name, "terms": model.provenance.get("terms", "not stated")}
    helper.set_model_props(proto, about)
    return proto


class _Node:
    """An array that depends on the image, as the name of a value in the graph."""

    def __init__(self, name: str) -> None:
        self.name = name


def _order(rank: int) -> list[int]:
    """The axes of an array in the order in which the graph has them."""
    return [0, 3, 1, 2, *range(4, rank)] if rank >= 4 else list(range(rank))


class _Writer:
    """Writes the nodes of a trace. A value is a ``_Node``, or an array if it is constant."""

    def __init__(self, int8: bool) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.image: tuple[Any, ...] = ()
        self._int8 = int8

    def run(self, jaxpr: Any, constants: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        """The values that a jaxpr returns."""
        known: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
        known |= zip(jaxpr.invars, inputs, strict=True)

        def value(atom: Any) -> Any:
            if hasattr(atom, "val"):
                return np.asarray(atom.val, atom.aval.dtype)
            return known[atom]

        for equation in jaxpr.eqns:
            outputs = self._equation(equation, [value(atom) for atom in equation.invars])
            known |= zip(equation.outvars, outputs, strict=True)
        return [value(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, values: list[Any]) -> list[Any]:
        kind, params = equation.primitive.name, equation.params
        if kind == "platform_index":  # the form for devices that have none of their own
            return [np.int32(params["platforms"].index(None))]
        if kind == "cond":
            branch = params["branches"][int(values[0])]
            return self.run(branch.jaxpr, branch.consts, values[1:])
        inner = params.get("jaxpr", params.get("call_jaxpr"))
        rule = getattr(self, f"_our_{params['name']}" if kind == "jit" else f"_jax_{kind}", None)
        if inner is not None and rule is None:
            return self.run(inner.jaxpr, inner.consts, values)
        if not any(isinstance(value, _Node) for value in values):
            return self._constant_result(equation, values)
        if kind in _IDENTITIES:
            return values
        ranks = [len(atom.aval.shape) for atom in equation.invars]
        if kind in _ELEMENTWISE:
            names = [self._name(v, rank) for v, rank in zip(values, ranks, strict=True)]
            return [self._node(_ELEMENTWISE[kind], *names)]
        if rule is None:
            raise UserError(f"The network has an operation that ONNX export does not know: {kind}.")
        return [rule(equation, values)]

    def _constant_result(self, equation: Any, values: list[Any]) -> list[Any]:
        kind, params = equation.primitive.name, equation.params
        out = equation.outvars[0].aval
        free = any(not isinstance(side, int) for side in out.shape)
        if kind == "dim_as_value":
            return [self._pixels(params["dim"])]
        if kind == "broadcast_in_dim" and free:
            shape = [1] * len(out.shape)
            for axis, side in zip(params["broadcast_dimensions"], np.shape(values[0]), strict=True):
                shape[axis] = side
            return [np.reshape(values[0], shape)]
        if free:  # of constants that stand for larger arrays
            values = list(np.broadcast_arrays(*values))
        result = equation.primitive.bind(*map(jnp.asarray, values), **params)
        return list(result) if equation.primitive.multiple_results else [result]

    def _pixels(self, count: Any) -> _Node:
        """The number of pixels of the image, by which means are divided."""
        if count != self.image[1] * self.image[2]:
            raise UserError("The network computes with a size that ONNX export does not know.")
        shape = self._node("Shape", "x", start=2)
        return self._node("ReduceProd", self._node("Cast", shape, to=1), keepdims=0)

    def _node(self, kind: str, *inputs: Any, **attributes: Any) -> _Node:
        from onnx import helper

        name = f"v{len(self.nodes)}"
        names = [value.name if isinstance(value, _Node) else value for value in inputs]
        self.nodes.append(helper.make_node(kind, names, [name], **attributes))
        return _Node(name)

    def _constant(self, value: Any, dtype: Any = None) -> str:
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        array = np.ascontiguousarray(np.asarray(value, dtype))
        self.constants.append(numpy_helper.from_array(array.reshape(np.shape(value)), name))
        return name

    def _name(self, value: Any, rank: int) -> str:
        if isinstance(value, _Node):
            return value.name
        array = np.asarray(value)
        if array.dtype != np.bool_:  # all numbers that are computed with are float32
            array = array.astype(np.float32)
        return self._constant(array.transpose(_order(rank)) if array.ndim else array)

    def _arranged(self, node: _Node, axes: Sequence[int], rank: int) -> _Node:
        """The node with its axes, numbered as in the trace, brought into the graph's order."""
        permutation = [list(axes).index(axis) for axis in _order(rank)]
        if permutation == list(range(rank)):
            return node
        return self._node("Transpose", node, perm=permutation)

    # The operations of JAX, by their names

    def _jax_select_n(self, equation: Any, values: list[Any]) -> _Node:
        rank = len(equation.outvars[0].aval.shape)
        which, no, yes = (self._name(value, rank) for value in values)
        return self._node("Where", which, yes, no)

    def _jax_clamp(self, equation: Any, values: list[Any]) -> _Node:
        least, x, most = (self._name(v, len(equation.outvars[0].aval.shape)) for v in values)
        return self._node("Min", self._node("Max", x, least), most)

    def _jax_integer_pow(self, equation: Any, values: list[Any]) -> _Node:
        exponent = self._constant(np.float32(equation.params["y"]))
        return self._node("Pow", values[0], exponent)

    def _jax_square(self, equation: Any, values: list[Any]) -> _Node:
        return self._node("Mul", values[0], values[0])

    def _jax_convert_element_type(self, equation: Any, values: list[Any]) -> _Node:
        if equation.invars[0].aval.dtype == np.bool_:
            return self._node("Cast", values[0], to=1)
        return values[0]

    def _jax_broadcast_in_dim(self, equation: Any, values: list[Any]) -> _Node:
        rank, kept = len(equation.outvars[0].aval.shape), equation.params["broadcast_dimensions"]
        new = [axis for axis in range(rank) if axis not in kept]
        if not new:
            return values[0]
        at_end = [len(kept) + i for i in range(len(new))]
        node = self._node("Unsqueeze", values[0], self._constant(at_end, np.int64))
        return self._arranged(node, [*(kept[axis] for axis in _order(len(kept))), *new], rank)

    def _jax_squeeze(self, equation: Any, values: list[Any]) -> _Node:
        return self._without(equation, values[0], "Squeeze", equation.params["dimensions"])

    def _jax_reduce_sum(self, equation: Any, values: list[Any]) -> _Node:
        axes = equation.params["axes"]
        return self._without(equation, values[0], "ReduceSum", axes, keepdims=0)

    def _without(
        self, equation: Any, node: _Node, kind: str, axes: Sequence[int], **attributes: Any
    ) -> _Node:
        """A node that drops axes."""
        order = _order(len(equation.invars[0].aval.shape))
        dropped = [order.index(axis) for axis in axes]
        node = self._node(kind, node, self._constant(dropped, np.int64), **attributes)
        left = [axis for axis in order if axis not in axes]
        return self._arranged(node, [sorted(left).index(axis) for axis in left], len(left))

    def _jax_transpose(self, equation: Any, values: list[Any]) -> _Node:
        permutation = list(equation.params["permutation"])
        rank = len(permutation)
        return self._arranged(values[0], [permutation.index(axis) for axis in _order(rank)], rank)

    def _jax_slice(self, equation: Any, values: list[Any]) -> _Node:
        params, shape = equation.params, equation.invars[0].aval.shape
        for axis, (start, stop) in enumerate(
            zip(params["start_indices"], params["limit_indices"], strict=True)
        ):
            if (start, stop) != (0, shape[axis]):
                at = _order(len(shape)).index(axis)
                bounds = [self._constant([n], np.int64) for n in (start, stop, at)]
                values[0] = self._node("Slice", values[0], *bounds)
        return values[0]

    def _jax_concatenate(self, equation: Any, values: list[Any]) -> _Node:
        rank = len(equation.outvars[0].aval.shape)
        names = [self._name(value, rank) for value in values]
        return self._node("Concat", *names, axis=_order(rank).index(equation.params["dimension"]))

    def _jax_stack(self, equation: Any, values: list[Any]) -> _Node:
        rank = len(equation.outvars[0].aval.shape)
        if equation.params["axis"] != rank - 1:
            raise UserError("The network stacks arrays in a way that ONNX export does not know.")
        last = self._constant([rank - 1], np.int64)
        parts = [self._node("Unsqueeze", value, last) for value in values]
        order = [*_order(rank - 1), rank - 1]
        return self._arranged(self._node("Concat", *parts, axis=rank - 1), order, rank)

    def _jax_dot_general(self, equation: Any, values: list[Any]) -> _Node:
        x, matrix = values
        rank = len(equation.invars[0].aval.shape)
        if equation.params["dimension_numbers"] != (((rank - 1,), (0,)), ((), ())):
            raise UserError("The network has a matrix product that ONNX export does not know.")
        if rank == 4:  # over the channels
            return self._node("Conv", x, self._constant(np.asarray(matrix).T[..., None, None]))
        return self._node("MatMul", x, self._constant(matrix))

    def _jax_conv_general_dilated(self, equation: Any, values: list[Any]) -> _Node:
        return self._convolution(values[0], self._constant(_oihw(values[1])), values[1].shape)

    def _convolution(self, x: _Node, kernel: Any, shape: tuple[int, ...]) -> _Node:
        """A convolution of stride 1 that keeps the size, as all convolutions of networks here."""
        sides = [side // 2 for side in shape[:2]]
        return self._node("Conv", x, kernel, pads=[*sides, *sides])

    # The functions of this package, by their names

    def _our_convolve_signs(self, equation: Any, values: list[Any]) -> _Node:
        x, w_bits = values
        kernel = np.asarray(unpack_weights(w_bits, equation.invars[0].aval.shape[-1]))
        if not self._int8:
            return self._convolution(x, self._constant(_oihw(kernel)), kernel.shape)
        unit = [self._constant(np.float32(1)), self._constant(np.int8(0))]
        signs = self._node("DequantizeLinear", self._node("QuantizeLinear", x, *unit), *unit)
        weights = self._constant(_oihw(kernel).astype(np.int8))
        return self._convolution(
            signs, self._node("DequantizeLinear", weights, *unit), kernel.shape
        )

    def _our_prelu(self, equation: Any, values: list[Any]) -> _Node:
        x, slope = values
        rank = len(equation.outvars[0].aval.shape)
        return self._node("PRelu", x, self._name(np.reshape(slope, [1] * (rank - 1) + [-1]), rank))

    def _our_pixel_shuffle(self, equation: Any, values: list[Any]) -> _Node:
        return self._shuffled(equation, values[0], "CRD")

    def _our_depth_to_space(self, equation: Any, values: list[Any]) -> _Node:
        return self._shuffled(equation, values[0], "DCR")

    def _shuffled(self, equation: Any, node: _Node, mode: str) -> _Node:
        before, after = (atoms[0].aval.shape[-1] for atoms in (equation.invars, equation.outvars))
        if before == after:
            return node
        return self._node("DepthToSpace", node, blocksize=math.isqrt(before // after), mode=mode)

    def _our_pixel_unshuffle(self, equation: Any, values: list[Any]) -> _Node:
        before, after = (atoms[0].aval.shape[-1] for atoms in (equation.invars, equation.outvars))
        r = math.isqrt(after // before)
        node = self._node("SpaceToDepth", values[0], blocksize=r)  # channels (i r + j) C + c
        order = np.arange(after).reshape(r * r, before).T.ravel()
        return self._node("Gather", node, self._constant(order, np.int64), axis=1)

    def _our_upsample_nearest(self, equation: Any, values: list[Any]) -> _Node:
        options = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self._resized(equation, values[0], mode="nearest", **options)

    def _our_upsample_bilinear(self, equation: Any, values: list[Any]) -> _Node:
        options = {"coordinate_transformation_mode": "half_pixel"}
        return self._resized(equation, values[0], mode="linear", **options)

    def _resized(self, equation: Any, node: _Node, **options: Any) -> _Node:
        (before, *_), (after, *_) = (
            e.aval.shape[1:] for e in (equation.invars[0], equation.outvars[0])
        )
        factor = int(after // before)
        if factor == 1:
            return node
        scales = self._constant([1, 1, factor, factor], np.float32)
        return self._node("Resize", node, "", scales, **options)


def _oihw(kernel: Any) -> np.ndarray:
    return np.asarray(kernel).transpose(3, 2, 0, 1)
