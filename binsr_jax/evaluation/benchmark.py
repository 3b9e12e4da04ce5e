"""Scores networks on benchmark sets, and validates them during training."""

import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from absl import logging
from tqdm import tqdm

from binsr_jax.config import Config
from binsr_jax.data.degradations import DEGRADATIONS, as_image
from binsr_jax.deploy.unpack import read_network
from binsr_jax.errors import UserError
from binsr_jax.evaluation import report
from binsr_jax.evaluation.lpips import Distance
from binsr_jax.evaluation.metrics import SCORES
from binsr_jax.evaluation.sets import BenchmarkSet, Example, fingerprint, load_sets
from binsr_jax.models.restoring import Restore, restorer
from binsr_jax.tasks import Task, task_of
from binsr_jax.training.scores import Validation
from binsr_jax.training.transfer import picture_teacher

# Longest name of a picture in bytes: "_comparison.png" is appended, and file systems allow 255.
_LONGEST_STEM = 220


def score_set(
    benchmark: BenchmarkSet,
    restore: Restore | None = None,
    images_dir: Path | None = None,
    lpips: Distance | None = None,
) -> list[report.Row]:
    """Scores one set and returns its rows.

    Args:
        benchmark: The set.
        restore: Restores an image. None scores the input itself, enlarged by bicubic interpolation
            if the task is super-resolution.
        images_dir: The folder for restored images, ``SET/IMAGE.png``, and comparison pictures,
            ``SET/IMAGE_comparison.png`` (see ``report.comparison``).
        lpips: From ``load_lpips``, for a score of this name beside the task's.

    Returns:
        One row per image, then one row for the set. A row of an image has set, task, protocol,
        image and the task's scores, such as psnr and ssim. With ``restore`` it also has the input's
        scores: bicubic_psnr, noise_psnr or jpeg_psnr and so on. The row of the set has ``images``,
        their number, instead of ``image``, the ``fingerprint`` of their pixels, and the means of
        the scores. In a colour task, a grey picture is scored on its own values, and the protocol
        says so.

    Raises:
        UserError: An image cannot be read or scored, or a picture cannot be written.
    """
    task, rows, started = benchmark.task, [], time.monotonic()
    names: list[str] = []
    digests, greys = [], 0

    def scores_of(restored: np.ndarray, hq: np.ndarray) -> dict[str, float]:
        extra = {"lpips": lpips(restored, hq)} if lpips else {}
        return _scores(restored, hq, task) | extra

    for example in _with_progress(benchmark):
        restorations = _unrestored(example, task)
        (untouched,) = restorations.values()
        scores = scores_of(untouched, example.hq)
        if restore is not None:
            restorations["Ours"] = restore(example.lq)
            before = {f"{task.degradation}_{name}": score for name, score in scores.items()}
            scores = scores_of(restorations["Ours"], example.hq) | before
        rows.append({"image": example.name, **scores})
        names = list(scores)
        digests.append(example.digest)
        greys += example.hq.shape[-1] < task.channels
        if images_dir is not None:
            _save_pictures(images_dir / benchmark.name, example, restorations, benchmark)
    seconds = time.monotonic() - started
    logging.info("%s: %d images scored in %.1f s", benchmark.name, len(benchmark), seconds)
    about = {"set": benchmark.name, "task": task.name, "protocol": benchmark.protocol}
    if greys:
        about["protocol"] += f"; {greys} grey as {'it is' if greys == 1 else 'they are'}"
    total = {"images": len(rows), "fingerprint": fingerprint(digests), **_means(rows, names)}
    return [about | row for row in (*rows, total)]


def _save_pictures(
    folder: Path, example: Example, restorations: Mapping[str, np.ndarray], benchmark: BenchmarkSet
) -> None:
    """Writes the last restoration and its picture from ``report.comparison``."""
    stem = example.name
    if len(stem.encode()) > _LONGEST_STEM:
        start = stem.encode()[: _LONGEST_STEM - 20].decode(errors="ignore")
        stem = f"{start}-{hashlib.blake2b(stem.encode(), digest_size=8).hexdigest()}"
    report.save_png(folder / f"{stem}.png", list(restorations.values())[-1])
    title = f"{benchmark.name} / {example.name}"
    picture = report.comparison(title, example.hq, restorations, benchmark.task)
    report.save_png(folder / f"{stem}_comparison.png", picture)


def validator(config: Config) -> Callable[[Restore, int], Validation]:
    """The validation of a training run, on the sets that its config names.

    Returns:
        ``validate(restore, step)``. It returns the scores "SET/psnr" and so on, or "SET-LEVEL/psnr"
        if there are levels: means over each set, in the config's order. It also returns a
        comparison picture "SET/IMAGE" of each set's first image.

    Raises:
        UserError: A set is missing (reported at once, not at the first validation), or there are
            none.
    """
    task, sets = task_of(config), validation_sets(config)

    def validate(restore: Restore, step: int) -> Validation:
        found = Validation({}, {}, {})
        for benchmark in sets:
            rows, digests = [], []
            for example in benchmark:
                restored = restore(example.lq)
                if not rows:
                    found.pictures[f"{benchmark.name}/{example.name}"] = report.comparison(
                        f"{benchmark.name} / {example.name}, step {step:,}",
                        example.hq,
                        _unrestored(example, task) | {"Ours": restored},
                        task,
                    )
                rows.append(_scores(restored, example.hq, task))
                digests.append(example.digest)
            for name, mean in _means(rows, list(rows[0])).items():
                found.scores[f"{benchmark.name}/{name}"] = mean
            found.images[benchmark.name] = fingerprint(digests)
        return found

    return validate


def validation_sets(config: Config) -> list[BenchmarkSet]:
    """The sets for the validation of a training run; with ``data.taught``, against the teacher.

    Raises:
        UserError: A set is missing, or there are none.
    """
    if not config.eval.sets or not all(isinstance(name, str) for name in config.eval.sets):
        raise UserError(
            f"config.eval.sets is {tuple(config.eval.sets)}, which names no benchmark set; name "
            "one, such as ('samples',)."
        )
    sets = load_sets(config.eval.sets, config.eval.data_dir, task_of(config))
    if not config.data.taught:
        return sets
    teacher = picture_teacher(config, read_network)
    return [benchmark.against(teacher) for benchmark in sets]


def network_validator(
    config: Config, model: nn.Module
) -> Callable[[Mapping[str, Any], int], Validation]:
    """The ``validator`` of a network, as a function of its variables and the step.

    Raises:
        UserError: See ``validator``.
    """
    validate, channels = validator(config), task_of(config).channels
    return lambda variables, step: validate(restorer(model, variables, channels), step)


def _scores(restored: np.ndarray, hq: np.ndarray, task: Task) -> dict[str, float]:
    return {name: SCORES[name](restored, hq, task.border, task.luma) for name in task.scores}


def _unrestored(example: Example, task: Task) -> dict[str, np.ndarray]:
    """The input as an image, and its name in comparison pictures."""
    title = DEGRADATIONS[task.degradation].title
    return {title[0].upper() + title[1:]: as_image(example.lq, task.scale)}


def _means(rows: list[dict[str, Any]], names: list[str]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in names}


def _with_progress(benchmark: BenchmarkSet) -> Iterator[Example]:
    """The examples, with a progress bar on a terminal."""
    return iter(
        tqdm(
            benchmark,
            desc=benchmark.name,
            unit="image",
            total=len(benchmark),
            leave=False,
            disable=not sys.stderr.isatty(),
        )
    )
