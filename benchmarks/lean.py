"""The sides of the inference benchmark that a user runs with one library, and without JAX.

A side loads a file from a folder, which ``inference.files_job`` writes. It is a function of float32
images ``[1, h, w, 3]`` to ``[1, s h, s w, 3]``. So the memory of its process is that of its library
and of its work.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Side = Callable[[np.ndarray], np.ndarray]
MODEL, GRAPH = "model.safetensors", "model.onnx"


def nchw(side: Side) -> Side:
    """A side of one that takes ``[1, 3, h, w]``."""

    def run(x: np.ndarray) -> np.ndarray:
        return side(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).transpose(0, 2, 3, 1)

    return run


def openvino_side(graph: Any, threads: int) -> Side:
    """OpenVINO on a graph or its file, with float32 asked for."""
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = openvino.Core().compile_model(graph, "CPU", options).create_infer_request()

    @nchw
    def run(x: np.ndarray) -> np.ndarray:
        request.infer({0: x})
        return request.get_output_tensor(0).data

    return run


def onnxruntime_side(graph: bytes | str, threads: int) -> Side:
    """ONNX Runtime on the content of a graph or its file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return nchw(lambda x: np.asarray(session.run(None, {"x": x})[0]))


def packed(folder: Path, threads: int) -> Side:
    """The packed model as ``binsr upscale`` runs it, from the cached program if it is one."""
    from binsr_jax.deploy.loading import load_engine

    del threads  # it takes its threads from the CPUs that the process may use
    engine = load_engine(folder / MODEL)
    return lambda x: engine.run(x[0])[None]


SIDES: dict[str, Callable[[Path, int], Side]] = {
    "packed": packed,
    "openvino-f32": lambda folder, threads: openvino_side(str(folder / GRAPH), threads),
    "onnxruntime-f32": lambda folder, threads: onnxruntime_side(str(folder / GRAPH), threads),
}
