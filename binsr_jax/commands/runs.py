"""List the runs below a folder: their progress, scores, speed and size.

binsr runs runs

All values come from the files of the work dirs, also while a training runs there.
"""

import argparse
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from binsr_jax.errors import UserError
from binsr_jax.files import expanded, printable, printable_lines
from binsr_jax.training.scores import (
    best_step,
    psnr_of,
    read_log,
    saved_scores,
    saved_steps,
    score_of,
    set_titles,
)

_HEADER = ("Run", "Step", "State", "Loss", "Steps/s", "Best scores (dB)", "at step", "Size (MB)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``binsr runs``."""
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="a work dir, or a folder of work dirs"
    )


def run(args: argparse.Namespace) -> None:
    """Runs ``binsr runs``."""
    print(printable_lines(table(expanded(args.folder))))


def table(folder: Path) -> str:
    """A Markdown table with one row per work dir.

    Loss and speed come from the last log line. The best scores are those of the checkpoint that
    binsr evaluate and binsr pack use. If runs were scored on different images under one name, the
    start of their fingerprint follows the name.

    Raises:
        UserError: There is no such folder, or it holds no work dir.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}: name a work dir, or a folder of work dirs.")
    workdirs = list(_workdirs(folder))
    if not workdirs:
        raise UserError(f"{folder} holds no work dir of binsr train: name another folder.")
    logs = [read_log(workdir) for workdir in workdirs]
    best = [_best(workdir, log) for workdir, log in zip(workdirs, logs, strict=True)]
    titles = set_titles(name for _, scores in best for name in scores)
    rows = [
        _row(
            workdir,
            folder,
            log,
            step,
            ", ".join(f"{titles[name]} {value:.2f}" for name, value in scores.items()),
        )
        for workdir, log, (step, scores) in zip(workdirs, logs, best, strict=True)
    ]
    rule = ("---", *("---:" for _ in _HEADER[1:]))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (_HEADER, rule, *rows))


def _workdirs(folder: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(folder):
        if "config.json" in files and "checkpoints" in folders:
            folders.clear()  # a work dir contains no other work dirs
            yield Path(path)
        folders.sort()


def _row(
    workdir: Path, folder: Path, log: list[dict[str, Any]], best: int, scores: str
) -> tuple[str, ...]:
    losses = [row for row in log if isinstance(row.get("loss"), float)]
    last = losses[-1] if losses else {}
    speed, saved = last.get("steps_per_second"), saved_steps(workdir)
    step = max([*saved, *(row["step"] for row in log)], default=0)
    steps = _steps(workdir)
    if _is_held(workdir):
        state = "training"
    else:
        state = "complete" if steps and max(saved, default=0) >= steps else "stopped"
    name = str(workdir if workdir == folder else workdir.relative_to(folder))
    return (
        printable(name).replace("|", "\\|"),
        f"{step:,}" + (f" of {steps:,}" if steps else ""),
        state,
        f"{last['loss']:.4g}" if last else "",
        f"{speed:.3g}" if speed else "",
        scores,
        f"{best:,}" if scores else "",
        f"{_bytes(workdir) / 1e6:.1f}",
    )


def _best(workdir: Path, log: list[dict[str, Any]]) -> tuple[int, dict[tuple[str, str], float]]:
    """The best checkpoint's step, and its PSNR on each set; no scores if there are none.

    A set is its name and the fingerprint of its images.
    """
    scores = saved_scores(workdir)
    step = best_step(scores)
    if step is None:
        return 0, {}
    for row in log:
        if row["step"] == step and score_of(row.get("scores", {}), row.get("images", {})):
            return step, psnr_of(row)
    score = scores[step]  # there is no log
    return step, {(score.set or "PSNR", score.images): score.psnr}


def _steps(workdir: Path) -> int | None:
    """The planned number of steps, if the config has it."""
    try:
        steps = json.loads((workdir / "config.json").read_text(encoding="utf-8"))["train"]["steps"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return steps if isinstance(steps, int) else None


def _is_held(workdir: Path) -> bool:
    """Whether a process is training there."""
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
