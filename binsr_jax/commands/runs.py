"""Lists the runs below a folder: how far they are, how good, how fast and how large.

binsr runs runs

Everything comes from the work dirs' files, also while training goes on there.
"""

import argparse
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from binsr_jax.errors import UserError
from binsr_jax.files import printable
from binsr_jax.training.journal import read_log

_HEADER = ("Run", "Step", "State", "Loss", "Steps/s", "Best scores (dB)", "at step", "Size (MB)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``binsr runs``."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="a work dir, or what holds some")


def run(args: argparse.Namespace) -> None:
    """Runs ``binsr runs``."""
    print(printable(table(args.folder.expanduser())))


def table(folder: Path) -> str:
    """A Markdown table with a row a work dir.

    The loss and the speed are those of the last log line, the best scores those of the validation
    with the highest PSNR on the first set.

    Raises:
        UserError: there is no such folder, or no work dir in it.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: name a work dir, or a folder of work dirs.")
    rows = [_row(workdir, folder) for workdir in _workdirs(folder)]
    if not rows:
        raise UserError(f"{folder} holds no work dir of binsr train: name another folder.")
    rule = ("---", *("---:" for _ in _HEADER[1:]))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (_HEADER, rule, *rows))


def _workdirs(folder: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(folder):
        if "config.json" in files and "checkpoints" in folders:
            folders.clear()  # what a work dir holds is no work dir
            yield Path(path)
        folders.sort()


def _row(workdir: Path, folder: Path) -> tuple[str, ...]:
    rows = read_log(workdir / "log.jsonl")
    losses = [row for row in rows if isinstance(row.get("loss"), float)]
    last = losses[-1] if losses else {}
    speed, best = last.get("steps_per_second"), _best(rows)
    saved = [
        int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal()
    ]
    step = max([*saved, *(row["step"] for row in rows)], default=0)
    steps = _steps(workdir)
    if _is_held(workdir):
        state = "training"
    else:
        state = "complete" if steps and max(saved, default=0) >= steps else "stopped"
    scores = {
        name.removesuffix("/psnr"): value
        for name, value in best["scores"].items()
        if name.endswith("/psnr")
    }
    return (
        str(workdir if workdir == folder else workdir.relative_to(folder)).replace("|", "\\|"),
        f"{step:,}" + (f" of {steps:,}" if steps else ""),
        state,
        f"{last['loss']:.4g}" if last else "",
        f"{speed:.3g}" if speed else "",
        ", ".join(f"{name} {value:.2f}" for name, value in scores.items()),
        f"{best['step']:,}" if scores else "",
        f"{_bytes(workdir) / 1e6:.1f}",
    )


def _best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The validation with the highest first PSNR; one without scores if there is none."""

    def first_psnr(row: dict[str, Any]) -> float:
        return next(value for name, value in row["scores"].items() if name.endswith("/psnr"))

    scored = [
        row
        for row in rows
        if isinstance(row.get("scores"), dict)
        and any(name.endswith("/psnr") for name in row["scores"])
    ]
    return max(scored, key=first_psnr, default={"step": 0, "scores": {}})


def _steps(workdir: Path) -> int | None:
    """How many steps the run is to have, if its config says so."""
    try:
        steps = json.loads((workdir / "config.json").read_text(encoding="utf-8"))["train"]["steps"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return steps if isinstance(steps, int) else None


def _is_held(workdir: Path) -> bool:
    """Whether a process trains there."""
    try:
        with (workdir / ".lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _bytes(workdir: Path) -> int:
    total = 0
    for path, _, files in os.walk(workdir):
        for name in files:
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except OSError:  # a run that is training removes old checkpoints
                continue
    return total
