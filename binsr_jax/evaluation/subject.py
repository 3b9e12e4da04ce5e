"""What is scored: the network of a work dir, one of a model file, or bicubic enlargement."""

from dataclasses import dataclass
from typing import Any, Literal

from binsr_jax.config import Config, default
from binsr_jax.deploy.engine import Arithmetic, Engine
from binsr_jax.deploy.model_file import load_model_file
from binsr_jax.deploy.upscaler import Upscaler
from binsr_jax.errors import UserError
from binsr_jax.evaluation.benchmark import Restore, restorer
from binsr_jax.training.checkpoint import load_model


@dataclass(frozen=True)
class Subject:
    """What is scored.

    Attributes:
      config: says the task and the benchmark sets.
      restore: what restores an image; None is bicubic enlargement.
      about: what to write beside every score.
    """

    config: Config
    restore: Restore | None
    about: dict[str, Any]


def trained(workdir: str, which: Literal["best", "latest"], scale: int | None = None) -> Subject:
    """The network of a work dir, as it was trained.

    Raises:
      UserError: there is no checkpoint, it is damaged, or it is of another scale.
    """
    config, model, variables, step = load_model(workdir, which)
    _check_scale(config, scale, workdir)
    return Subject(config, restorer(model, variables), {"method": config.model.name, "step": step})


def packed(file: str, arithmetic: Arithmetic, scale: int | None = None) -> Subject:
    """The network of a model file, as ``binsr upscale`` runs it, or in floats.

    Raises:
      UserError: there is no such file, it is damaged, or it is of another scale.
    """
    model = load_model_file(file)
    _check_scale(model.config, scale, file)
    about = {"method": model.config.model.name, "engine": arithmetic}
    return Subject(model.config, Upscaler(Engine(model, arithmetic)).upscale, about)


def bicubic(scale: int) -> Subject:
    """Bicubic enlargement."""
    config = default()
    config.scale = scale
    return Subject(config, None, {"method": "bicubic"})


def _check_scale(config: Config, scale: int | None, where: str) -> None:
    if scale not in (None, config.scale):
        raise UserError(
            f"--scale is {scale}, but the network in {where} was trained for scale "
            f"{config.scale}; leave --scale out."
        )
