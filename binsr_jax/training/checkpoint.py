"""Checkpoints: the whole state of a run, with the config that made it.

``WORKDIR/checkpoints/STEP`` is an Orbax checkpoint of two items: ``state``, and ``metadata`` with
the config, the versions of the libraries, what the data was, what computed, and a checksum of every
array.
"""

import contextlib
import errno
import importlib.metadata
import json
import os
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from binsr_jax import models
from binsr_jax.config import Config, config_from_json, config_to_json, flat_fields
from binsr_jax.errors import UserError
from binsr_jax.ops.native import choose
from binsr_jax.training.scores import Score, best_step, saved_scores, stored_score
from binsr_jax.training.state import TrainState
from binsr_jax.training.workdir import unwritable

_LIBRARIES = ("binsr-jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")

# What a network is; a run with another value of these cannot go on from its checkpoint.
_IDENTITY = ("task", "scale", "model.")
# What a state has, or has not.
_SWITCHES = ("train.ema", "train.gan_weight")


# How often a checkpoint that a training has replaced meanwhile is looked for again, and the seconds
# between two looks.
_LOOKS, _PAUSE = 20, 0.2


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def _checksums(state: Any) -> dict[str, int]:
    """A checksum of every leaf: the storage itself does not notice all flipped bits."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): _checksum(np.atleast_1d(leaf))
        for path, leaf in leaves
    }


def _stored(state: TrainState) -> dict[str, Any]:
    """The fields of a state as they are stored: without a discriminator, not even its name.

    So a checkpoint without one is what it was before there were discriminators.
    """
    stored = {field.name: getattr(state, field.name) for field in fields(state)}
    if stored.get("adversary") is None:
        stored.pop("adversary", None)
    return stored


def _text_checksum(config: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(config, sort_keys=True).encode())


def arithmetic() -> str:
    """What computes: an accelerator, or the form of the native code on CPU, ``"cpu, table"``.

    Two of them round floats differently: a run goes on bit for bit with the same one alone.

    Raises:
        UserError: the environment variable BINSR_KERNEL names no form that this machine can run.
    """
    backend = jax.default_backend()
    if backend != "cpu":
        return backend
    try:
        return f"cpu, {choose.chosen_form()}"
    except ValueError as error:
        raise UserError(f"The environment variable {error}.") from error


def differences(stored: Config, asked: Config) -> dict[str, tuple[Any, Any]]:
    """The fields in which two configs differ: name -> (value stored, value asked)."""
    old, new = flat_fields(stored), flat_fields(asked)
    return {
        name: (old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    }


def check_same_network(stored: Config, asked: Config, workdir: Path) -> None:
    """Refuses to go on with a config of another network.

    Raises:
        UserError: Names the fields that differ, with both values.
    """
    fields = {
        name: values
        for name, values in differences(stored, asked).items()
        if name.startswith(_IDENTITY)
        or (name in _SWITCHES and bool(values[0]) != bool(values[1]))
        or (name in _of_discriminator(asked) and stored.train.gan_weight)
    }
    if fields:
        listed = ", ".join(
            f"{name} {old} in the checkpoint, {new} asked" for name, (old, new) in fields.items()
        )
        raise UserError(
            f"The checkpoint in {workdir} is of another network ({listed}): give these fields the "
            f"checkpoint's values, or choose another --workdir."
        )


def _of_discriminator(config: Config) -> tuple[str, ...]:
    """The fields that a discriminator's parameters have their shapes from."""
    if not config.train.gan_weight:
        return ()
    sides = ("data.patch",) if config.train.discriminator == "vgg" else ()
    return ("train.discriminator", "train.discriminator_features", *sides)


