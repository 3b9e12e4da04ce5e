"""Checks of a training config before anything expensive starts."""

import itertools

from binsr_jax.config import FIELDS, Config
from binsr_jax.errors import UserError
from binsr_jax.fields import check
from binsr_jax.tasks import task_of


def check_settings(config: Config) -> None:
    """Checks each field by its own rule, and those of ``config.train`` that depend on each other.

    Raises:
        UserError: Names the field, its value and the values that it may have.
    """
    check(FIELDS, config)
    train = config.train
    if train.luma_weight and task_of(config).channels != 3:
        raise UserError(
            f"config.train.luma_weight is {train.luma_weight}, but the images of the task "
            f"{config.task} have no colour: leave it at 0."
        )
    if train.warmup >= train.steps:
        raise UserError(
            f"config.train.warmup is {train.warmup}, but must be below config.train.steps, "
            f"{train.steps}."
        )
    if train.schedule == "multistep":
        steps = (train.warmup, *train.milestones)
        whole = all(type(step) is int for step in steps)
        if not whole or any(late <= early for early, late in itertools.pairwise(steps)):
            raise UserError(
                f"config.train.milestones is {tuple(train.milestones)}, but must be growing steps "
                f"after the warm-up, which ends at step {train.warmup}."
            )
