"""Measures time and memory of packed inference, beside float networks of the same shape.

    python benchmarks/inference.py                             # everything, about half an hour
    python benchmarks/inference.py --sizes 128 --threads 2 --rounds 5 --attentions none --no-memory

The network is EDSR of 64 channels for x2 with 32 binary convolutions in its body, with random
parameters (time does not depend on them), or the one of ``--model``. All sides have its parameters,
and their outputs for one image are compared before the timing. In a round every side runs once, the
packed one several times. Ratios are computed within a round, so that other work on the machine
affects both. Prints Markdown. Needs the extra ``bench``.
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "jaxlib", "openvino", "nncf", "onnxruntime", "torch", "numpy")
FLAGS = ("avx2", "avx512f", "avx512_vpopcntdq", "avx512_vnni", "amx_int8", "amx_bf16")
PEERS = "openvino-f32,openvino-int8,onnxruntime-f32,onnxruntime-int8,torch-f32,jax-f32"
ATTENTIONS = "none/none,spatial/none,none/se,spatial/se,pixel/none"
# What holds the sides to the instructions of an older CPU: oneDNN is OpenVINO's and PyTorch's. ONNX
# Runtime cannot be held.
ISAS = {
    "avx512": {
        "BINSR_KERNEL": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI",
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX512",
    },
    "avx2": {
        "CXX": f"{sys.executable} {Path(__file__).with_name('older_cpu.py')}",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
    },
}
# Runs of the packed side in a round: it takes a fraction of the others' time.
PACKED_RUNS = 4


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="128,256,512", help="sides of the LR image")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--peers", default=PEERS, help="those to compare with, or nothing")
    parser.add_argument("--rounds", type=int, default=10, help="at 128; fewer for larger images")
    parser.add_argument(
        "--attentions", default=ATTENTIONS, help="residual/binary pairs, at 128; or nothing"
    )
    parser.add_argument("--attention-peer", default="openvino-f32")
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak memory")
    parser.add_argument(
        "--isa", choices=ISAS, help="hold all sides to these instructions, as on an older CPU"
    )
    parser.add_argument("--model", default="", help="a model file, instead of random parameters")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        print(json.dumps(JOBS[(job := json.loads(args.job)).pop("kind")](**job)))
        return

    def listed(text: str) -> list[str]:
        return [part for part in text.split(",") if part]

    if args.isa:
        if "onnxruntime" in args.peers:
            parser.error("ONNX Runtime cannot be held to --isa: leave it out of --peers")
        os.environ |= ISAS[args.isa]
        print(f"- all sides are held to {args.isa}")
    threads = [int(n) for n in listed(args.threads)]
    sizes = [int(n) for n in listed(args.sizes)]
    base = {"model": args.model, "attention": ""}
    print_machine()
    per_pixel = []
    for count, size in itertools.product(threads, sizes):
        sides = ["packed", *listed(args.peers)]
        rounds = max(3, args.rounds * 128 // size)
        job = {"kind": "time", "sides": sides, "size": size, "threads": count, "rounds": rounds}
        result = run_job(base | job, count)
        heading = f"LR {size}x{size}, {count} thread{'s'[: count > 1]}, {rounds} rounds"
        print_times(heading, result)
        per_pixel.append([count, f"{size}x{size}", result["packed"]["median"] * 1e6 / size**2])
    print("### Packed: time against pixels\n")
    print_table(["threads", "LR", "ns a pixel"], per_pixel)
    rows = []
    for count, attention in itertools.product(threads, listed(args.attentions)):
        sides = ["packed", args.attention_peer]
        job = {"kind": "time", "sides": sides, "size": 128, "threads": count}
        result = run_job(base | job | {"attention": attention, "rounds": args.rounds}, count)
        peer = result[args.attention_peer]
        rows.append(
            [attention, count, result["packed"]["median"], peer["median"], ratio_text(peer)]
        )
    if rows:
        print("### Attention (residual/binary), LR 128x128\n")
        columns = ["attention", "threads", "packed, ms", f"{args.attention_peer}, ms", "ratio"]
        print_table(columns, rows)
    for count in threads:
        parts = run_job(base | {"kind": "parts", "size": 128}, count)
        whole = sum(parts.values())
        print(f"### Parts of the packed network, LR 128x128, threads: {count}\n")
        shares = [[name, ms, f"{ms / whole:.0%}"] for name, ms in parts.items()]
        print_table(["part", "ms", "share"], shares)
    if not args.no_memory:
        size, count = max(sizes), max(threads)
        rows = []
        with tempfile.TemporaryDirectory() as folder:
            files = base | {"size": size, "folder": folder}
            run_job(files | {"kind": "files"}, count)
            for side in ("packed", *listed(args.peers)):
                peaks = run_job(files | {"kind": "memory", "side": side, "threads": count}, count)
                rows.append([side, peaks["peak"], peaks["peak"] - peaks["before"]])
        print(f"### Peak memory, LR {size}x{size}, a process each\n")
        print_table(["side", "peak, MB", "of it since numpy was loaded, or JAX, MB"], rows)


def run_job(job: dict[str, Any], threads: int, script: str = __file__) -> dict[str, Any]:
    """Runs a job in a process of its own that may use some CPUs alone, and returns its result."""
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, script, "--job", json.dumps(job)],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cpus),
    )
    return json.loads(done.stdout.splitlines()[-1])


def make_model(file: str, attention: str) -> Any:
    """The packed model of a file; or one with random parameters, of BBCU or attention units."""
    from binsr_jax.config import default
    from binsr_jax.deploy.model_file import load_model_file

    if file:
        return load_model_file(file)
    config = default()
    config.model.unit = "attention" if attention else "bbcu"
    if attention:
        config.model.residual_attention, config.model.binary_attention = attention.split("/")
    return random_model(config)


def random_model(config: Any) -> Any:
    """A packed model with random parameters."""
    import jax
    import numpy as np

    from binsr_jax.deploy.model_file import PackedModel
    from binsr_jax.deploy.pack import pack_params
    from binsr_jax.models import build

    image = np.zeros((1, 2, 2, 3), np.float32)
    variables = jax.jit(build(config).init)(jax.random.key(0), image)
    rng = np.random.default_rng(0)

    def moved(leaf: jax.Array) -> np.ndarray:
        # What starts at zero is moved, so that no operation can be left out.
        noise = 0.05 * rng.normal(size=leaf.shape) if leaf.ndim < 4 else 0.0
        return np.asarray(leaf + noise, np.float32)

    return PackedModel(config, pack_params(config, jax.tree.map(moved, variables)), {})


def make_images(size: int, count: int = 4) -> Any:
    """Photographs of the package, repeated to a size: ``[count, size, size, 3]`` in 0..1."""
    import numpy as np

    from binsr_jax.data.images import read_rgb
    from binsr_jax.data.sources import SAMPLES
    from binsr_jax.image_files import list_images

    images = []
    for file in itertools.islice(itertools.cycle(list_images(SAMPLES / "valid")), count):
        image = read_rgb(file)
        repeats = [-(-size // side) for side in image.shape[:2]]
        images.append(np.tile(image, (*repeats, 1))[:size, :size])
    return np.stack(images).astype(np.float32) / 255


def time_job(
    sides: list[str], size: int, threads: int, rounds: int, model: str, attention: str
) -> dict[str, Any]:
    """Milliseconds of each side: median, and its ratio to the packed one in every round."""
    import numpy as np
    import peers

    network, images = make_model(model, attention), make_images(size)
    runs = {name: peers.SIDES[name](network, images, threads) for name in sides}
    outputs = {name: run(images[:1]) for name, run in runs.items()}
    spread = float(np.ptp(outputs["packed"]))

    def decibels(output: np.ndarray) -> float:
        return float(20 * np.log10(spread / np.sqrt(np.mean((output - outputs["packed"]) ** 2))))

    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            samples = []
            for _ in range(PACKED_RUNS if name == "packed" else 1):
                start = time.perf_counter()
                run(images[:1])
                samples.append(1e3 * (time.perf_counter() - start))
            times[name].append(float(np.median(samples)))
    result: dict[str, Any] = {}
    for name in sides:
        ratios = np.array(times[name][1:]) / times["packed"][1:]  # the first round warms up
        low, middle, high = np.percentile(ratios, [10, 50, 90]).tolist()
        result[name] = {"median": float(np.median(times[name][1:])), "ratio": [low, middle, high]}
        if name != "packed":
            result[name]["decibels"] = decibels(outputs[name])
            if result[name]["decibels"] < (20 if "int8" in name else 40):
                raise SystemExit(f"{name} is not the same network: {result[name]['decibels']} dB")
    return result


def parts_job(size: int, model: str, attention: str) -> dict[str, float]:
    """Milliseconds of the parts of the packed network."""
    import jax
    import numpy as np

    from binsr_jax.deploy.engine import Engine
    from binsr_jax.nn.conv import Conv

    network = make_model(model, attention)
    engine, params = Engine(network), network.params
    options = {"xla_cpu_prefer_vector_width": "512"}

    def milliseconds(run: Callable[..., Any], *inputs: Any) -> float:
        samples = []
        for _ in range(20):
            start = time.perf_counter()
            jax.block_until_ready(run(*inputs))
            samples.append(1e3 * (time.perf_counter() - start))
        return float(np.median(samples[3:]))

    def conv(name: str) -> Callable[..., Any]:
        outputs = params[name]["bias"].size
        apply = jax.jit(Conv(outputs).apply, compiler_options=options)
        return lambda x: apply({"params": params[name]}, x)

    x = jax.numpy.asarray(make_images(size, 1))
    features, _ = engine._extract(params, None, x)
    large = network.config.scale * size
    high = jax.numpy.ones((1, large, large, features.shape[-1]), jax.numpy.float32)
    head, tail = milliseconds(conv("head"), x), milliseconds(conv("tail"), high)
    extract = milliseconds(engine._extract, params, None, x)
    rest = milliseconds(engine._reconstruct, params, features, x)
    return {
        "head, float": head,
        "units, convolution binary": extract - head,
        "upsampler, convolution binary": rest - tail,
        "tail, float": tail,
    }


def files_job(size: int, model: str, attention: str, folder: str) -> dict[str, float]:
    """Writes the files that the sides of `lean` load, and runs the packed one, which caches it."""
    import lean
    import peers

    from binsr_jax.deploy.model_file import save_model

    network, images = make_model(model, attention), make_images(size, 1)
    save_model(Path(folder) / lean.MODEL, network)
    (Path(folder) / lean.GRAPH).write_bytes(peers.graph_of(network, images))
    lean.packed(Path(folder), 1)(images[:, :8, :8])
    return {}


def memory_job(
    side: str, size: int, threads: int, model: str, attention: str, folder: str
) -> dict[str, float]:
    """Megabytes of this process at its peak, when one side has run."""
    import lean
    import numpy as np

    if side in lean.SIDES:
        images = np.random.default_rng(0).random((1, size, size, 3), np.float32)
        before = _peak()
        run = lean.SIDES[side](Path(folder), threads)
    else:
        import peers

        network, images = make_model(model, attention), make_images(size)
        before = _peak()
        run = peers.SIDES[side](network, images[: 4 if "int8" in side else 1], threads)
    for _ in range(3):
        run(images[:1])
    return {"peak": _peak(), "before": before}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000  # of kB on Linux


JOBS: dict[str, Callable[..., Any]] = {
    "time": time_job,
    "parts": parts_job,
    "files": files_job,
    "memory": memory_job,
}


def print_machine() -> None:
    """The CPU, its flags that matter here, our form for it, and the versions of the libraries."""
    from binsr_jax.ops.native import choose

    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*:\s*(.*)", text)
    flags = re.search(r"flags\s*:\s*(.*)", text)
    present = set(flags[1].split()) if flags else set()
    print(f"- CPU: {name[1] if name else platform.processor()}")
    print("- flags: " + ", ".join(f"{f}: {'yes' if f in present else 'no'}" for f in FLAGS))
    print(f"- packed convolution: {choose.chosen_form()}")
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    print(f"- Python {platform.python_version()}, " + ", ".join(versions) + "\n")


def print_times(heading: str, result: dict[str, Any]) -> None:
    """One table of sides, slowest ratio last."""
    print(f"### {heading}\n")
    rows = []
    for name, side in sorted(result.items(), key=lambda item: item[1]["ratio"][1]):
        agreement = f"{side['decibels']:.0f} dB" if "decibels" in side else ""
        rows.append([name, side["median"], ratio_text(side), agreement])
    print_table(["side", "median, ms", "times packed (10 % .. 90 %)", "agreement"], rows)


def ratio_text(side: dict[str, Any]) -> str:
    low, middle, high = side["ratio"]
    return f"{middle:.2f} ({low:.2f} .. {high:.2f})"


def print_table(columns: list[str], rows: list[list[Any]]) -> None:
    def line(cells: list[Any]) -> str:
        texts = [f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in cells]
        return "| " + " | ".join(texts) + " |"

    print("\n".join([line(columns), "|---" * len(columns) + "|", *map(line, rows)]) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
