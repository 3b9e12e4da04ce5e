"""Checkpoints: the whole state of a run, with the config that made it.

``WORKDIR/checkpoints/STEP`` is an Orbax checkpoint of two items: ``state``, and ``metadata`` with
the config, the versions of the libraries, what the data was, what computed, and a checksum of every
array.
"""

import errno
import importlib.metadata
import json
import os
import shutil
import sys
import zlib
from collections.abc import Callable
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
from binsr_jax.training.state import TrainState
from binsr_jax.training.workdir import unwritable

_LIBRARIES = ("binsr-jax", "jax", "flax", "optax", "orbax-checkpoint", "numpy")

# What a network is; a run with another value of these cannot go on from its checkpoint.
_IDENTITY = ("task", "scale", "model.")


def _score(metrics: dict[str, float]) -> float:
    return metrics["psnr"]


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).tobytes())


def _checksums(state: Any) -> dict[str, int]:
    """A checksum of every leaf: the storage itself does not notice all flipped bits."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): _checksum(np.atleast_1d(leaf))
        for path, leaf in leaves
    }


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
        or (name == "train.ema" and bool(values[0]) != bool(values[1]))
    }
    if fields:
        listed = ", ".join(
            f"{name} {old} in the checkpoint, {new} asked" for name, (old, new) in fields.items()
        )
        raise UserError(
            f"The checkpoint in {workdir} is of another network ({listed}): give these fields the "
            f"checkpoint's values, or choose another --workdir."
        )


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
    latest ``keep`` and the one with the best score. A context manager, which waits for the last
    save.
    """

    def __init__(self, workdir: Path, *, keep: int = 1, read_only: bool = False):
        """Opens ``workdir/checkpoints``; unless ``read_only``, leftovers of cut-off saves go.

        Raises:
            UserError: If the folder cannot be read or written.
        """
        self.workdir = workdir
        self.folder = workdir / "checkpoints"
        kept = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep),
                checkpoint_managers.BestN(
                    get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            best_fn=_score,
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
        except (OSError, RuntimeError) as error:
            raise unwritable(workdir, error) from error
        except (ValueError, KeyError) as error:
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
        """The step with the best score, the newest if none was scored, or None."""
        scores = {step: self.score(step) for step in self._manager.all_steps()}
        scored = {step: score for step, score in scores.items() if score is not None}
        return max(scored, key=lambda step: (scored[step], step)) if scored else self.latest_step()

    def score(self, step: int) -> float | None:
        """The score that a step was saved with, or None."""
        metrics = self._manager.metrics(step)
        return None if metrics is None else _score(metrics)

    def save(
        self, state: TrainState, config: Config, data: str, score: float | None = None
    ) -> None:
        """Starts saving; the caller may overwrite or donate the state's arrays at once.

        Args:
            state: Any arrays that this process holds whole.
            config: Stored with it.
            data: The fingerprint of the training images.
            score: What "best" is decided by, higher is better.

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
            "arithmetic": arithmetic(),
            "checksums": {"config": _text_checksum(settings), "state": _checksums(host)},
        }
        try:
            self._manager.save(
                int(host.step),
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(host), metadata=ocp.args.JsonSave(metadata)
                ),
                metrics=None if score is None else {"psnr": score},
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
        return self._restore_state(step, ocp.args.StandardRestore(host))

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


def load_model(
    workdir: str | os.PathLike[str], which: Literal["best", "latest"] = "best"
) -> tuple[Config, nn.Module, dict[str, Any], int]:
    """A trained network, rebuilt from its work dir alone.

    Args:
        workdir: Where it was trained; training may still be going on there.
        which: "best" by the first evaluation set's PSNR, or "latest".

    Returns:
        The config, the network, its variables (averaged parameters where the config has an EMA),
        and the step they are from.

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
    with Checkpoints(path, read_only=True) as checkpoints:
        step = checkpoints.best_step() if which == "best" else checkpoints.latest_step()
        if step is None:
            raise none
        config = checkpoints.config(step)
        model = models.build(config)
        variables = jax.tree.map(jnp.asarray, checkpoints.variables(step))
    return config, model, variables, step
