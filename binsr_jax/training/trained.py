"""The trained network of a work dir."""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from binsr_jax import models
from binsr_jax.config import Config
from binsr_jax.errors import UserError
from binsr_jax.files import expanded
from binsr_jax.training.checkpoint import Checkpoints
from binsr_jax.training.scores import Score

# The number of attempts to read a checkpoint that a running training may replace, and the seconds
# between them.
_LOOKS, _PAUSE = 20, 0.2


@dataclass(frozen=True)
class Trained:
    """A trained network, as a checkpoint holds it.

    Attributes:
        config: The config of its training.
        model: The network.
        variables: Its variables; averaged parameters if the config has an EMA.
        step: The number of training steps.
        data: The fingerprint of its training images.
        score: The score of the validation after that step, if there was one.
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

    A training that still runs in the work dir replaces its checkpoints. If a checkpoint disappears
    during the read, its successor is read instead of reporting damage.

    Args:
        workdir: The work dir; training may still run in it.
        which: "best" by the first evaluation set's PSNR, or "latest".

    Raises:
        UserError: There is no checkpoint or it is damaged.
    """
    path = expanded(workdir).absolute()
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
    if len(failures) == 1:  # the same checkpoint failed each time, so it is damaged
        raise UserError(failures.pop())
    raise UserError(
        f"The checkpoints in {path} are replaced faster than they can be read: try again later, or "
        f"train with a larger config.train.checkpoint_every."
    )


def load_model(
    workdir: str | os.PathLike[str], which: Literal["best", "latest"] = "best"
) -> tuple[Config, nn.Module, dict[str, Any], int]:
    """Config, network, variables and step of a trained network; see ``load_trained``."""
    trained = load_trained(workdir, which)
    return trained.config, trained.model, trained.variables, trained.step


def _load(path: Path, which: Literal["best", "latest"]) -> Trained | None:
    """The network of a work dir, or None if there is no checkpoint; makes one attempt."""
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
    """The inode, size and time of every entry below a folder: it differs after any change."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(parent, name)
            with contextlib.suppress(OSError):
                status = os.lstat(path)
                found[path] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found
