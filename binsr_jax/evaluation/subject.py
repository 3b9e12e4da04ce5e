"""The subject of an evaluation: a network of a work dir, one of a model file, or the input."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from binsr_jax.config import Config, copy_of, default
from binsr_jax.data.degradations import DEGRADATIONS, as_image
from binsr_jax.deploy.loading import Arithmetic, engine_of
from binsr_jax.deploy.model_file import fingerprint, load_model_file
from binsr_jax.deploy.upscaler import Upscaler
from binsr_jax.errors import UserError
from binsr_jax.models.restoring import Restore, restorer
from binsr_jax.tasks import ENLARGING, task_of
from binsr_jax.training import transfer
from binsr_jax.training.trainable import Network
from binsr_jax.training.trained import load_model


@dataclass(frozen=True)
class Subject:
    """The subject of an evaluation.

    Attributes:
        config: Names the task and the benchmark sets.
        restore: Restores an image; None scores the input itself.
        about: Fields that are written beside every score.
    """

    config: Config
    restore: Restore | None
    about: dict[str, Any]


def trained(workdir: str, which: Literal["best", "latest"], scale: int | None = None) -> Subject:
    """The network of a work dir, as it was trained.

    Raises:
        UserError: There is no checkpoint, it is damaged, or it has another scale.
    """
    config, model, variables, step = load_model(workdir, which)
    _check_scale(config, scale, workdir)
    restore = restorer(model, variables, task_of(config).channels)
    about = {"method": config.model.name, "step": step}
    about["network"] = transfer.fingerprint(Network(config, variables, {}))
    return Subject(config, restore, about)


def packed(file: str, arithmetic: Arithmetic, scale: int | None = None) -> Subject:
    """The network of a model file, as ``binsr upscale`` runs it, or in floats.

    Raises:
        UserError: There is no such file, it is damaged, or it has another scale.
    """
    model = load_model_file(file)
    _check_scale(model.config, scale, file)
    about = {"method": model.config.model.name, "engine": arithmetic}
    about["network"] = fingerprint(model)
    upscaler = Upscaler(engine_of(model, arithmetic))

    def restore(lq: np.ndarray) -> np.ndarray:
        return as_image(upscaler.upscale(lq), 1)

    return Subject(model.config, restore, about)


def scored_as(subject: Subject, task: str) -> Subject:
    """The same network, scored by the protocol of another task.

    A colour network gets a grey image as three equal channels, and the luma of its output is
    scored.

    Args:
        subject: A network.
        task: A key of ``tasks.TASKS``.

    Raises:
        UserError: The task has another scale, or it has colours and the network is grey.
    """
    own, config = task_of(subject.config), copy_of(subject.config)
    config.task, config.eval.levels = task, ()
    if (task in ENLARGING) != (own.scale > 1) or task_of(config).channels > own.channels:
        raise UserError(
            f"--task is {task}, but the network is for {own.name}, which its protocol cannot score."
        )
    return replace(subject, config=config)


def degraded(task: str, scale: int | None = None) -> Subject:
    """The input itself; for super-resolution, enlarged by bicubic interpolation.

    Args:
        task: A key of ``tasks.TASKS``.
        scale: The upscaling factor of super-resolution; 2 by default.

    Raises:
        UserError: The task has no such scale.
    """
    config = default()
    config.task = task
    config.scale = scale or (2 if task in ENLARGING else 1)
    return Subject(config, None, {"method": DEGRADATIONS[task_of(config).degradation].title})


def _check_scale(config: Config, scale: int | None, where: str) -> None:
    if scale not in (None, config.scale):
        raise UserError(
            f"--scale is {scale}, but the network in {where} was trained for scale "
            f"{config.scale}; leave --scale out."
        )