def _without_closed_loops(hook: Callable[..., Any]) -> Callable[..., Any]:
    """An exception hook that leaves out what the storage prints of writes that come too late.

    When one write of a save fails, Orbax closes its event loop, and each other write that was under
    way then prints a traceback. The failure itself is raised, and becomes a sentence.
    """

    def filtered(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        if not (kind is RuntimeError and str(error) == "Event loop is closed"):
            hook(kind, error, trace)

    return filtered


class Checkpoints:
    """The checkpoints of one work dir.

    Saving is asynchronous, a save that was cut off leaves nothing behind, and what is kept are the
    latest ``keep`` and the one with the best score among those that were scored like the latest. A
    context manager, which waits for the last save.
    """

    def __init__(self, workdir: Path, *, keep: int = 1, read_only: bool = False):
        """Opens ``workdir/checkpoints``; unless ``read_only``, leftovers of cut-off saves go.

        Raises:
            UserError: If the folder cannot be read or written.
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
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            if isinstance(error, OSError | RuntimeError) and not read_only:
                raise unwritable(workdir, error) from error
            raise UserError(
                f"The checkpoints in {self.folder} cannot be read "
                f"({_first_line(error)}): delete the damaged one."
            ) from error

    def __enter__(self) -> "Checkpoints":
        self._hook = sys.excepthook
        sys.excepthook = _without_closed_loops(self._hook)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._manager.close()
        except (OSError, RuntimeError, ValueError) as error:
            if kind is None:  # an error on its way out tells more than this one
                raise unwritable(self.workdir, error) from error
        finally:
            sys.excepthook = self._hook

    def latest_step(self) -> int | None:
        """The newest step, or None."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """The step with the best score, the newest if none was scored, or None.

        Only scores of the same set, level and images as the latest are compared: see
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
    ) -> None:
        """Starts saving; the caller may overwrite or donate the state's arrays at once.

        Args:
            state: Any arrays that this process holds whole.
            config: Stored with it.
            data: The fingerprint of the training images.
            score: What "best" is decided by.
            pending: Loss, gradient norm and so on of each step since the last line of the log, of
                which the next line has the means.

        Raises:
            UserError: If this or the previous save cannot be written.
        """
        # A true copy: on CPU numpy would see the device's memory, which the next step donates.
        host = jax.tree.map(lambda leaf: np.array(leaf), state)
        self._check_space(sum(leaf.nbytes for leaf in jax.tree.leaves(host)))
        settings = config_to_json(config)
        metadata = {
            "config": settings,
            "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
            "data": data,
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
        """Looks whether a save in the background has failed.

        Raises:
            UserError: If it cannot be written.
        """
        try:
            self._manager.check_for_errors()
        except (OSError, RuntimeError, ValueError) as error:
            raise unwritable(self.workdir, error) from error

    def wait(self) -> None:
        """Returns when the last save is complete on disk.

        Raises:
            UserError: If it cannot be written.
        """
        try:
            self._manager.wait_until_finished()
        except (OSError, RuntimeError, ValueError) as error:
            raise unwritable(self.workdir, error) from error

    def config(self, step: int) -> Config:
        """The config that a step was saved with."""
        return config_from_json(self._metadata(step)["config"])

    def data(self, step: int) -> str:
        """The fingerprint of the data that a step was trained on."""
        return self._metadata(step)["data"]

    def pending(self, step: int) -> list[dict[str, float]]:
        """Loss, gradient norm and so on of the steps between the log's last line and this step."""
        stored = self._metadata(step).get("pending", [])
        return [{name: float(value) for name, value in values.items()} for values in stored]

    def arithmetic(self, step: int) -> str | None:
        """What computed the steps up to this one; None in checkpoints that do not say it."""
        return self._metadata(step).get("arithmetic")

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state of a step, bit for bit, as numpy arrays.

        Args:
            step: One of those saved.
            like: A state of the same structure, of arrays or shapes.

        Raises:
            UserError: If the checkpoint is damaged or holds other arrays.
        """
        host = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
        return TrainState(**self._restore_state(step, ocp.args.StandardRestore(_stored(host))))

    def variables(self, step: int) -> dict[str, Any]:
        """The variables to score of a step: see ``TrainState.variables``."""
        state = self._restore_state(step, ocp.args.StandardRestore())
        params = state["params"] if state["ema"] is None else state["ema"]
        return {"params": params, **state["collections"]}

    def _check_space(self, size: int) -> None:
        """Refuses a save that a full disk would cut off."""
        if shutil.disk_usage(self.folder).free < size:
            error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise unwritable(self.workdir, error)

    def _metadata(self, step: int) -> dict[str, Any]:
        args = ocp.args.Composite(metadata=ocp.args.JsonRestore())
        metadata = self._read(step, lambda: self._manager.restore(step, args=args)["metadata"])
        if metadata["checksums"]["config"] != _text_checksum(metadata["config"]):
            raise self._damaged(step, "the config's checksum does not match")
        return metadata

    def _restore_state(self, step: int, how: Any) -> Any:
        args = ocp.args.Composite(state=how)
        state = self._read(step, lambda: self._manager.restore(step, args=args)["state"])
        stored = self._metadata(step)["checksums"]["state"]
        for name, checksum in _checksums(state).items():
            if stored.get(name) != checksum:
                raise self._damaged(step, f"the checksum of {name} does not match")
        return state

    def _read(self, step: int, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise self._damaged(step, _first_line(error)) from error

    def _damaged(self, step: int, reason: str) -> UserError:
        others = [other for other in self._manager.all_steps() if other != step]
        then = f"go on from step {max(others)}" if others else "start anew"
        return UserError(
            f"The checkpoint {self.folder / str(step)} is damaged ({reason}): delete that folder "
            f"to {then}."
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


class _KeepBest(checkpoint_managers.PreservationPolicy):
    """Keeps the best of the checkpoints that were scored like the latest scored one."""

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
        for info in checkpoints:  # one of them is still being written
            score = stored_score(info.metrics)
            if score is not None:
                scores[info.step] = score
        steps = [info.step for info in checkpoints]
        best = best_step({step: score for step, score in scores.items() if step in steps})
        return [step == best for step in steps]


@dataclass(frozen=True)
class Trained:
    """A trained network, as a checkpoint holds it.

    Attributes:
        config: of its training.
        model: the network.
        variables: its variables; averaged parameters where the config has an EMA.
        step: how many steps it was trained.
        data: the fingerprint of its training images.
        score: of the validation after that step, if there was one.
    """

    config: Config
    model: nn.Module
    variables: dict[str, Any]
    step: int
    data: str
    score: Score | None


def load_trained(
    workdir: str | os.PathLike[str], which: Literal["best", "latest"] = "best"
) -> Trained:
    """A trained network, rebuilt from its work dir alone.

    A training that goes on there replaces its checkpoints. One that goes while it is read is no
    damaged one: what is there then is read instead.

    Args:
        workdir: Where it was trained; training may still be going on there.
        which: "best" by the first evaluation set's PSNR, or "latest".

    Raises:
        UserError: If there is no checkpoint or it is damaged.
    """
    path = Path(workdir).expanduser().absolute()
    none = UserError(
        f"{path} holds no checkpoint: train there first "
        f"(binsr train --config quickstart --workdir {workdir}), or name another "
        f"work dir."
    )
    if not (path / "checkpoints").is_dir():
        raise none
    failures: set[str] = set()
    for _ in range(_LOOKS):
        before = _files(path / "checkpoints")
        try:
            trained = _load(path, which)
        except UserError as error:
            failures.add(str(error))
            time.sleep(_PAUSE)
            if _files(path / "checkpoints") == before:
                raise
        else:
            if trained is None:
                raise none
            return trained
    if len(failures) == 1:  # always the same one: others may come and go, but this one is damaged
        raise UserError(failures.pop())
    raise UserError(
        f"The checkpoints in {path} are replaced faster than they can be read: try again later, or "
        f"train with a larger config.train.checkpoint_every."
    )


def load_model(
    workdir: str | os.PathLike[str], which: Literal["best", "latest"] = "best"
) -> tuple[Config, nn.Module, dict[str, Any], int]:
    """Config, network, variables and step of a trained network: see ``load_trained``."""
    trained = load_trained(workdir, which)
    return trained.config, trained.model, trained.variables, trained.step


def _load(path: Path, which: Literal["best", "latest"]) -> Trained | None:
    """The network of a work dir as it is at this moment, or None if there is no checkpoint."""
    with Checkpoints(path, read_only=True) as checkpoints:
        step = checkpoints.best_step() if which == "best" else checkpoints.latest_step()
        if step is None:
            return None
        config = checkpoints.config(step)
        model = models.build(config)
        variables = jax.tree.map(jnp.asarray, checkpoints.variables(step))
        data, score = checkpoints.data(step), checkpoints.score(step)
    return Trained(config, model, variables, step, data, score)


def _files(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every entry below a folder with its size and time: another one if anything has changed."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(parent, name)
            with contextlib.suppress(OSError):
                status = os.lstat(path)
                found[path] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found
