"""ONNX graphs equal the packed network in ONNX Runtime, for everything that packs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from binsr_jax import models
from binsr_jax.commands import main
from binsr_jax.deploy.export.onnx_graph import onnx_model
from binsr_jax.deploy.model_file import load_model_file, save_model
from binsr_jax.errors import UserError
from binsr_jax.nn.attention import ATTENTION
from binsr_jax.nn.packed import PackedConv
from binsr_jax.nn.units import UNITS
from binsr_jax.pretrained import file_of

onnx = pytest.importorskip("onnx", reason="the library onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

ALL_BINARY = {"head": "binary", "tail": "binary", "hr_conv": "binary"}
NETWORKS = {
    **{f"unit {unit}": {"unit": unit} for unit in UNITS},
    **{
        f"attention {kind}": {"unit": "both", "residual_attention": kind, "binary_attention": kind}
        for kind in ATTENTION
    },
    "edsr x4": {"scale": 4, "image_skip": "bilinear", "residual_attention": "spatial"},
    "direct": {"scale": 3, "image_skip": "bilinear", "upsampler": "direct"},
    "edsr of floats": {"scale": 3, "unit": "residual", "body_end": "conv", "upsampler": "float"},
    "srresnet": {"name": "srresnet", "image_skip": "bilinear", "upsampler": "float"},
    "srresnet of bits": {"name": "srresnet", **ALL_BINARY},
    "dncnn": {"name": "dncnn", "task": "denoise", "scale": 1, "head_activation": "relu"},
    "grey": {"name": "dncnn", "task": "jpeg", "scale": 1, "bias": "all"},
    "rrdbnet": {"name": "rrdbnet", "task": "photo", "growth": 3},
    "srvgg": {"name": "srvgg", "task": "photo", "scale": 4},
}


def run(proto, x: np.ndarray) -> np.ndarray:
    """What ONNX Runtime computes, operation by operation, of images ``[B, h, w, C]``."""
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    # Otherwise it merges scales into kernels. Their sums are rounded, and near 0 a sign may flip.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x.transpose(0, 3, 1, 2)})[0].transpose(0, 2, 3, 1)


def packed(model, x: np.ndarray) -> np.ndarray:
    network = models.build(model.config, PackedConv)
    return np.asarray(jax.jit(network.apply)({"params": model.params}, jnp.asarray(x)))


def photo(channels: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(3).uniform(size=(*shape, channels)).astype(np.float32)


@pytest.mark.parametrize("fields", NETWORKS.values(), ids=NETWORKS)
def test_a_graph_equals_the_packed_network(fields, make_model):
    model = make_model(**fields)
    x = photo(model.task.channels, 1, 6, 8)
    expected = packed(model, x)
    tolerance = 1e-4 * max(1.0, np.abs(expected).max())
    graph = onnx_model(model)
    np.testing.assert_allclose(run(graph, x), expected, atol=tolerance)
    # Sizes are free, and int8 has the same integers.
    x = photo(model.task.channels, 2, 4, 12)
    y = run(graph, x)
    assert y.shape == (2, 4 * model.task.scale, 12 * model.task.scale, model.task.channels)
    np.testing.assert_allclose(run(onnx_model(model, int8=True), x), y, atol=tolerance)


def test_int8_has_signs_as_int8_and_free_sizes():
    model = load_model_file(file_of("x2"))
    graph = onnx_model(model, int8=True).graph
    kernels = [onnx.numpy_helper.to_array(c) for c in graph.initializer]
    binary = [k for k in kernels if k.dtype == np.int8 and k.ndim == 4]
    assert len(binary) == 2 * model.config.model.blocks + 2  # body, its end, and the upsampler
    assert all(set(np.unique(kernel)) == {-1, 1} for kernel in binary)
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("QuantizeLinear") == len(binary)
    sides = [d.dim_param for d in graph.input[0].type.tensor_type.shape.dim]
    assert sides == ["b", "", "h", "w"]


def test_the_command_writes_both_forms(make_model, tmp_path, capsys):
    model = make_model(image_skip="bilinear")
    save_model(tmp_path / "m.binsr", model)
    x = photo(3, 1, 5, 7)
    for form in ("onnx", "onnx-int8"):
        file = tmp_path / f"{form}.onnx"
        assert main(["export", str(tmp_path / "m.binsr"), "--to", form, "-o", str(file)]) == 0
        proto = onnx.load(file)
        assert {p.key: p.value for p in proto.metadata_props}["task"] == "SR x2"
        np.testing.assert_allclose(run(proto, x), packed(model, x), atol=1e-3)
    capsys.readouterr()


def test_an_operation_without_a_form_is_refused(make_model, monkeypatch):
    from binsr_jax.deploy.export import onnx_graph

    monkeypatch.setattr(
        onnx_graph, "function_of", lambda model, conv: (lambda x: jnp.sort(x, axis=1), 1)
    )
    with pytest.raises(UserError, match="an operation that ONNX export does not know: sort"):
        onnx_graph.onnx_model(make_model())
