"""The magnitudes of activations on both branches of the units: BBCU's figure 2.

A unit adds the output of a binary convolution to its residual. That output hardly depends on the
magnitude of its input. If the residual is much smaller or larger, one of the two dominates.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from binsr_jax import models
from binsr_jax.config import Config
from binsr_jax.data.pipeline import training_batches
from binsr_jax.errors import UserError
from binsr_jax.models.watching import watch
from binsr_jax.training.state import create_state, make_optimizer

# Bins of magnitudes, of equal width in log space; values outside count in the first or last.
_DECADES, _BINS_A_DECADE = (-5, 4), 8
EDGES = np.logspace(*_DECADES, (_DECADES[1] - _DECADES[0]) * _BINS_A_DECADE + 1)

PARTS = {"residual": "residual", "convolution": "binary convolution"}


def initial_variables(config: Config) -> dict[str, Any]:
    """A network's variables before its first step."""
    model = models.build(config)
    return create_state(config, model, make_optimizer(config.train)).variables


def describe(title: str, config: Config, variables: dict[str, Any]) -> list[dict[str, Any]]:
    """Statistics of the activations on the first training batch of a config.

    Args:
        title: The network's title.
        config: Describes the network and its training images.
        variables: The network's variables.

    Returns:
        One row for each binary unit of the body and each of ``PARTS`` (the input of the unit, and
        the output of its convolution and normalisation): ``title``, ``unit`` (from 0), ``units``,
        ``part``, ``mean``, ``std``, ``zeros`` (the share of zeros) and ``counts``, the histogram of
        the other magnitudes over the bins between ``EDGES``.

    Raises:
        UserError: The network has no binary units, or there are no training images.
    """
    with training_batches(config) as batches:
        images = next(batches)["lq"]
    found = _record(config, variables, images)
    if not found:
        raise UserError(f"{title} has no binary units, so it has no activations to show.")
    return [
        {"title": title, "unit": i, "units": len(found), "part": part, **_statistics(values)}
        for i, pair in enumerate(found)
        for part, values in zip(PARTS, pair, strict=True)
    ]


def figure(rows: list[dict[str, Any]]) -> Figure:
    """Histograms of magnitudes: a row per network, columns for first, middle and last unit."""
    titles = list(dict.fromkeys(row["title"] for row in rows))
    shown = Figure(figsize=(11, 0.8 + 1.9 * len(titles)), layout="constrained")
    grid = shown.subplots(len(titles), 3, sharex=True, sharey=True, squeeze=False)
    drawn: list[float] = []
    for line, title in zip(grid, titles, strict=True):
        own = [row for row in rows if row["title"] == title]
        last = own[0]["units"] - 1
        for axes, unit in zip(line, (0, last // 2, last), strict=True):
            for row in (row for row in own if row["unit"] == unit):
                counts = np.asarray(row["counts"], np.float64)
                share = counts / max(counts.sum(), 1)
                drawn += [edge for edge, s in zip(EDGES, share, strict=False) if s > 1e-3]
                label = f"{PARTS[row['part']]}, std {row['std']:.2g}"
                axes.stairs(share, EDGES, fill=True, alpha=0.5, label=label)
            axes.legend(
                fontsize="x-small",
                loc="upper left",
                title=f"unit {unit + 1} of {last + 1}",
                title_fontsize="x-small",
                alignment="left",
            )
            axes.grid(alpha=0.3)
        line[0].set_ylabel("share")
        line[0].set_title(title, loc="left", fontsize="medium")
    for axes in grid[-1]:
        axes.set_xlabel("magnitude of an activation")
    width = EDGES[1] / EDGES[0]
    # Leaves space above for the legends.
    grid[0][0].set(xscale="log", xlim=(min(drawn) / width, max(drawn) * width**2))
    grid[0][0].set_ylim(0, 1.45 * grid[0][0].get_ylim()[1])
    return shown


def _record(
    config: Config, variables: dict[str, Any], images: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The input of each binary unit, and the output of its convolution."""
    seen = watch(config, variables, images)
    pairs = []
    for unit in sorted(seen.entering, key=_natural):
        if not unit[0].startswith("upsampler"):
            leaves = [path for path in seen.leaving if path[: len(unit)] == unit]
            pairs += [(seen.entering[unit], seen.leaving[path]) for path in leaves]
    return pairs


def _natural(path: tuple[str, ...]) -> list[tuple[bool, int, str]]:
    """Sorts ``body_9`` before ``body_10``, and both before ``body_end``."""
    words = [word for part in path for word in part.split("_")]
    return [(not word.isdecimal(), int(word) if word.isdecimal() else 0, word) for word in words]


def _statistics(values: np.ndarray) -> dict[str, Any]:
    sizes = np.abs(values[values != 0])
    counts, _ = np.histogram(np.clip(sizes, EDGES[0], EDGES[-1]), EDGES)
    return {
        "mean": float(values.mean(dtype=np.float64)),
        "std": float(values.std(dtype=np.float64)),
        "zeros": float(1 - sizes.size / values.size),
        "counts": counts.tolist(),
    }
