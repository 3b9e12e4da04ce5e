"""Checks of a training config before anything expensive starts."""

import itertools
import math
from collections.abc import Callable, Collection
from typing import Any

from binsr_jax.config import Config, flat_fields
from binsr_jax.errors import UserError
from binsr_jax.tasks import task_of
from binsr_jax.training.losses import LOSSES
from binsr_jax.training.state import SCHEDULES, warmup_steps
from binsr_jax.training.step import COMPUTE, PARALLEL

Rule = tuple[Callable[[Any], bool], str]

_AT_LEAST_0: Rule = (lambda value: value >= 0, "must be at least 0")
_AT_LEAST_1: Rule = (lambda value: value >= 1, "must be at least 1")
_ABOVE_0: Rule = (lambda value: value > 0, "must be above 0")
_BELOW_1: Rule = (lambda value: 0 <= value < 1, "must be at least 0 and below 1")

_RULES: dict[str, Rule] = {
    "devices": _AT_LEAST_0,
    "train.steps": _AT_LEAST_1,
    "train.batch": _AT_LEAST_1,
    "train.accumulate": _AT_LEAST_1,
    "train.learning_rate": _ABOVE_0,
    "train.warmup": _AT_LEAST_0,
    "train.decay": _ABOVE_0,
    "train.final_rate": _AT_LEAST_0,
    "train.beta1": _BELOW_1,
    "train.beta2": _BELOW_1,
    "train.epsilon": _ABOVE_0,
    "train.loss_epsilon": _ABOVE_0,
    "train.luma_weight": _AT_LEAST_0,
    "train.ssim_weight": _AT_LEAST_0,
    "train.teacher_weight": _AT_LEAST_0,
    "train.clip_norm": _AT_LEAST_0,
    "train.ema": _BELOW_1,
    "train.log_every": _AT_LEAST_1,
    "train.checkpoint_every": _AT_LEAST_1,
    "train.keep": _AT_LEAST_1,
    "eval.every": _AT_LEAST_1,
}

_CHOICES: dict[str, Collection[str]] = {
    "parallel": PARALLEL,
    "train.compute": COMPUTE,
    "train.loss": LOSSES,
    "train.schedule": SCHEDULES,
}


def check_settings(config: Config) -> None:
    """Checks ``config.train`` and how the run is shared, logged and validated.

    Raises:
        UserError: Names the field, its value and the values that it may have.
    """
    for name, choices in _CHOICES.items():
        value = _field(config, name)
        if value not in choices:
            raise UserError(
                f"config.{name} is {value!r}, but must be one of: {', '.join(choices)}."
            )
    for name, value in flat_fields(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"config.{name} is {value}, but must be a finite number.")
    for name, (holds, requirement) in _RULES.items():
        value = _field(config, name)
        if not holds(value):
            raise UserError(f"config.{name} is {value}, but {requirement}.")
    train = config.train
    if train.luma_weight and task_of(config).channels != 3:
        raise UserError(
            f"config.train.luma_weight is {train.luma_weight}, but the images of the task "
            f"{config.task} have no colour: leave it at 0."
        )
    if train.schedule == "multistep":
        warmup = warmup_steps(train)
        steps = (warmup, *train.milestones)
        whole = all(type(step) is int for step in steps)
        if not whole or any(late <= early for early, late in itertools.pairwise(steps)):
            raise UserError(
                f"config.train.milestones is {tuple(train.milestones)}, but must be growing steps "
                f"after the warm-up, which ends at step {warmup}."
            )


def _field(config: Config, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config
