"""Compares binary networks with small float networks of the same quality: PSNR and time.

    python benchmarks/pareto.py --figure docs/images/pareto.png        # some minutes

`benchmarks/inference.py` compares a network with the same network in floats. This program compares
it with other networks for the same task: plain float networks that were designed to be small, with
random weights in OpenVINO, beside all packaged networks and BBCU's published ones in this package's
engine. Time does not depend on the weights. The PSNR of a packaged network is that of its file; the
PSNR of every other network is the one that its paper published, or that later papers cite for it.
In a round every network runs once; its time is that of its fastest round. Prints Markdown. Needs
the extra ``bench``.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from inference import make_images, print_machine, print_table, random_model, run_job

# The scores that networks are compared by, where a task has published rows.
SCORES = {"SR x2": "Set5", "SR x4": "Set5", "Colour denoising": "CBSD68-25"}
PUBLISHED, CITED, MEASURED = "published", "as commonly cited", "measured here"


class Plain:
    """A float network on ``[1, 3, size, size]``, built operation by operation in OpenVINO.

    Attributes:
        x: the latest features.
        multiplications: of the convolutions, per pixel of the input.
    """

    def __init__(self, size: int) -> None:
        from openvino import opset13

        self._ops, self._size, self._rng = opset13, size, np.random.default_rng(0)
        self.input = self.x = opset13.parameter([1, 3, size, size], np.float32, name="x")
        self.multiplications = 0.0

    def conv(self, outputs: int, kernel: int = 3, activation: str = "") -> "Plain":
        """A convolution with a bias, and ``"relu"``, ``"prelu"``, ``"leaky"`` or nothing."""
        inputs = self._channels()
        weights = self._random(outputs, inputs, kernel, kernel)
        pad = [kernel // 2] * 2
        self.x = self._ops.convolution(self.x, weights, [1, 1], pad, pad, [1, 1])
        self._count(weights, self._side() ** 2)
        self.x = self._ops.add(self.x, self._random(1, outputs, 1, 1))
        return self.activate(activation)

    def activate(self, activation: str) -> "Plain":
        if activation == "relu":
            self.x = self._ops.relu(self.x)
        elif activation:
            slopes = np.full(self._channels() if activation == "prelu" else 1, 0.1, np.float32)
            self.x = self._ops.prelu(self.x, self._ops.constant(slopes))
        return self

    def transposed(self, outputs: int, kernel: int, scale: int) -> "Plain":
        """A transposed convolution that enlarges."""
        weights = self._random(self._channels(), outputs, kernel, kernel)
        self._count(weights, self._side() ** 2)
        before = kernel // 2
        self.x = self._ops.convolution_backprop_data(
            self.x,
            weights,
            strides=[scale, scale],
            pads_begin=[before, before],
            pads_end=[before, before],
            output_padding=[scale - 1, scale - 1],
        )
        return self

    def shuffle(self, scale: int) -> "Plain":
        self.x = self._ops.depth_to_space(self.x, "depth_first", scale)
        return self

    def add(self, other: Any) -> "Plain":
        self.x = self._ops.add(self.x, other)
        return self

    def enlarged_input(self, mode: str, scale: int) -> Any:
        """The input, ``scale`` times larger by ``"nearest"`` or ``"linear_onnx"``."""
        side = np.array([scale * self._size] * 2, np.int64)
        axes = self._ops.constant(np.array([2, 3], np.int64))
        return self._ops.interpolate(self.input, self._ops.constant(side), mode, "sizes", axes=axes)

    def graph(self) -> Any:
        import openvino

        model: Any = openvino.Model  # its stubs describe other classes than its own functions
        return model([self.x], [self.input], "plain")

    def _channels(self) -> int:
        return int(self.x.get_output_shape(0)[1])

    def _side(self) -> int:
        return int(self.x.get_output_shape(0)[2])

    def _count(self, weights: Any, positions: int) -> None:
        self.multiplications += float(np.prod(weights.get_output_shape(0))) * (
            positions / self._size**2
        )

    def _random(self, *shape: int) -> Any:
        deviation = float(np.prod(shape[1:])) ** -0.5
        values = self._rng.normal(0, deviation, shape)
        return self._ops.constant(values.astype(np.float32))


def ecbsr(net: Plain, depth: int, width: int, ends: int = 3) -> None:
    """ECBSR after its branches were merged; SESR is the same with ``ends`` of 5."""
    net.conv(width, ends, "prelu")
    for _ in range(depth):
        net.conv(width, 3, "prelu")
    net.conv(12, ends).shuffle(2).add(net.enlarged_input("nearest", 2))


def fsrcnn(net: Plain) -> None:
    """FSRCNN with d = 56, s = 12, m = 4."""
    net.conv(56, 5, "prelu").conv(12, 1, "prelu")
    for _ in range(4):
        net.conv(12, 3, "prelu")
    net.conv(56, 1, "prelu").transposed(3, 9, 2)


def srresnet(net: Plain, width: int, scale: int) -> None:
    """SRResNet of the BBCU paper: 16 blocks without batch normalisation, a convolution at HR."""
    net.conv(width, 3, "leaky")
    for _ in range(16):
        x = net.x
        net.conv(width, 3, "relu").conv(width).add(x)
    for _ in range(scale // 2):
        net.conv(4 * width).shuffle(2).activate("leaky")
    net.conv(width, 3, "leaky").conv(3).add(net.enlarged_input("linear_onnx", scale))


def dncnn(net: Plain, width: int) -> None:
    """DnCNN of 20 layers, batch normalisation folded."""
    for _ in range(19):
        net.conv(width, 3, "relu")
    net.conv(3).add(net.input)


@dataclass(frozen=True)
class Float:
    """A plain float network.

    Attributes:
        task: a key of ``SCORES``.
        psnr: in dB, on the set of ``SCORES``.
        source: ``PUBLISHED`` or ``CITED``.
        build: adds its layers to a ``Plain``.
    """

    task: str
    psnr: float
    source: str
    build: Callable[[Plain], None]


FLOATS = {
    "FSRCNN": Float("SR x2", 37.00, PUBLISHED, fsrcnn),
    "ECBSR-M4C16": Float("SR x2", 37.33, CITED, lambda net: ecbsr(net, 4, 16)),
    "SESR-M5": Float("SR x2", 37.39, CITED, lambda net: ecbsr(net, 5, 16, 5)),
    "SESR-M11": Float("SR x2", 37.58, CITED, lambda net: ecbsr(net, 11, 16, 5)),
    "ECBSR-M10C32": Float("SR x2", 37.76, CITED, lambda net: ecbsr(net, 10, 32)),
    "ECBSR-M16C64": Float("SR x2", 37.90, PUBLISHED, lambda net: ecbsr(net, 16, 64)),
    "SRResNet-Lite": Float("SR x2", 37.21, PUBLISHED, lambda net: srresnet(net, 12, 2)),
    "SRResNet": Float("SR x2", 38.00, PUBLISHED, lambda net: srresnet(net, 64, 2)),
    "SRResNet-Lite x4": Float("SR x4", 31.40, PUBLISHED, lambda net: srresnet(net, 12, 4)),
    "DnCNN-Lite": Float("Colour denoising", 29.64, PUBLISHED, lambda net: dncnn(net, 12)),
    "DnCNN": Float("Colour denoising", 31.24, PUBLISHED, lambda net: dncnn(net, 64)),
}


def published_binary() -> dict[str, tuple[str, Any, float]]:
    """BBCU's networks by name: task, config, published PSNR."""
    from binsr_jax.configs import bbcu_sr, denoise

    rows = {
        "BBCU-L": ("SR x2", bbcu_sr, "row=bbcu_l,scale=2"),
        "BBCU-M": ("SR x2", bbcu_sr, "row=bbcu_m,scale=2"),
        "BBCU-L x4": ("SR x4", bbcu_sr, "row=bbcu_l,scale=4"),
        "BBCU-M x4": ("SR x4", bbcu_sr, "row=bbcu_m,scale=4"),
        "BBCU, denoising": ("Colour denoising", denoise, "row=bbcu"),
    }
    return {
        name: (task, recipe.get_config(row), recipe.ROWS[row].scores[SCORES[task]])
        for name, (task, recipe, row) in rows.items()
    }


