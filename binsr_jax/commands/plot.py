"""Plots the loss and the validation scores of runs, from their logs.

binsr plot runs/quickstart runs/wide -o curves.png
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from binsr_jax.errors import UserError
from binsr_jax.training.journal import read_log

_SUFFIXES = (".png", ".svg", ".pdf")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``binsr plot``."""
    parser.add_argument("workdirs", type=Path, nargs="+", metavar="DIR", help="a work dir")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="a png, svg or pdf file"
    )


def run(args: argparse.Namespace) -> None:
    """Runs ``binsr plot``."""
    output = args.output.expanduser()
    if output.suffix.lower() not in _SUFFIXES:
        raise UserError(
            f"A plot cannot be written as {output.name!r}: give it one of the endings "
            f"{', '.join(_SUFFIXES)}."
        )
    _save(curves([workdir.expanduser() for workdir in args.workdirs]), output)
    print(f"Wrote {output}.")


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
    names = _shortest_names(list(logs))
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    loss, psnr = figure.subplots(1, 2)
    sets: list[str] = []
    for number, (workdir, rows) in enumerate(logs.items()):
        colour = f"C{number % 10}"
        loss.plot(*_points(rows, lambda row: row.get("loss")), color=colour, label=names[workdir])
        for title in dict.fromkeys(name for row in rows for name in _psnr(row)):
            if title not in sets:
                sets.append(title)
            style = ("-", "--", ":", "-.")[sets.index(title) % 4]
            points = _points(rows, lambda row, title=title: _psnr(row).get(title))
            label = f"{names[workdir]}: {title}"
            psnr.plot(*points, style, color=colour, marker=".", label=label)
    loss.set(xlabel="step", ylabel="training loss", yscale="log")
    psnr.set(xlabel="step", ylabel="PSNR (dB)")
    for axes in (loss, psnr):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
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


def _shortest_names(workdirs: list[Path]) -> dict[Path, str]:
    """The last parts of the paths, as many as tell them apart."""
    paths = {workdir: workdir.absolute().parts for workdir in workdirs}
    longest = max(map(len, paths.values()))
    for count in range(1, longest + 1):
        names = {workdir: "/".join(parts[-count:]) for workdir, parts in paths.items()}
        if len(set(names.values())) == len(names):
            return names
    return {workdir: str(workdir) for workdir in workdirs}


def _save(figure: Figure, output: Path) -> None:
    beside = output.with_name(f".{output.stem}.{os.getpid()}{output.suffix}")
    try:
        figure.savefig(beside, dpi=150)
        os.replace(beside, output)
    except OSError as error:
        raise UserError(f"Cannot write {output} ({error.strerror}): name another file.") from error
    finally:
        beside.unlink(missing_ok=True)
