"""The training loop: resumes, steps, logs, validates, saves, and stops on request."""

import contextlib
import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from absl import logging
from flax.traverse_util import flatten_dict
from jax.experimental import multihost_utils

from binsr_jax import models
from binsr_jax.config import Config, config_to_json
from binsr_jax.data.pipeline import training_batches
from binsr_jax.data.sources import fingerprint, open_mixture
from binsr_jax.data.taught import Mixture, open_taught
from binsr_jax.errors import UserError
from binsr_jax.files import expanded, replace_text
from binsr_jax.training.checkpoint import Checkpoints, arithmetic
from binsr_jax.training.compression import with_rounding
from binsr_jax.training.devices import make_mesh, place_batch, place_state
from binsr_jax.training.footprint import check_memory
from binsr_jax.training.journal import Journal
from binsr_jax.training.same_network import check_same_network, differences
from binsr_jax.training.scores import Score, Validation, score_of, stored_score
from binsr_jax.training.settings import check_settings
from binsr_jax.training.signals import StoppedError, StopRequest
from binsr_jax.training.state import TrainState, create_state, make_optimizer
from binsr_jax.training.step import Metrics, make_step
from binsr_jax.training.trainable import read_network
from binsr_jax.training.transfer import (
    ReadNetwork,
    initialised,
    make_teacher,
    picture_teacher,
    sources,
)
from binsr_jax.training.workdir import claim, writing_to

_LONGEST_SCORE = 4096  # bytes, as text

Validate = Callable[[dict[str, Any], int], Validation]


def train(
    config: Config, workdir: str, validate: Validate, read: ReadNetwork = read_network
) -> int:
    """Trains a network, from the start or from the newest checkpoint of the work dir.

    The input sequence is a function of (seed, step) and the state is restored exactly. So an
    interrupted and resumed run ends with the same bits as an uninterrupted one.

    Args:
        config: See ``binsr_jax.config``.
        workdir: The output folder: config.json, checkpoints/, log.jsonl, tensorboard/.
        validate: ``(variables, step) -> Validation``; the first set's PSNR decides which checkpoint
            is the best.
        read: Reads the network of ``train.init_from`` and of ``train.teacher``; the default reads
            work dirs and trainable files.

    Returns:
        The exit status: 0 when all steps are done, 128 + n when signal n stopped the run.

    Raises:
        UserError: A setting is invalid; the work dir is in use, cannot be written, or belongs to
            another network; a checkpoint is damaged; or a loss is not finite.
    """
    check_settings(config)
    mesh = make_mesh(config)
    model = models.build(config)
    first = jax.process_index() == 0
    path = expanded(workdir).absolute()
    with (
        claim(path) if first else contextlib.nullcontext(),
        Checkpoints(path, keep=config.train.keep) as checkpoints,
    ):
        run = _Run(config, path, model, mesh, checkpoints, validate, read)
        if first:
            with writing_to(path):
                replace_text(path / "config.json", json.dumps(config_to_json(config), indent=2))
        return run.to_the_end()


def training_images(config: Config, read: ReadNetwork = read_network) -> Mixture:
    """The training images; with ``data.taught``, the pairs that the teacher makes from them.

    Args:
        config: The config of the training.
        read: Reads the network of the teacher.

    Raises:
        UserError: The images or the teacher are missing or damaged.
    """
    mixture = open_mixture(config)
    if not config.data.taught:
        return mixture
    return [(open_taught(config, mixture, picture_teacher(config, read)), 1.0)]


