"""The peers of the inference benchmark: the same parameters as floats in other libraries.

OpenVINO and ONNX Runtime get the graph of ``binsr export --to onnx``, of one size. For PyTorch
`build_network` writes down the float form of a packed EDSR. A binary kernel becomes the float
kernel ``scale * signs``; a sign stays a comparison.

Every side is a function of float32 images ``[1, h, w, 3]`` to ``[1, s h, s w, 3]``.
"""

import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from lean import Side, nchw, onnxruntime_side, openvino_side

from binsr_jax import models
from binsr_jax.deploy.export.onnx_graph import onnx_model
from binsr_jax.deploy.loading import engine_of
from binsr_jax.deploy.model_file import PackedModel
from binsr_jax.models.backbone import UPSAMPLING_STEPS
from binsr_jax.models.edsr import DIV2K_MEAN
from binsr_jax.nn.packed import PackedFloatConv
from binsr_jax.ops.binarize import Progress
from binsr_jax.ops.conv import conv2d
from binsr_jax.ops.native import choose
from binsr_jax.ops.packed import unpack_weights


def build_network(ops: Any, model: PackedModel, x: Any) -> Any:
    """The float form of a packed EDSR on an image ``[1, 3, h, w]``.

    Args:
        ops: `TorchOps`.
        model: without a skip of the image.
        x: the image, as the operations hold it.
    """
    config, params = model.config.model, float_params(model)
    k = np.float32(config.amplification)
    mean = np.asarray(DIV2K_MEAN, np.float32)
    head = params["head"]
    x = ops.conv(ops.mul(ops.sub(x, mean), k), head["kernel"], head["bias"])
    x = features = ops.leaky_relu(x, 0.1)
    names = [name for name in params if name.startswith("body_") and name != "body_end"]
    for name in [*sorted(names, key=lambda name: int(name[5:])), "body_end"]:
        x = _unit(ops, params[name], x)
    x = ops.add(x, features)
    for i, step in enumerate(UPSAMPLING_STEPS[model.config.scale]):
        y = ops.shuffle(_branch(ops, params[f"upsampler_{i}"], x), step)
        x = ops.add(y, ops.nearest(x, step))
    y = ops.conv(x, params["tail"]["kernel"], params["tail"]["bias"])
    return ops.add(ops.mul(y, 1 / k), mean)


def _branch(ops: Any, p: Mapping[str, Any], x: Any) -> Any:
    signs = ops.sign(x, p["rsign"]["threshold"])
    y = ops.conv(signs, p["conv"]["kernel"], -p["rprelu"]["shift_in"])
    return ops.add(ops.prelu(y, p["rprelu"]["slope"]), p["rprelu"]["shift_out"])


def _unit(ops: Any, p: Mapping[str, Any], x: Any) -> Any:
    y = _branch(ops, p, x)
    if "binary_scale" in p:
        y = ops.mul(_attended(ops, p.get("binary_attention"), y), p["binary_scale"])
        x = ops.mul(_attended(ops, p.get("residual_attention"), x), p["residual_scale"])
    return ops.add(y, x)


def _attended(ops: Any, p: Mapping[str, Any] | None, x: Any) -> Any:
    if p is None:
        return x
    y = x
    if "reduce" in p:
        y = ops.relu(_dense(ops, p["reduce"], ops.mean(y)))
    return ops.times(ops.sigmoid(_dense(ops, p["expand" if "reduce" in p else "map"], y)), x)


def _dense(ops: Any, p: Mapping[str, Any], x: Any) -> Any:
    return ops.conv(x, p["kernel"][None, None], p["bias"])


def float_params(model: PackedModel) -> dict[str, Any]:
    """The parameters as numpy arrays, with float kernels in the place of packed bits and scales."""

    def convert(tree: Mapping[str, Any]) -> dict[str, Any]:
        if "w_bits" in tree:
            inputs = model.config.model.features
            signs = np.asarray(unpack_weights(jnp.asarray(tree["w_bits"]), inputs))
            return {"kernel": signs * np.asarray(tree["scale"])}
        return {
            name: convert(leaf) if isinstance(leaf, Mapping) else np.asarray(leaf)
            for name, leaf in tree.items()
        }

    return convert(model.params)


