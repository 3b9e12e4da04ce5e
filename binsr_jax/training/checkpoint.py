"""Checkpoints: the whole state of a run and the config that made it.

``WORKDIR/checkpoints/STEP`` is an Orbax checkpoint of two items. ``state`` holds the arrays.
``metadata`` holds the config, the versions of the libraries, the fingerprint of the data, the
hardware or native code that computed, and a checksum of every array.
"""

import errno
import functools
import importlib.metadata
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from binsr_jax.config import Config, config_from_json, config_to_json
from binsr_jax.errors import UserError
from binsr_jax.ops.native import choose
from binsr_jax.training.scores import Score, best_step, saved_scores, saved_steps, stored_score
from binsr_jax.training.state import TrainState
from binsr_jax.training.workdir import unwritable

T = TypeVar("T")

_ABOUT = "_CHECKPOINT_METADATA"  # Orbax's file about a step
_LIBRARIES = ("binsr-jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def _checksums(state: Any) -> dict[str, int]:
    """A checksum of every leaf, because Orbax does not notice all flipped bits."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): _checksum(np.atleast_1d(leaf))
        for path, leaf in leaves
    }


def _stored(state: TrainState) -> dict[str, Any]:
    """The fields of a state as they are stored.

    A missing discriminator has no entry, so such checkpoints have the form of earlier versions.
    """
    stored = {field.name: getattr(state, field.name) for field in fields(state)}
    if stored.get("adversary") is None:
        stored.pop("adversary", None)
    return stored


def _text_checksum(config: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(config, sort_keys=True).encode())


def arithmetic() -> str:
    """The arithmetic: an accelerator, or the form of the native code on CPU, ``"cpu, table"``.

    Two of them may round floats differently. A run continues bit for bit only with the same one.

    Raises:
        UserError: The environment variable BINSR_KERNEL names no form that this machine can run.
    """
    backend = jax.default_backend()
    if backend != "cpu":
        return backend
    try:
        return f"cpu, {choose.chosen_form()}"
    except ValueError as error:
        raise UserError(f"The environment variable {error}.") from error


@functools.cache
def _drop_late_tracebacks() -> None:
    """Drops the tracebacks of reads and writes that Orbax has abandoned.

    If one of them fails, Orbax closes its event loop. Each of the others that are pending then
    prints a traceback, even after the manager is closed. The failure itself is raised and reported
    as one sentence.
    """
    usual, usual_ignored = sys.excepthook, sys.unraisablehook

    def late(error: BaseException | None) -> bool:
        return isinstance(error, RuntimeError) and str(error) == "Event loop is closed"

    def raised(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not late(error):
            usual(kind, error, trace)

    def ignored(what: Any) -> None:
        if not late(what.exc_value):
            usual_ignored(what)

    sys.excepthook, sys.unraisablehook = raised, ignored


class Checkpoints:
    """The checkpoints of one work dir; a context manager, which waits for the last save.

    Saving is asynchronous, and an interrupted save leaves nothing behind. Two kinds of checkpoint
    stay: the latest ``keep``, and the one with the best score. Only scores of the same kind as the
    latest are compared.
    """

    def __init__(self, workdir: Path, *, keep: int = 1, read_only: bool = False):
        """Opens ``workdir/checkpoints``; unless ``read_only``, removes interrupted saves.

        Raises:
            UserError: The folder cannot be read or written.
        """
        self.workdir = workdir
        self.folder = workdir / "checkpoints"
        kept = checkpoint_managers.AnyPreservationPolicy(
            [checkpoint_managers.LatestN(keep), _KeepBest(workdir)]
        )
        options = ocp.CheckpointManagerOptions(
            best_fn=lambda metrics: metrics["psnr"],  # without one Orbax stores no scores
            preservation_policy=kept,
            save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        try:
            self._manager = ocp.CheckpointManager(
                self.folder, options=options, item_names=("state", "metadata")
            )
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, OSError | RuntimeError) and not read_only:
                raise unwritable(workdir, error) from error
            for step in saved_steps(workdir):
                if not isinstance(_json_of(self.folder / str(step) / _ABOUT), dict):
                    raise self._damaged(step, _first_line(error)) from error
            raise UserError(
                f"The checkpoints in {self.folder} cannot be read "
                f"({_first_line(error)}): delete the damaged one."
            ) from error

    def __enter__(self) -> "Checkpoints":
        _drop_late_tracebacks()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._manager.close()
        except (OSError, RuntimeError, ValueError) as error:
            if kind is None:  # an exception in flight is more informative than this one
                raise unwritable(self.workdir, error) from error

    def latest_step(self) -> int | None:
        """The newest step, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step with the best score, the newest if none has a score, or None.

        Only scores on the same set, level and images as the latest are compared; see
        ``scores.best_step``.
        """
        saved = self._manager.all_steps()
        scores = {step: s for step, s in saved_scores(self.workdir).items() if step in saved}
        return best_step(scores) if scores else self.latest_step()

    def score(self, step: int) -> Score | None:
        """The score of a step, or None."""
        return saved_scores(self.workdir).get(step)

    def save(
        self,
        state: TrainState,
        config: Config,
        data: str,
        score: Score | None = None,
        pending: Sequence[Mapping[str, float]] = (),
        networks: Mapping[str, str] | None = None,
    ) -> None:
        """Starts saving; the caller may overwrite or donate the state's arrays at once.

        Args:
            state: Arrays that this process holds completely.
            config: Stored with the state.
            data: The fingerprint of the training images.
            score: The score that decides which checkpoint is the best.
            pending: Loss, gradient norm and so on of each step since the last line of the log. The
                next line will hold their means.
            networks: The fingerprints of the networks that it started from and learns from, by
                field.

        Raises:
            UserError: This or the previous save cannot be written.
        """
        # A real copy: on CPU numpy would share the device's memory, which the next step donates.
        host = jax.tree.map(lambda leaf: np.array(leaf), state)
        self._check_space(sum(leaf.nbytes for leaf in jax.tree.leaves(host)))
        settings = config_to_json(config)
        metadata = {
            "config": settings,
            "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
            "data": data,
            "networks": dict(networks or {}),
            "pending": [dict(values) for values in pending],
            "arithmetic": arithmetic(),
            "checksums": {"config": _text_checksum(settings), "state": _checksums(host)},
        }
        try:
            self._manager.save(
                int(host.step),
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_stored(host)), metadata=ocp.args.JsonSave(metadata)
                ),
                metrics=None if score is None else score.to_json(),
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise unwritable(self.workdir, error) from error

    def check(self) -> None:
        """Reports a failed save in the background.

        Raises:
            UserError: The save cannot be written.
        """
        try:
            self._manager.check_for_errors()
        except (OSError, RuntimeError, ValueError) as error:
            raise unwritable(self.workdir, error) from error

    def wait(self) -> None:
        """Returns when the last save is complete on disk.

        Raises:
            UserError: It cannot be written.
        """
        try:
            self._manager.wait_until_finished()
        except (OSError, RuntimeError, ValueError) as error:
            raise unwritable(self.workdir, error) from error

    def config(self, step: int) -> Config:
        """The config that a step was saved with."""
        return self._about(step, lambda metadata: config_from_json(metadata["config"]))

    def data(self, step: int) -> str:
        """The fingerprint of the data that a step was trained on."""
        return self._about(step, lambda metadata: str(metadata["data"]))

    def networks(self, step: int) -> dict[str, str] | None:
        """Fingerprints of the networks that a step started from and learned from, by field.

        None if the checkpoint does not name them.
        """
        return self._about(step, lambda metadata: metadata.get("networks"))

    def pending(self, step: int) -> list[dict[str, float]]:
        """Loss, gradient norm and so on of the steps between the log's last line and this step."""

        def read(metadata: dict[str, Any]) -> list[dict[str, float]]:
            stored = metadata.get("pending", [])
            return [{name: float(value) for name, value in values.items()} for values in stored]

        return self._about(step, read)

    def arithmetic(self, step: int) -> str | None:
        """The arithmetic of the steps up to this one; None if the checkpoint does not name it."""
        return self._about(step, lambda metadata: metadata.get("arithmetic"))

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state of a step, bit for bit, as numpy arrays.

        Args:
            step: A saved step.
            like: A state of the same structure, made of arrays or shapes.

        Raises:
            UserError: The checkpoint is damaged or holds other arrays.
        """
        host = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
        return TrainState(**self._restore_state(step, ocp.args.StandardRestore(_stored(host))))

    def variables(self, step: int) -> dict[str, Any]:
        """The variables of a step that are used for scoring: see ``TrainState.variables``."""
        state = self._restore_state(step, ocp.args.StandardRestore())
        params = state["params"] if state["ema"] is None else state["ema"]
        return {"params": params, **state["collections"]}

    def _check_space(self, size: int) -> None:
        """Refuses a save that would fill the disk."""
        if shutil.disk_usage(self.folder).free < size:
            error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise unwritable(self.workdir, error)

    def _about(self, step: int, part: Callable[[dict[str, Any]], T]) -> T:
        """A part of a step's metadata."""
        args = ocp.args.Composite(metadata=ocp.args.JsonRestore())

        def read() -> T:
            metadata = self._manager.restore(step, args=args)["metadata"]
            if metadata["checksums"]["config"] != _text_checksum(metadata["config"]):
                raise self._damaged(step, "the config's checksum does not match")
            return part(metadata)

        return self._read(step, read)

    def _restore_state(self, step: int, how: Any) -> Any:
        args = ocp.args.Composite(state=how)
        state = self._read(step, lambda: self._manager.restore(step, args=args)["state"])
        stored = self._about(step, lambda metadata: dict(metadata["checksums"]["state"]))
        for name, checksum in _checksums(state).items():
            if stored.get(name) != checksum:
                raise self._damaged(step, f"the checksum of {name} does not match")
        return state

    def _read(self, step: int, read: Callable[[], T]) -> T:
        try:
            return read()
        except UserError:
            raise
        except Exception as error:  # Orbax and JSON raise many types on damaged files
            raise self._damaged(step, _first_line(error)) from error

    def _damaged(self, step: int, reason: str) -> UserError:
        others = [other for other in saved_steps(self.workdir) if other != step]
        then = f"continue from step {max(others)}" if others else "start anew"
        return UserError(
            f"The checkpoint {self.folder / str(step)} is damaged ({reason}): delete that folder "
            f"to {then}."
        )


def _json_of(path: Path) -> Any:
    """The content of a file of JSON; None if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


class _KeepBest(checkpoint_managers.PreservationPolicy):
    """Keeps the best of the checkpoints whose scores are of the same kind as the latest."""

    def __init__(self, workdir: Path):
        self._workdir = workdir

    def should_preserve(
        self,
        checkpoints: Sequence[checkpoint_managers.PolicyCheckpointInfo],
        *,
        context: checkpoint_managers.PreservationContext,
    ) -> list[bool]:
        del context
        scores = saved_scores(self._workdir)
        for info in checkpoints:  # one of them may still be incomplete
            score = stored_score(info.metrics)
            if score is not None:
                scores[info.step] = score
        steps = [info.step for info in checkpoints]
        best = best_step({step: score for step, score in scores.items() if step in steps})
        return [step == best for step in steps]