class _Run:
    """One call of ``train``: its state, and the work between two steps."""

    def __init__(
        self,
        config: Config,
        workdir: Path,
        model: nn.Module,
        mesh: jax.sharding.Mesh,
        checkpoints: Checkpoints,
        validate: Validate,
        read: ReadNetwork,
    ):
        self._config, self._workdir, self._mesh = config, workdir, mesh
        self._checkpoints, self._validate = checkpoints, validate
        read = functools.cache(read)
        # Decodes the images now, if the cache lacks them, so that no step waits for it.
        self._mixture = training_images(config, read)
        self._data = fingerprint(self._mixture)
        optimizer = make_optimizer(config.train)
        initial = functools.partial(create_state, config, model, optimizer)
        check_memory(config, model, initial, mesh)
        self._step = make_step(config, model, optimizer, mesh)
        each_step = bool(config.train.teacher) and not config.data.taught
        self._teacher = make_teacher(config, mesh, read) if each_step else None
        latest = checkpoints.latest_step()
        if latest is None:
            fresh = initial()
            if config.train.init_from:
                fresh = initialised(fresh, config, read)
            state = jax.tree.map(np.asarray, fresh)
            self._networks = sources(config, read)
        else:
            state = self._resumed(jax.eval_shape(initial), latest)
            self._networks = self._resumed_networks(latest, read)
        self._start = int(state.step)
        # Both a fresh and a restored state come from numpy, so the step is compiled once.
        self._state: TrainState = place_state(state, mesh)
        self._pending: list[Metrics] = []  # on the device: the steps since the last check
        # Checked and finite loss and gradient norm of the steps since the last log line.
        self._window: list[dict[str, float]] = []
        if latest is not None:
            self._window = checkpoints.pending(latest)
        self._rate = 0.0  # learning rate of the last checked step
        self._finite = self._start
        self._logged = self._start - len(self._window)

    def _resumed(self, like: TrainState, step: int) -> TrainState:
        stored = self._checkpoints.config(step)
        check_same_network(stored, self._config, self._workdir)
        state = self._checkpoints.restore(step, like)
        logging.info("Continuing from step %d of %s.", step, self._workdir)
        for name, (old, new) in differences(stored, self._config).items():
            logging.info("config.%s was %r until that step, and is %r now.", name, old, new)
        if self._checkpoints.data(step) != self._data:
            logging.warning("The training images have changed since that step.")
        before, now = self._checkpoints.arithmetic(step), arithmetic()
        if before not in (None, now):
            logging.warning(
                "The steps so far were computed by %s, and now %s computes. It rounds floats "
                "differently, so the run will not end with the same bits.",
                before,
                now,
            )
        return state

    def _resumed_networks(self, step: int, read: ReadNetwork) -> dict[str, str]:
        """The networks of a checkpoint, with the teacher as it is now."""
        before = self._checkpoints.networks(step) or {}
        teacher = sources(self._config, read, ["train.teacher"])
        for name, now in teacher.items():
            if before.get(name, now) != now:
                logging.warning("The network of config.%s has changed since that step.", name)
        return {name: kept for name, kept in before.items() if name == "train.init_from"} | teacher

    def to_the_end(self) -> int:
        """Trains, logs how the run ended, and returns the exit status."""
        start, steps = self._start, self._config.train.steps
        first = jax.process_index() == 0
        with (
            StopRequest() as stop,
            Journal(self._workdir, start, steps, active=first) as journal,
        ):
            # A run that was stopped right before a validation does it now.
            if start and self._validation_is_due(start) and not journal.has_scores(start):
                with contextlib.suppress(StoppedError):
                    self._scores(start, journal, stop)
            if start < steps:
                signal = self._steps(journal, stop)
                if signal is not None:
                    return 128 + signal
            self._checkpoints.wait()
            best = self._checkpoints.best_step()
            journal.say(
                f"Training is complete after {max(start, steps)} steps. The best checkpoint is "
                f"that of step {best}. All is in {self._workdir}."
            )
            return 0

    def _steps(self, journal: Journal, stop: StopRequest) -> int | None:
        """Runs the remaining steps; returns the signal that stopped them, if any."""
        shard = (jax.process_index(), jax.process_count())
        with training_batches(self._config, self._start, *shard, self._mixture) as batches:
            with stop.ignoring_interrupts():  # workers start at the first batch
                first = next(batches)
            journal.say("Compiling the training step.")
            steps = range(self._start + 1, self._config.train.steps + 1)
            for step, batch in zip(steps, itertools.chain([first], batches), strict=False):
                self._one_step(batch, step, journal)
                signal = self._between_steps(step, journal, stop)
                if signal is not None:
                    return signal
        return None

    def _one_step(self, batch: dict[str, np.ndarray], step: int, journal: Journal) -> None:
        placed = place_batch(self._config, batch, self._mesh)
        if self._teacher is not None:
            placed["teacher"] = self._teacher(placed["lq"])
        self._state, metrics = self._step(self._state, placed)
        # Waiting for the previous step keeps the device busy and the queue one step long.
        jax.block_until_ready(self._pending[-1] if self._pending else metrics)
        self._pending.append(metrics)
        if step == self._start + 1:
            journal.restart_clock(step)
        journal.advance()

    def _between_steps(self, step: int, journal: Journal, stop: StopRequest) -> int | None:
        """Logs, validates and saves if due; returns the signal that asks to stop, if any."""
        train = self._config.train
        signal = stop.at(step)
        validation = self._validation_is_due(step)
        last = step == train.steps
        saving = validation or last or signal is not None or step % train.checkpoint_every == 0
        logging_due = last or step % train.log_every == 0
        if saving or logging_due:
            self._check_losses(step)
        if logging_due:
            self._checkpoints.check()
            journal.progress(step, self._mean_metrics(step))
        score = None
        if validation and signal is None:
            try:
                score = self._scores(step, journal, stop)
            except StoppedError:
                signal = stop.at(step)
        if saving:
            self._checkpoints.save(
                self._state, self._config, self._data, score, self._window, self._networks
            )
            journal.restart_clock(step)
        if signal is not None:
            self._checkpoints.wait()
            journal.say(
                f"Stopped by a signal ({signal}) and saved at step {step} of {train.steps}; the "
                f"same command continues from there."
            )
        return signal

    def _validation_is_due(self, step: int) -> bool:
        every, sets = self._config.eval.every, self._config.eval.sets
        return bool(sets) and (step % every == 0 or step == self._config.train.steps)

    def _scores(self, step: int, journal: Journal, stop: StopRequest) -> Score | None:
        """Validates; returns the score, the same on all processes."""
        score = None
        if jax.process_index() == 0:
            variables = jax.tree.map(np.asarray, self._state.variables)
            variables["params"] = with_rounding(self._config, variables["params"])
            with stop.interrupting():
                validation = self._validate(variables, step)
            journal.scores(step, validation)
            journal.latent_weights(step, self._latent_weights())
            score = score_of(validation.scores, validation.images)
        if jax.process_count() > 1:
            score = _broadcast(score)
        return score

    def _latent_weights(self) -> dict[str, np.ndarray]:
        """The latent weights of the binary convolutions, by layer."""
        config = self._config
        names = models.binary_kernels(config)
        params: Any = flatten_dict(self._state.params)
        return {"/".join(path[:-1]): np.asarray(params[path]) for path in sorted(names)}

    def _check_losses(self, step: int) -> None:
        """Checks the losses of the steps since the last check, before anything is saved.

        Raises:
            UserError: A loss or gradient is not finite; the message names the steps between which
                that happened.
        """
        for values in jax.device_get(self._pending):
            self._finite += 1
            for name, value in values.items():
                if not np.isfinite(value):
                    raise UserError(
                        f"The {name.replace('_', ' ')} became {value} at step "
                        f"{self._finite}, after the log line of step {self._logged} and before "
                        f"step {step + 1}: lower --config.train.learning_rate or look for broken "
                        f"training images; the newest checkpoint is that of "
                        f"step {self._checkpoints.latest_step() or 0}."
                    )
            self._window.append({name: float(value) for name, value in values.items()})
            self._rate = self._window[-1].pop("learning_rate")
        self._pending = []

    def _mean_metrics(self, step: int) -> dict[str, float]:
        """The means since the last log line, and the rate of the last step."""
        means = {
            name: float(np.mean([values[name] for values in self._window], dtype=np.float64))
            for name in self._window[0]
        }
        self._window, self._logged = [], step
        return {**means, "learning_rate": self._rate}


def _broadcast(score: Score | None) -> Score | None:
    """The first process's score, bit for bit, on all processes."""
    text = json.dumps(None if score is None else score.to_json()).encode()
    bytes_ = np.zeros(_LONGEST_SCORE, np.uint8)
    bytes_[: len(text)] = np.frombuffer(text, np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(bytes_))
    return stored_score(json.loads(received.astype(np.uint8).tobytes().rstrip(b"\0")))
