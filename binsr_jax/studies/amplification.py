"""PSNR against the amplification k for several numbers of channels: BBCU's figure 3."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from binsr_jax.config import copy_of
from binsr_jax.models.official import best_amplification
from binsr_jax.recipes import Published
from binsr_jax.studies.figures import colours, legend
from binsr_jax.studies.rows import Row


def rows(base: Row, features: Sequence[int], factors: Sequence[float]) -> list[Row]:
    """The same network with each number of channels and each k.

    Args:
        base: The row whose config all rows share, except for these two fields.
        features: Numbers of channels.
        factors: Values of k.
    """
    found = []
    for channels in features:
        for k in factors:
            config = copy_of(base.config)
            config.model.features, config.model.amplification = channels, float(k)
            title = f"{channels} channels, k = {k:g}"
            name = f"{base.name}-n{channels}-k{k:g}"
            found.append(Row(name, base.recipe, title, config, Published(title)))
    return found


def figure(points: Sequence[dict[str, Any]]) -> Figure:
    """One panel per score, one line per number of channels, dotted at the k of the paper's rule.

    Args:
        points: Rows ``{"features", "k", "scores"}``.
    """
    scores = dict.fromkeys(name for point in points for name in point["scores"])
    names = [name for name in scores if name.endswith("/psnr")]
    numbers = sorted({point["features"] for point in points})
    shown = Figure(figsize=(5.5 * max(1, len(names)), 4.2), layout="constrained")
    grid = shown.subplots(1, max(1, len(names)), squeeze=False)[0]
    for name, axes in zip(names, grid, strict=False):
        for channels, colour in zip(numbers, colours(len(numbers)), strict=True):
            own = sorted(
                (point["k"], point["scores"][name])
                for point in points
                if point["features"] == channels and name in point["scores"]
            )
            k, psnr = zip(*own, strict=True) if own else ((), ())
            axes.plot(k, psnr, marker=".", color=colour, label=f"n = {channels}")
            best = best_amplification(channels)
            axes.axvline(best, color=colour, linestyle=":", linewidth=1)
        axes.set(xscale="log", xlabel="amplification k", ylabel="PSNR (dB)")
        axes.set_title(f"{name.removesuffix('/psnr')} (dotted: k = 130 n / 64)", fontsize="medium")
        axes.grid(alpha=0.3)
        legend(axes)
    return shown
