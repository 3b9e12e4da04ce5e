"""Figures: written whole or not at all, and the same from the same numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from binsr_jax.errors import UserError
from binsr_jax.files import replacing
from binsr_jax.training.journal import read_log

FIGURE_SUFFIXES = (".png", ".svg", ".pdf")


def save(figure: Figure, output: Path) -> None:
    """Writes a figure beside its final name, then renames it.

    Args:
        figure: what to write.
        output: a file with one of the endings ``FIGURE_SUFFIXES``.

    Raises:
        UserError: the ending is another one, or the file cannot be written.
    """
    if output.suffix.lower() not in FIGURE_SUFFIXES:
        raise UserError(
            f"A plot cannot be written as {output.name!r}: give it one of the endings "
            f"{', '.join(FIGURE_SUFFIXES)}."
        )
    # Without a date and random names, which svg and pdf have by default.
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(output.suffix.lower())
    try:
        with rc_context({"svg.hashsalt": output.stem}), replacing(output) as file:
            form = output.suffix[1:].lower()
            figure.savefig(cast(Any, file), dpi=150, metadata=metadata, format=form)
    except OSError as error:
        raise UserError(f"Cannot write {output} ({error.strerror}): name another file.") from error


def colours(number: int) -> list[Any]:
    """Colours that tell lines apart: a fixed set for ten of them, else spread over a map."""
    if number <= 10:
        return [f"C{i}" for i in range(number)]
    return [colormaps["turbo"]((i + 0.5) / number) for i in range(number)]


def legend(axes: Axes) -> None:
    """A legend inside, or beside the axes where it would hide the lines."""
    if len(axes.lines) > 8:
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5))
    elif axes.lines:
        axes.legend(fontsize="small")


def curves(workdirs: Sequence[Path]) -> Figure:
    """Training loss (logarithmic) and PSNR of every validation set against the step.

    Args:
        workdirs: One colour each, in both panels; every set has its own kind of line.

    Raises:
        UserError: a work dir has no log.
    """
    logs = {}
    for workdir in workdirs:
        logs[workdir] = read_log(workdir / "log.jsonl")
        if not logs[workdir]:
            raise UserError(f"{workdir} has no log.jsonl with rows: train there first.")
    names = shortest_names(list(logs))
    sets = list(
        dict.fromkeys(name for rows in logs.values() for row in rows for name in _psnr(row))
    )
    lines = len(logs) * max(1, len(sets))
    figure = Figure(figsize=(11 + 3 * (lines > 8), max(4.2, 0.19 * lines)), layout="constrained")
    loss, psnr = figure.subplots(1, 2)
    for colour, (workdir, rows) in zip(colours(len(logs)), logs.items(), strict=True):
        loss.plot(*_points(rows, lambda row: row.get("loss")), color=colour, label=names[workdir])
        for title in dict.fromkeys(name for row in rows for name in _psnr(row)):
            style = ("-", "--", ":", "-.")[sets.index(title) % 4]
            points = _points(rows, lambda row, title=title: _psnr(row).get(title))
            label = f"{names[workdir]}: {title}"
            psnr.plot(*points, style, color=colour, marker=".", label=label)
    loss.set(xlabel="step", ylabel="training loss", yscale="log")
    psnr.set(xlabel="step", ylabel="PSNR (dB)")
    for axes in (loss, psnr):
        axes.grid(alpha=0.3)
    legend(psnr)
    if len(psnr.lines) <= 8:  # else the colours are named beside the other panel
        legend(loss)
    return figure


def _points(rows: list[dict[str, Any]], value_of: Any) -> tuple[list[int], list[float]]:
    points = [(row["step"], value_of(row)) for row in rows]
    points = [point for point in points if isinstance(point[1], float)]
    return [step for step, _ in points], [value for _, value in points]


def _psnr(row: dict[str, Any]) -> dict[str, float]:
    scores = row.get("scores") or {}
    return {
        name.removesuffix("/psnr"): value
        for name, value in scores.items()
        if name.endswith("/psnr")
    }


def shortest_names(workdirs: Sequence[Path]) -> dict[Path, str]:
    """The last parts of the paths, as many as tell them apart."""
    paths = {workdir: workdir.absolute().parts for workdir in workdirs}
    longest = max(map(len, paths.values()), default=0)
    for count in range(1, longest + 1):
        names = {workdir: "/".join(parts[-count:]) for workdir, parts in paths.items()}
        if len(set(names.values())) == len(names):
            return names
    return {workdir: str(workdir) for workdir in workdirs}