class TorchOps:
    """Operations on torch tensors."""

    def __init__(self) -> None:
        import torch

        self.torch, self.f = torch, torch.nn.functional

    def tensor(self, value: Any, shape: tuple[int, ...] = ()) -> Any:
        return self.torch.from_numpy(np.array(value, np.float32).reshape(shape or np.shape(value)))

    def conv(self, x: Any, kernel: Any, bias: Any) -> Any:
        weights = self.tensor(kernel.transpose(3, 2, 0, 1))
        weights = weights.contiguous(memory_format=self.torch.channels_last)
        return self.f.conv2d(x, weights, self.tensor(bias), padding=kernel.shape[0] // 2)

    def channels(self, value: Any) -> Any:
        return self.tensor(value, (-1, 1, 1) if np.ndim(value) else ())

    def sign(self, x: Any, threshold: Any) -> Any:
        return self.torch.where(x > self.channels(threshold), 1.0, -1.0)

    def prelu(self, x: Any, slope: Any) -> Any:
        return self.f.prelu(x, self.tensor(slope))

    def leaky_relu(self, x: Any, slope: float) -> Any:
        return self.f.leaky_relu(x, slope)

    def relu(self, x: Any) -> Any:
        return self.torch.relu(x)

    def sigmoid(self, x: Any) -> Any:
        return self.torch.sigmoid(x)

    def mean(self, x: Any) -> Any:
        return x.mean((2, 3), keepdim=True)

    def add(self, x: Any, y: Any) -> Any:
        return x + (y if isinstance(y, self.torch.Tensor) else self.channels(y))

    def sub(self, x: Any, y: Any) -> Any:
        return x - self.channels(y)

    def mul(self, x: Any, y: Any) -> Any:
        return x * self.channels(y)

    def times(self, x: Any, y: Any) -> Any:
        return x * y

    def shuffle(self, x: Any, factor: int) -> Any:
        return self.f.pixel_shuffle(x, factor)

    def nearest(self, x: Any, factor: int) -> Any:
        return self.f.interpolate(x, scale_factor=factor, mode="nearest")


def graph_of(model: PackedModel, images: np.ndarray) -> bytes:
    """The ONNX graph of a packed network, for images of one size."""
    return onnx_model(model, size=images.shape[1:3]).SerializeToString()


def packed(model: PackedModel, images: np.ndarray, threads: int) -> Side:
    """This package's engine."""
    del images, threads  # it takes its threads from the CPUs that the process may use
    engine = engine_of(model)
    return lambda x: engine.run(x[0])[None]


class _FloatKernelConv(PackedFloatConv):
    """The same convolution, with a float kernel that holds the scale."""

    @nn.compact
    def __call__(
        self, x: jax.Array, signs: bool = True, train: bool = False, progress: Progress = 0.0
    ) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        return conv2d(x, self.param("kernel", nn.initializers.zeros, shape))


def jax_f32(model: PackedModel, images: np.ndarray, threads: int) -> Side:
    """The same modules with float convolutions, which are XLA's, jitted as a whole."""
    del threads
    config = model.config
    network = models.build(config, conv=_FloatKernelConv)
    params = jax.tree.map(jnp.asarray, float_params(model))
    run = jax.jit(lambda params, x: network.apply({"params": params}, x))
    with mock.patch.object(choose, "chosen_form", return_value="xla"):
        run = run.lower(params, jnp.asarray(images[:1])).compile()
    return lambda x: np.asarray(run(params, jnp.asarray(x)))


def torch_f32(model: PackedModel, images: np.ndarray, threads: int) -> Side:
    """PyTorch, traced, with images in channels-last layout."""
    import torch

    torch.set_num_threads(threads)
    example = torch.from_numpy(images[:1].transpose(0, 3, 1, 2))  # channels-last in memory
    with torch.inference_mode():
        traced: Any = torch.jit.trace(
            lambda x: build_network(TorchOps(), model, x), example, check_trace=False
        )

    @nchw
    def run(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            tensor = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
            return traced(tensor).numpy()

    return run


def openvino_f32(model: PackedModel, images: np.ndarray, threads: int) -> Side:
    """OpenVINO, with float32 asked for: it would take bfloat16 where the CPU has AMX."""
    import openvino

    graph = graph_of(model, images)
    return openvino_side(openvino.Core().read_model(graph), threads)


def openvino_int8(model: PackedModel, images: np.ndarray, threads: int) -> Side:
    """OpenVINO after NNCF's post-training quantisation, calibrated on the images."""
    import nncf
    import openvino

    nncf.set_log_level(logging.ERROR)
    graph = openvino.Core().read_model(graph_of(model, images))
    inputs = [{"x": x[None].transpose(0, 3, 1, 2).copy()} for x in images]
    quantised = nncf.quantize(
        graph,
        nncf.Dataset(inputs),
        subset_size=len(inputs),
        preset=nncf.QuantizationPreset.PERFORMANCE,
    )
    return openvino_side(quantised, threads)


def onnxruntime_f32(model: PackedModel, images: np.ndarray, threads: int) -> Side:
    """ONNX Runtime on the CPU."""
    return onnxruntime_side(graph_of(model, images), threads)


def onnxruntime_int8(model: PackedModel, images: np.ndarray, threads: int) -> Side:
    """ONNX Runtime after its static quantisation, calibrated on the images."""
    from onnxruntime import quantization

    class Images(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.left = [{"x": x[None].transpose(0, 3, 1, 2).copy()} for x in images]

        def get_next(self) -> Any:  # None after the last, which the parent's type leaves out
            return self.left.pop() if self.left else None

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "f32.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(graph_of(model, images))
        quantization.quantize_static(
            source,
            target,
            Images(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
        )
        return onnxruntime_side(target.read_bytes(), threads)


SIDES: dict[str, Callable[[PackedModel, np.ndarray, int], Side]] = {
    "packed": packed,
    "openvino-f32": openvino_f32,
    "openvino-int8": openvino_int8,
    "onnxruntime-f32": onnxruntime_f32,
    "onnxruntime-int8": onnxruntime_int8,
    "torch-f32": torch_f32,
    "jax-f32": jax_f32,
}
