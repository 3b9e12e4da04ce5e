"""Checks of a training config before anything expensive starts."""

import itertools
import math

from binsr_jax.config import FIELDS, Config, flat_fields
from binsr_jax.errors import UserError
from binsr_jax.fields import check
from binsr_jax.tasks import task_of
from binsr_jax.training.state import warmup_steps


def check_settings(config: Config) -> None:
    """Checks each field by its own rule, and those of ``config.train`` that depend on each other.

    Raises:
        UserError: Names the field, its value and the values that it may have.
    """
    for name, value in flat_fields(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"config.{name} is {value}, but must be a finite number.")
    check(FIELDS, config)
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
