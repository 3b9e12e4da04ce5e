"""Trains the rows of a study one after the other, and resumes a stopped study."""

import gc
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import jax

from binsr_jax import models
from binsr_jax.config import Config, config_from_json, config_to_json
from binsr_jax.data.sources import fingerprint
from binsr_jax.deploy.unpack import read_network
from binsr_jax.errors import UserError
from binsr_jax.evaluation.benchmark import network_validator, validation_sets
from binsr_jax.files import printable, replace_text
from binsr_jax.json_lines import json_line
from binsr_jax.studies.rows import Row
from binsr_jax.training.checkpoint import Checkpoints
from binsr_jax.training.loop import train, training_images
from binsr_jax.training.same_network import differences
from binsr_jax.training.scores import read_log, saved_steps, scores_of
from binsr_jax.training.settings import check_settings
from binsr_jax.training.trained import load_model
from binsr_jax.training.transfer import sources
from binsr_jax.training.workdir import writing_to

T = TypeVar("T")

# Fields that may change when a row's training is resumed: they do not change its result.
_FREE = (
    "data.cache_dir",
    "data.dir",  # the images themselves decide: see _check_images_of
    "data.sources",
    "data.workers",
    "devices",
    "eval.",
    "parallel",
    "train.checkpoint_every",
    "train.keep",
    "train.log_every",
)


class StudyStoppedError(Exception):
    """A signal stopped the training of a row, which was saved."""

    def __init__(self, status: int):
        super().__init__(f"stopped with status {status}")
        self.status = status


@dataclass(frozen=True)
class Result:
    """The result of a row.

    Attributes:
        row: The row.
        scores: Such as ``{"Set5/psnr": 33.1, "Set5/ssim": 0.9}``; empty if it failed.
        images: The fingerprint of the images of each set; empty if it failed.
        seconds: The time of its steps alone, without compilation, validation and saving; None if
            unknown.
        error: The message of the error that ended its training, or "".
    """

    row: Row
    scores: dict[str, float]
    images: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None
    error: str = ""


class Images:
    """Fingerprints of the rows' training and benchmark images; each is computed once.

    Those of the networks that rows start from and learn from are computed too.
    """

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def trained_on(self, config: Config) -> str:
        """The fingerprint of the training images."""
        # The pictures of a teacher depend on it, on the seed and on the degradation.
        part = "" if config.data.taught else "data"
        return self._once(config, part, lambda: fingerprint(training_images(config, read_network)))

    def sources(self, config: Config) -> dict[str, str]:
        """The fingerprints of the networks that a row starts from and learns from, by field."""
        return self._once(config, "train", lambda: sources(config, read_network))

    def scored_on(self, config: Config) -> dict[str, str]:
        """The fingerprint of each benchmark set."""
        return self._once(
            config,
            "eval",
            lambda: {images.name: images.fingerprint() for images in validation_sets(config)},
        )

    def _once(self, config: Config, part: str, compute: Callable[[], T]) -> T:
        settings = config_to_json(config)
        key = json.dumps(
            [part, settings.get(part, settings), config.task, config.scale], sort_keys=True
        )
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]


def check(rows: Sequence[Row]) -> Images:
    """Finds mistakes in all rows before the first one is trained.

    Returns:
        The fingerprints of the images for training and scoring.

    Raises:
        UserError: A row describes no network or training, or its images are missing.
    """
    images = Images()
    for row in rows:
        check_settings(row.config)
        models.build(row.config)
        images.scored_on(row.config)
        images.trained_on(row.config)
        images.sources(row.config)
    return images


def train_rows(rows: Sequence[Row], folder: Path, images: Images) -> Iterator[Result]:
    """Trains and scores every row in ``folder/NAME``; finished rows are only read.

    If a row fails, or its loss is not finite, its result has an error, and the following rows are
    still trained.

    Args:
        rows: In their order.
        folder: The study's folder; created if it is missing.
        images: From ``check``.

    Yields:
        The results, in the order of the rows, each as soon as it is complete.

    Raises:
        UserError: A work dir holds a row that was trained with other settings, or on other images.
        StudyStoppedError: A signal stopped a row's training.
    """
    for row in rows:
        _check_settings_of(folder / row.name, row.config)
        _check_origin_of(
            folder / row.name, images.trained_on(row.config), images.sources(row.config)
        )
    spent: list[float] = []
    for number, row in enumerate(rows, 1):
        started, scored_on = time.monotonic(), images.scored_on(row.config)
        about = {
            "eval": _eval(row.config),
            "data": images.trained_on(row.config),
            "networks": images.sources(row.config),
            "images": scored_on,
        }
        known = _read(folder / row.name, row, about)
        if known is not None:
            yield known
            continue
        _say(f"Row {number} of {len(rows)}: {row.title}.")
        try:
            result = _train(row, folder / row.name, about)
        except UserError as error:
            result = Result(row, {}, error=str(error))
            _say(f"Row {number} failed: {error}")
        else:
            spent.append(time.monotonic() - started)
            left = sum(spent) / len(spent) * (len(rows) - number) / 60
            listed = ", ".join(
                f"{name.removesuffix('/psnr')} {value:.2f} dB"
                for name, value in result.scores.items()
                if name.endswith("/psnr")
            )
            _say(f"Row {number} of {len(rows)}: {listed}; about {left:.0f} minutes left.")
        # The next network shares no compiled programs with this one: they would pile up.
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
                f"{workdir} was trained with config.{name} {old!r}, but {new!r} is requested: "
                "delete it, or choose another --workdir."
            )


