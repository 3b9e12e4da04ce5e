"""Figures: never half written, and reproducible from the same numbers."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from binsr_jax.errors import UserError
from binsr_jax.files import replacing
from binsr_jax.training.scores import psnr_of, read_log, set_titles

FIGURE_SUFFIXES = (".png", ".svg", ".pdf")


def save(figure: Figure, output: Path) -> None:
    """Writes a figure to a temporary file beside its final name, then renames it.

    Args:
        figure: The figure.
        output: A file with one of the endings ``FIGURE_SUFFIXES``.

    Raises:
        UserError: The ending is not supported, or the file cannot be written.
    """
    if output.suffix.lower() not in FIGURE_SUFFIXES:
        raise UserError(
            f"A plot cannot be written as {output.name!r}: give it one of the endings "
            f"{', '.join(FIGURE_SUFFIXES)}."
        )
    # No date and no random names, which svg and pdf have by default.
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(output.suffix.lower())
    try:
        with rc_context({"svg.hashsalt": output.stem}), replacing(output) as file:
            form = output.suffix[1:].lower()
            figure.savefig(cast(Any, file), dpi=150, metadata=metadata, format=form)
    except OSError as error:
        raise UserError(f"Cannot write {output} ({error.strerror}): name another file.") from error


def colours(number: int) -> list[Any]:
    """Distinct colours for lines: a fixed set for up to ten, otherwise spread over a colour map."""
    if number <= 10:
        return [f"C{i}" for i in range(number)]
    return [colormaps["turbo"]((i + 0.5) / number) for i in range(number)]


def legend(axes: Axes) -> None:
    """A legend inside the axes, or beside them if it would hide the lines."""
    if len(axes.lines) > 8:
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    elif axes.lines:
        axes.legend(fontsize="small")


def curves(workdirs: Sequence[Path]) -> Figure:
    """Training loss (logarithmic) and PSNR of every validation set against the step.

    A panel is left out if no run has its values. Scores on different images under one name give
    separate lines.

    Args:
        workdirs: One colour each, in both panels; every set has its own line style.

    Raises:
        UserError: A work dir has no log.
    """
    logs = {}
    for workdir in workdirs:
        logs[workdir] = read_log(workdir)
        if not logs[workdir]:
            raise UserError(f"{workdir} has no log.jsonl with rows: train there first.")
    names = shortest_names(list(logs))
    titles = set_titles(name for rows in logs.values() for row in rows for name in psnr_of(row))
    losses = any("loss" in row for rows in logs.values() for row in rows)
    panels = [part for part, there in (("loss", losses), ("psnr", bool(titles))) if there]
    lines = len(logs) * max(1, len(titles))
    width, height = 5.5 * len(panels) + 3 * (lines > 8), max(4.2, 0.19 * lines)
    figure = Figure(figsize=(max(width, 5.5), height), layout="constrained")
    grid = figure.subplots(1, max(1, len(panels)), squeeze=False)[0]
    axes = dict(zip(panels, grid, strict=False))
    for colour, (workdir, rows) in zip(colours(len(logs)), logs.items(), strict=True):
        if loss := axes.get("loss"):
            points = _points(rows, lambda row: row.get("loss"))
            loss.plot(*points, color=colour, label=names[workdir])
        for name in dict.fromkeys(name for row in rows for name in psnr_of(row)):
            style = ("-", "--", ":", "-.")[list(titles).index(name) % 4]
            points = _points(rows, lambda row, name=name: psnr_of(row).get(name))
            label = f"{names[workdir]}: {titles[name]}"
            axes["psnr"].plot(*points, style, color=colour, marker=".", label=label)
    if loss := axes.get("loss"):
        loss.set(xlabel="step", ylabel="training loss", yscale="log")
    if psnr := axes.get("psnr"):
        psnr.set(xlabel="step", ylabel="PSNR (dB)")
        legend(psnr)
    for panel in axes.values():
        panel.grid(alpha=0.3)
    if loss and not (psnr and len(psnr.lines) > 8):  # else the other legend names the colours
        legend(loss)
    return figure


def _points(rows: list[dict[str, Any]], value_of: Any) -> tuple[list[int], list[float]]:
    """Steps and values, where the values are finite."""
    points = [(row["step"], value_of(row)) for row in rows]
    points = [point for point in points if isinstance(point[1], float) and math.isfinite(point[1])]
    return [step for step, _ in points], [value for _, value in points]


def shortest_names(workdirs: Sequence[Path]) -> dict[Path, str]:
    """The last parts of the paths, as many as needed to distinguish them."""
    paths = {workdir: workdir.absolute().parts for workdir in workdirs}
    longest = max(map(len, paths.values()), default=0)
    for count in range(1, longest + 1):
        names = {workdir: "/".join(parts[-count:]) for workdir, parts in paths.items()}
        if len(set(names.values())) == len(names):
            return names
    return {workdir: str(workdir) for workdir in workdirs}
