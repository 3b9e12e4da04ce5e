"""Scores of validations and the choice of the best step; only comparable scores are compared."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from binsr_jax.json_lines import Row, read_rows

_PSNR = "/psnr"


class Validation(NamedTuple):
    """The result of a validation.

    Attributes:
        scores: Such as ``{"Set5/psnr": 36.9, "Set5/ssim": 0.95}``, the first set first.
        pictures: uint8 ``[H, W, 3]`` by name.
        images: The fingerprint of the images of each set, ``{"Set5": "9f2c..."}``.
    """

    scores: dict[str, float]
    pictures: dict[str, np.ndarray]
    images: dict[str, str]


@dataclass(frozen=True)
class Score:
    """The score that decides which step is the best: the PSNR on the first set.

    Attributes:
        psnr: In dB; infinite if all images are restored without an error.
        set: The set, with its level; empty if it is not known.
        images: The fingerprint of its images; empty if it is not known.
    """

    psnr: float
    set: str = ""
    images: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON values; an infinite PSNR is None."""
        psnr = self.psnr if math.isfinite(self.psnr) else None
        return {"psnr": psnr, "set": self.set, "images": self.images}


def score_of(scores: Mapping[str, float], images: Mapping[str, str]) -> Score | None:
    """The score of a validation on its first set; None if it has no PSNR."""
    for name, value in scores.items():
        if name.endswith(_PSNR):
            first = name.removesuffix(_PSNR)
            return Score(value, first, images.get(first, ""))
    return None


def best_step(scores: Mapping[int, Score]) -> int | None:
    """The step with the highest PSNR; if several are equal, the latest.

    Scores on another set, level or images than the latest step's are not comparable and are left
    out.
    """
    if not scores:
        return None
    latest = scores[max(scores)]
    alike = {
        step: score.psnr
        for step, score in scores.items()
        if (score.set, score.images) == (latest.set, latest.images)
    }
    return max(alike, key=lambda step: (alike[step], step))


def saved_scores(workdir: Path) -> dict[int, Score]:
    """The scores of the checkpoints of a work dir that have one.

    A checkpoint holds the score with which it was saved. If it was saved before its validation, the
    score comes from the log.
    """
    scores: dict[int, Score] = {}
    unscored = []
    for step in saved_steps(workdir):
        try:
            path = workdir / "checkpoints" / str(step) / "metrics" / "metrics"
            score = stored_score(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            score = None
        if score is None:
            unscored.append(step)
        else:
            scores[step] = score
    if unscored:
        logged = {row["step"]: row for row in read_log(workdir) if "scores" in row}
        for step in unscored:
            row = logged.get(step)
            score = score_of(row["scores"], row["images"]) if row else None
            if score is not None:
                scores[step] = score
    return scores


def saved_steps(workdir: Path) -> list[int]:
    """The steps of the complete checkpoints of a work dir, in order."""
    try:
        names = [path.name for path in (workdir / "checkpoints").iterdir()]
    except OSError:
        return []
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal())


def stored_score(metrics: Any) -> Score | None:
    """Reads the result of ``Score.to_json``, or of an earlier version: a PSNR without its set."""
    if not isinstance(metrics, dict) or "psnr" not in metrics:
        return None
    return Score(
        _number(metrics["psnr"]), str(metrics.get("set", "")), str(metrics.get("images", ""))
    )


def read_log(workdir: Path) -> list[Row]:
    """The rows of a work dir's ``log.jsonl``; rows of a validation have ``scores`` and ``images``.

    Scores are floats, including infinite ones. Lines that are not rows are dropped.
    """
    rows = []
    for row in read_rows(workdir / "log.jsonl"):
        if not isinstance(row.get("step"), int):
            continue
        if isinstance(row.get("scores"), dict):
            images = row.get("images")
            row["scores"] = scores_of(row["scores"])
            row["images"] = images if isinstance(images, dict) else {}
        else:
            row.pop("scores", None)
        rows.append(row)
    return rows


def psnr_of(row: Row) -> dict[tuple[str, str], float]:
    """The PSNR of a row of ``read_log`` on each set: (its name, its images) -> dB."""
    names = [name.removesuffix(_PSNR) for name in row.get("scores", {}) if name.endswith(_PSNR)]
    return {(name, str(row["images"].get(name, ""))): row["scores"][name + _PSNR] for name in names}


def set_titles(sets: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Titles for sets (name, images): the name, if it is unambiguous.

    If one name stands for different images, the title also has the start of their fingerprint.
    """
    found = dict.fromkeys(sets)
    names = Counter(name for name, _ in found)
    return {
        (name, images): f"{name} [{images[:4] or 'unknown'}]" if names[name] > 1 else name
        for name, images in found
    }


def scores_of(values: Mapping[str, Any]) -> dict[str, float]:
    """Scores from JSON, where infinity is None."""
    return {name: _number(value) for name, value in values.items()}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.inf
