"""Pruned networks beside networks that were trained at their size: PSNR, bytes and time."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from binsr_jax import models
from binsr_jax.compress.prune import Pruned
from binsr_jax.config import Config, copy_of
from binsr_jax.deploy.cards import seconds_per_megapixel
from binsr_jax.deploy.pack import pack
from binsr_jax.evaluation.benchmark import network_validator
from binsr_jax.recipes import Published
from binsr_jax.studies.figures import legend
from binsr_jax.studies.rows import Row
from binsr_jax.training.trainable import Network, save_trainable

WHOLE, PRUNED, ANEW = "whole", "pruned", "trained at this size"


def rows(
    source: Path, whole: Network, smaller: Sequence[Pruned], config: Config, folder: Path
) -> list[Row]:
    """The rows: the whole network and each pruned one, trained further, and new ones of each size.

    All rows have the same number of steps, so that none has an advantage after the pruning. Pruned
    networks are written to ``folder``.

    Args:
        source: The path of the whole network.
        whole: The whole network.
        smaller: The pruned networks.
        config: The budget and the data of all rows; its ``model`` is not used.
        folder: An existing folder for trainable files.
    """
    found = [_row(WHOLE, whole, config, str(source))]
    for pruned in smaller:
        name = _size(pruned.network.config)
        file = folder / f"pruned-{name}.safetensors"
        save_trainable(file, pruned.network)
        found.append(_row(PRUNED, pruned.network, config, str(file)))
        found.append(_row(ANEW, pruned.network, config, ""))
    return found


def _row(kind: str, network: Network, config: Config, start: str) -> Row:
    own, size = copy_of(config), _size(network.config)
    own.model.update(network.config.model.to_dict())
    own.train.init_from = start
    title = f"{kind}, {own.model.blocks} blocks of {own.model.features} channels"
    return Row(f"{kind.split()[0]}-{size}", kind, title, own.lock(), Published(title))


def _size(config: Config) -> str:
    return f"b{config.model.blocks}-n{config.model.features}"


def untrained(network: Network, config: Config) -> dict[str, Any]:
    """The title and the scores of a pruned network before further training.

    Args:
        network: The pruned network.
        config: The config, with the benchmark sets.
    """
    row = _row(f"{PRUNED}, not trained on", network, config, "")
    scores = network_validator(row.config, models.build(row.config))(network.variables, 0).scores
    return {"title": row.title, "scores": scores}


def measured(workdir: Path, file: Path, side: int) -> dict[str, Any]:
    """The bytes of a row's model file, and the seconds that a million pixels take.

    Args:
        workdir: The row's work dir.
        file: The model file to write.
        side: The side of the picture for the measurement.
    """
    pack(workdir, file, "latest")
    seconds = seconds_per_megapixel(str(file), side)
    return {"file_bytes": file.stat().st_size, "seconds_per_megapixel": seconds}


def figure(points: Sequence[dict[str, Any]]) -> Figure:
    """A plot of PSNR on the first set against bytes and time, with a line for each kind of row.

    Args:
        points: Each is ``{"kind", "features", "scores", "file_bytes", "seconds_per_megapixel"}``.
    """
    names = [n for point in points for n in point["scores"] if n.endswith("/psnr")]
    name = next(iter(names), "")
    axes_of: dict[str, Callable[[dict[str, Any]], float]] = {
        "kB in a model file": lambda point: point["file_bytes"] / 1e3,
        "seconds a megapixel": lambda point: point["seconds_per_megapixel"],
    }
    shown = Figure(figsize=(11, 4.2), layout="constrained")
    for axes, (title, x_of) in zip(shown.subplots(1, 2, sharey=True), axes_of.items(), strict=True):
        for kind, mark in ((WHOLE, "*"), (PRUNED, "o"), (ANEW, "s")):
            own = [p for p in points if p["kind"] == kind and name in p["scores"]]
            own.sort(key=lambda point: point["features"])
            xs, ys = [x_of(p) for p in own], [p["scores"][name] for p in own]
            axes.plot(xs, ys, marker=mark, label=kind)
            for x, y, point in zip(xs, ys, own, strict=True):
                label = f"{point['blocks']} x {point['features']}"
                axes.annotate(
                    label, (x, y), fontsize="x-small", xytext=(4, 4), textcoords="offset points"
                )
        axes.set(xlabel=title)
        axes.grid(alpha=0.3)
        legend(axes)
    shown.axes[0].set_ylabel(f"PSNR on {name.removesuffix('/psnr')} (dB)")
    return shown
