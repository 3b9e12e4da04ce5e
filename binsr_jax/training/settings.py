"""Checks of a training config before anything expensive starts."""

import itertools
import math

from binsr_jax.config import FIELDS, Config, flat_fields
from binsr_jax.errors import UserError
from binsr_jax.fields import check
from binsr_jax.models.discriminators import fits
from binsr_jax.tasks import ENLARGING, task_of
from binsr_jax.training.perceptual import perceptual_layers
from binsr_jax.training.state import warmup_steps

_LEAST_SIDE = 16  # least patch side, since VGG19 halves images four times


def check_settings(config: Config) -> None:
    """Checks each field by its own rule, and the rules between fields of ``config.train``.

    Raises:
        UserError: A field is invalid; the message names it, its value and the allowed values.
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
    if config.data.taught:
        _check_taught(config)
    if train.perceptual_weight or train.gan_weight:
        _check_terms(config)
    if train.schedule == "multistep":
        warmup = warmup_steps(train)
        steps = (warmup, *train.milestones)
        whole = all(type(step) is int for step in steps)
        if not whole or any(late <= early for early, late in itertools.pairwise(steps)):
            raise UserError(
                f"config.train.milestones is {tuple(train.milestones)}, but must be growing steps "
                f"after the warm-up, which ends at step {warmup}."
            )


def _check_taught(config: Config) -> None:
    """Checks what pairs of a teacher need."""
    window, patch = config.data.window, config.data.patch
    if config.task not in ENLARGING:
        raise UserError(
            f"config.data.taught is {config.data.taught}, but the task {config.task} does not "
            "enlarge: leave it at 0."
        )
    if window < patch or window % config.scale:
        raise UserError(
            f"config.data.window is {window}, but must be a multiple of the scale, "
            f"{config.scale}, and at least config.data.patch, {patch}."
        )


def _check_terms(config: Config) -> None:
    """Checks the requirements of perceptual and adversarial terms of the loss."""
    train, side = config.train, config.data.patch
    if task_of(config).channels != 3:
        raise UserError(
            f"The images of the task {config.task} have no colour, which perceptual and "
            "adversarial losses need: leave config.train.perceptual_weight and gan_weight at 0."
        )
    if train.perceptual_weight:
        perceptual_layers(train)
        if side < _LEAST_SIDE:
            raise UserError(f"config.data.patch is {side}, but VGG19 needs {_LEAST_SIDE} or more.")
    if not train.gan_weight:
        return
    if not fits(train.discriminator, side):
        sides = {"vgg": "8, 16, 32 and so on, such as 128", "unet": "multiples of 8"}
        raise UserError(
            f"config.data.patch is {side}, but the discriminator {train.discriminator} takes sides "
            f"of {sides[train.discriminator]}."
        )
    for field, value, only in (
        ("parallel", config.parallel, "mesh"),
        ("train.accumulate", train.accumulate, 1),
    ):
        if value != only:
            raise UserError(
                f"config.{field} is {value}, but a discriminator sees a batch as a whole: set it "
                f"to {only}."
            )
