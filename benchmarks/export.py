"""Measures the size and the time of each form of `binsr export`, beside this package.

    python benchmarks/export.py --size 256 --rounds 7

Each form of a packaged network restores the same crop of a packaged photograph. All programs of a
network take turns, so that other work on the machine affects all alike. The table has the bytes of
each file, the median time, its ratio to this package's, and the largest difference of the outputs
in levels of 255. All files accept any image size. Prints Markdown. Needs the extra ``bench`` and a
C compiler.
"""

import argparse
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from inference import print_machine, print_table
from jax import export
from PIL import Image

from binsr_jax.commands import main as binsr
from binsr_jax.data.sources import SAMPLES
from binsr_jax.deploy.loading import engine_of
from binsr_jax.deploy.model_file import load_model_file
from binsr_jax.pretrained import file_of

Side = Callable[[np.ndarray], np.ndarray]  # [h, w, 3] in 0..1 to [s h, s w, 3]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["x2", "denoise"])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    print_machine()
    photo = Image.open(SAMPLES / "valid" / "osprey.png").convert("RGB").resize((args.size,) * 2)
    image = np.asarray(photo, np.float32) / 255
    for name in args.models:
        print(f"### {name}, {args.size} x {args.size}, {args.threads} threads\n")
        with tempfile.TemporaryDirectory() as folder:
            print_rows(name, Path(folder), image, args.rounds, args.threads)


def print_rows(name: str, folder: Path, image: np.ndarray, rounds: int, threads: int) -> None:
    sides = made(name, folder, threads)
    outputs = {side: run(image) for side, (run, _) in sides.items()}  # which compiles
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, (run, _) in sides.items():
            start = time.perf_counter()
            run(image)
            times[side].append(1e3 * (time.perf_counter() - start))
    medians = {side: float(np.median(samples)) for side, samples in times.items()}
    ours = next(iter(sides))
    rows = [
        [
            side,
            f"{size:,}",
            medians[side],
            medians[side] / medians[ours],
            f"{255 * np.abs(outputs[side] - outputs[ours]).max():.3f}",
        ]
        for side, (_, size) in sides.items()
    ]
    print_table(["program", "bytes", "median, ms", "times ours", "levels"], rows)


def made(name: str, folder: Path, threads: int) -> dict[str, tuple[Side, int]]:
    """The programs by name, ours first, and their files' bytes."""
    files = {form: folder / form for form in ("stablehlo", "onnx", "onnx-int8")} | {
        "c": folder / "m.h"
    }
    for form, file in files.items():
        if binsr(["export", name, "--to", form, "-o", str(file)]):
            raise SystemExit(f"{form} cannot be written")
    size = {form: file.stat().st_size for form, file in files.items()}
    model = load_model_file(file_of(name))
    program = export.deserialize(bytearray(files["stablehlo"].read_bytes()))
    sides: dict[str, tuple[Side, int]] = {
        "this package": (engine_of(model).run, file_of(name).stat().st_size),
        "StableHLO, JAX": (lambda x: np.asarray(program.call(x[None]))[0], size["stablehlo"]),
    }
    for form in ("onnx", "onnx-int8"):
        sides[f"{form}, ONNX Runtime"] = onnxruntime(files[form], threads), size[form]
        sides[f"{form}, OpenVINO"] = openvino(files[form], threads), size[form]
    if shutil.which("cc"):
        command = ["cc", "-O3", "-march=native", "-o", "restore", "m.c", "-lm"]
        subprocess.run(command, check=True, cwd=folder)
        sides["C, one thread"] = in_c(folder), size["c"]
    return sides


def _nchw(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(2, 0, 1))[None]


def onnxruntime(file: Path, threads: int) -> Side:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda x: np.asarray(session.run(None, {"x": _nchw(x)})[0])[0].transpose(1, 2, 0)


def openvino(file: Path, threads: int) -> Side:
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",  # it would take bfloat16 where the CPU has AMX
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    request = core.compile_model(core.read_model(file), "CPU", options).create_infer_request()

    def run(x: np.ndarray) -> np.ndarray:
        request.infer({0: _nchw(x)})
        return request.get_output_tensor(0).data[0].transpose(1, 2, 0).copy()

    return run


def in_c(folder: Path) -> Side:
    """The reader as a process: the time has its start and both files. Its output is rounded."""

    def run(x: np.ndarray) -> np.ndarray:
        Image.fromarray(np.rint(255 * x).astype(np.uint8)).save(folder / "x.ppm")
        with open(folder / "x.ppm") as given, open(folder / "y.ppm", "w") as made:
            subprocess.run([folder / "restore"], stdin=given, stdout=made, check=True)
        return np.asarray(Image.open(folder / "y.ppm"), np.float32) / 255

    return run


if __name__ == "__main__":
    main()
