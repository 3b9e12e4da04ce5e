"""Trains the rows of a study one after the other, and goes on where that was stopped."""

import gc
import json
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from binsr_jax import models
from binsr_jax.config import Config, config_from_json
from binsr_jax.data.sources import open_mixture
from binsr_jax.errors import UserError
from binsr_jax.evaluation.benchmark import network_validator, validator
from binsr_jax.files import printable, replace_text
from binsr_jax.studies.rows import Row
from binsr_jax.training.checkpoint import differences, load_model
from binsr_jax.training.journal import read_log
from binsr_jax.training.loop import train
from binsr_jax.training.settings import check_settings
from binsr_jax.training.workdir import writing_to

# What may change between two parts of a row's training: it does not change what comes of it.
_FREE = (
    "data.cache_dir",
    "data.dir",
    "data.workers",
    "devices",
    "eval.",
    "parallel",
    "train.checkpoint_every",
    "train.keep",
    "train.log_every",
)


class StudyStoppedError(Exception):
    """A signal has stopped the training of a row, which was saved."""

    def __init__(self, status: int):
        super().__init__(f"stopped with status {status}")
        self.status = status


@dataclass(frozen=True)
class Result:
    """What came of a row.

    Attributes:
        row: the row.
        scores: such as ``{"Set5/psnr": 33.1, "Set5/ssim": 0.9}``; none if it failed.
        seconds: of its steps alone, without compilation, validation and saving; None if unknown.
        error: the sentence that its training ended with, or nothing.
    """

    row: Row
    scores: dict[str, float]
    seconds: float | None = None
    error: str = ""


def check(rows: Sequence[Row]) -> None:
    """Finds a mistake in any row before the first one is trained.

    Raises:
        UserError: A row describes no network or training, or its images are missing.
    """
    for row in rows:
        check_settings(row.config)
        models.build(row.config)
        validator(row.config)
        open_mixture(row.config)


def train_rows(rows: Sequence[Row], folder: Path) -> Iterator[Result]:
    """Trains and scores every row in ``folder/NAME``; rows that are finished there are read.

    A row whose loss does not stay finite, or that fails for another reason, is a result with an
    error, and the rows after it are trained nevertheless.

    Args:
        rows: in their order.
        folder: made if it is not there.

    Yields:
        The results, in the order of the rows, each as soon as it is there.

    Raises:
        UserError: A work dir holds a row that was trained with other settings.
        StudyStoppedError: A signal has stopped a row's training.
    """
    for row in rows:
        _check_settings_of(folder / row.name, row.config)
    spent: list[float] = []
    for number, row in enumerate(rows, 1):
        started, known = time.monotonic(), _read(folder / row.name, row.config)
        if known is not None:
            yield Result(row, *known)
            continue
        _say(f"Row {number} of {len(rows)}: {row.title}.")
        try:
            scores, seconds = _train(row.config, folder / row.name)
        except UserError as error:
            result = Result(row, {}, error=str(error))
            _say(f"Row {number} failed: {error}")
        else:
            result = Result(row, scores, seconds)
            spent.append(time.monotonic() - started)
            left = sum(spent) / len(spent) * (len(rows) - number) / 60
            listed = ", ".join(
                f"{name.removesuffix('/psnr')} {value:.2f} dB"
                for name, value in scores.items()
                if name.endswith("/psnr")
            )
            _say(f"Row {number} of {len(rows)}: {listed}; about {left:.0f} minutes left.")
        # Nothing of a network is of use to the next one: its programs would pile up.
        jax.clear_caches()
        gc.collect()
        yield result


def _say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


def _check_settings_of(workdir: Path, config: Config) -> None:
    try:
        stored = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # nothing was trained there yet
        return
    for name, (old, new) in differences(config_from_json(stored), config).items():
        if not name.startswith(_FREE):
            raise UserError(
                f"{workdir} was trained with config.{name} {old!r}, but {new!r} is asked: delete "
                f"it, or choose another --workdir."
            )


def _train(config: Config, workdir: Path) -> tuple[dict[str, float], float | None]:
    """Trains a row to its end, if that was not done, scores it and notes what came of it."""
    model = models.build(config)
    validate = network_validator(config, model)
    saved = (workdir / "checkpoints" / str(config.train.steps)).is_dir()
    if not saved or _last_scores(workdir, config) is None:
        status = train(config, str(workdir), validate)
        if status:
            raise StudyStoppedError(status)
    rows = read_log(workdir / "log.jsonl")
    scores = _last_scores(workdir, config)
    if scores is None:  # its validation, after the last step, was broken off
        raise StudyStoppedError(128 + signal.SIGTERM)
    stored = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    if _eval(config_from_json(stored)) != _eval(config):  # trained before other sets were asked for
        _, _, variables, step = load_model(workdir, "latest")
        scores, _ = validate(variables, step)
    seconds = _seconds(rows)
    with writing_to(workdir):
        note = {"eval": _eval(config), "scores": scores, "seconds": seconds}
        replace_text(workdir / "result.json", json.dumps(note))
    return scores, seconds


def _read(workdir: Path, config: Config) -> tuple[dict[str, float], float | None] | None:
    """What came of a row, if it is finished and was scored as the config asks."""
    try:
        note = json.loads((workdir / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return (note["scores"], note["seconds"]) if note["eval"] == _eval(config) else None


def _eval(config: Config) -> dict[str, Any]:
    """What scores depend on."""
    settings = json.loads(json.dumps(config.eval.to_dict()))
    return {name: value for name, value in settings.items() if name not in ("every", "data_dir")}


def _last_scores(workdir: Path, config: Config) -> dict[str, float] | None:
    """The scores after the last step, if the training has come so far."""
    rows = [row for row in read_log(workdir / "log.jsonl") if row["step"] == config.train.steps]
    return next((row["scores"] for row in rows if "scores" in row), None)


def _seconds(rows: list[dict[str, Any]]) -> float | None:
    """How long the logged steps took; those after a start, which has no speed, as the others."""
    speeds: list[tuple[int, float]] = []
    last = 0
    for row in rows:
        if "loss" in row:
            if row.get("steps_per_second"):
                speeds.append((row["step"] - last, row["steps_per_second"]))
            last = row["step"]
    timed = sum(steps for steps, _ in speeds)
    return sum(steps / speed for steps, speed in speeds) * last / timed if timed else None