def _check_origin_of(workdir: Path, data: str, networks: dict[str, str]) -> None:
    """Refuses a work dir that was trained on other images or from other networks.

    What their folders and files are called does not matter.

    Raises:
        UserError: It was.
    """
    try:
        with Checkpoints(workdir, read_only=True) as checkpoints:
            latest = checkpoints.latest_step()
            stored = None if latest is None else checkpoints.data(latest)
            known = None if latest is None else checkpoints.networks(latest)
    except UserError:  # no training yet; or it is damaged, which the training will report
        return
    if stored not in (None, data):
        raise UserError(
            f"{workdir} was trained on other images (fingerprint {stored}) than the "
            f"requested ones ({data}): delete it, or choose another --workdir."
        )
    if known is None:  # no training yet, or one of a version that did not note its networks
        return
    for name, network in networks.items():
        if known.get(name) != network:
            raise UserError(
                f"{workdir} was trained with an earlier network of config.{name}: delete "
                "it, or choose another --workdir."
            )


def _train(row: Row, workdir: Path, about: dict[str, Any]) -> Result:
    """Trains a row to its end if needed, scores it and writes its result.

    Args:
        row: The row.
        workdir: Its work dir.
        about: What its result depends on: settings of the scores, and fingerprints.
    """
    config = row.config
    model = models.build(config)
    validate = network_validator(config, model)
    saved = config.train.steps in saved_steps(workdir)
    if not saved or _last_validation(workdir, config) is None:
        status = train(config, str(workdir), validate, read_network)
        if status:
            raise StudyStoppedError(status)
    last = _last_validation(workdir, config)
    if last is None:  # its validation after the last step was interrupted
        raise StudyStoppedError(128 + signal.SIGTERM)
    scores, images = last["scores"], last["images"]
    stored = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    # The row may be older than a change of the requested sets, or of the images in them.
    if images != about["images"] or _eval(config_from_json(stored)) != _eval(config):
        _, _, variables, step = load_model(workdir, "latest")
        scores, _, images = validate(variables, step)
    seconds = _seconds(read_log(workdir))
    with writing_to(workdir):
        note = about | {"images": images, "scores": scores, "seconds": seconds}
        replace_text(workdir / "result.json", json_line(note))
    return Result(row, scores, images, seconds)


def _read(workdir: Path, row: Row, about: dict[str, Any]) -> Result | None:
    """The result of a row, if it is finished and depends on the same; see ``_train``."""
    try:
        note = json.loads((workdir / "result.json").read_text(encoding="utf-8"))
        # The checkpoints, which name the training images too, may have been deleted since.
        if any(note[name] != value for name, value in about.items()):
            return None
        return Result(row, scores_of(note["scores"]), note["images"], note["seconds"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or damaged
        return None


def _eval(config: Config) -> dict[str, Any]:
    """The part of a config on which scores depend."""
    settings = json.loads(json.dumps(config.eval.to_dict()))
    return {name: value for name, value in settings.items() if name not in ("every", "data_dir")}


def _last_validation(workdir: Path, config: Config) -> dict[str, Any] | None:
    """The log's row of the validation after the last step, if the training has reached it."""
    rows = [row for row in read_log(workdir) if row["step"] == config.train.steps]
    return next((row for row in reversed(rows) if "scores" in row), None)


def _seconds(rows: list[dict[str, Any]]) -> float | None:
    """The time of the logged steps; steps without a logged speed count like the others."""
    speeds: list[tuple[int, float]] = []
    last = 0
    for row in rows:
        if "loss" in row:
            if row.get("steps_per_second"):
                speeds.append((row["step"] - last, row["steps_per_second"]))
            last = row["step"]
    timed = sum(steps for steps, _ in speeds)
    return sum(steps / speed for steps, speed in speeds) * last / timed if timed else None