def time_job(size: int, threads: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Of every network: task, PSNR, operations, and the milliseconds of its fastest round."""
    import peers

    from binsr_jax import cost
    from binsr_jax.deploy.cards import cards
    from binsr_jax.deploy.model_file import load_model_file

    image = make_images(size, 1)
    rows: dict[str, dict[str, Any]] = {}
    runs: dict[str, Any] = {}
    for name, plain in FLOATS.items():
        plain.build(net := Plain(size))
        runs[name] = peers.openvino_side(net.graph(), threads)
        rows[name] = {
            "task": plain.task,
            "psnr": plain.psnr,
            "source": plain.source,
            "engine": "OpenVINO",
            "floats": net.multiplications,
            "bits": 0.0,
        }
    binary: dict[str, tuple[str, Any, float | None, str]] = {
        name: (task, random_model(config), psnr, PUBLISHED)
        for name, (task, config, psnr) in published_binary().items()
    }
    for card in cards():
        psnr = card.scores.get(f"{SCORES.get(card.task, '')}/psnr")
        model = load_model_file(card.file)
        binary[f"{card.name} (packaged)"] = (card.task, model, psnr, MEASURED if psnr else "")
    for name, (task, model, psnr, source) in binary.items():
        runs[name] = peers.packed(model, image, threads)
        counted = cost.count(model.config, (size, size))
        rows[name] = {
            "task": task,
            "psnr": psnr,
            "source": source,
            "engine": "binsr-jax",
            "floats": counted.float_macs / size**2,
            "bits": counted.binary_macs / size**2,
        }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run(image)
            times[name].append(1e3 * (time.perf_counter() - start))
    for name, row in rows.items():
        row["ms"] = min(times[name][1:])  # the first round warms up
    return rows


def figure(results: dict[int, dict[str, dict[str, Any]]]) -> Any:
    """PSNR over milliseconds for x2, a panel a size."""
    from matplotlib.figure import Figure

    shown = Figure(figsize=(11, 4.5), layout="constrained")
    panels = shown.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for axes, (size, rows) in zip(panels, results.items(), strict=True):
        for engine, source, mark in (
            ("OpenVINO", (PUBLISHED, CITED), "o"),
            ("binsr-jax", (PUBLISHED,), "s"),
            ("binsr-jax", (MEASURED,), "*"),
        ):
            own = {
                name: row
                for name, row in rows.items()
                if row["task"] == "SR x2" and row["engine"] == engine and row["source"] in source
            }
            label = f"{'float' if engine == 'OpenVINO' else 'binary'}, {engine}: PSNR {source[0]}"
            axes.plot(
                [row["ms"] for row in own.values()],
                [row["psnr"] for row in own.values()],
                mark,
                markersize=11 if mark == "*" else 7,
                label=label,
            )
            for name, row in own.items():
                axes.annotate(
                    name.removesuffix(" (packaged)"),
                    (row["ms"], row["psnr"]),
                    fontsize="x-small",
                    xytext=(5, 4),
                    textcoords="offset points",
                )
        axes.set(xscale="log", xlabel=f"milliseconds, LR {size}x{size}")
        axes.set_xlim(right=2 * axes.get_xlim()[1])  # so that the slowest network's name fits
        axes.grid(alpha=0.3)
    panels[0].set(ylabel="PSNR on Set5 x2, dB")
    panels[0].legend(fontsize="small", loc="upper left")
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="128,256", help="sides of the LR image")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10, help="at 128; fewer for larger images")
    parser.add_argument("--figure", type=Path, help="write PSNR over time for x2 to this file")
    parser.add_argument("--job", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        print(json.dumps(time_job(**json.loads(args.job))))
        return
    print_machine()
    results = {}
    for size in map(int, args.sizes.split(",")):
        rounds = max(3, args.rounds * 128 // size)
        job = {"size": size, "threads": args.threads, "rounds": rounds}
        results[size] = run_job(job, args.threads, __file__)
    first = next(iter(results.values()))
    for task in dict.fromkeys(row["task"] for row in first.values()):
        print(f"### {task}, {args.threads} threads\n")
        columns = ["network", "runs in", "float multiplications a pixel, K", "on bits, K"]
        columns += [f"PSNR, {SCORES[task]}" if task in SCORES else "PSNR", ""]
        columns += [f"{size}x{size}, ms" for size in results]
        names = [name for name, row in first.items() if row["task"] == task]
        names.sort(key=lambda name: first[name]["ms"])
        print_table(columns, [_cells(name, results) for name in names])
    if args.figure:
        from binsr_jax.studies.figures import save

        save(figure(results), args.figure)


def _cells(name: str, results: dict[int, dict[str, dict[str, Any]]]) -> list[Any]:
    """The row of a network in its table."""
    row = next(iter(results.values()))[name]
    psnr = f"{row['psnr']:.2f}" if row["psnr"] else ""
    times = [rows[name]["ms"] for rows in results.values()]
    operations = [row["floats"] / 1e3, row["bits"] / 1e3]
    return [name, row["engine"], *operations, psnr, row["source"], *times]


if __name__ == "__main__":
    main()
