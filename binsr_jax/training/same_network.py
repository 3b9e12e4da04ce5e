"""Whether a checkpoint can be continued with a config: the fields that define a network."""

from pathlib import Path
from typing import Any

from binsr_jax.config import Config, flat_fields
from binsr_jax.errors import UserError

# The fields that define a network. A run with another value cannot continue its checkpoint.
_IDENTITY = ("task", "scale", "model.")
# The fields that decide which parts a state has: whether they are set, and their values.
_SWITCHES = ("train.ema", "train.gan_weight")
_CHOICES = ("train.optimizer",)


def differences(stored: Config, asked: Config) -> dict[str, tuple[Any, Any]]:
    """The fields in which two configs differ: name -> (stored value, requested value)."""
    old, new = flat_fields(stored), flat_fields(asked)
    return {
        name: (old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    }


def check_same_network(stored: Config, asked: Config, workdir: Path) -> None:
    """Refuses to continue a checkpoint with the config of another network.

    Raises:
        UserError: The networks differ; the message names the fields with both values.
    """
    fields = {
        name: values
        for name, values in differences(stored, asked).items()
        if name.startswith((*_IDENTITY, *_CHOICES))
        or (name in _SWITCHES and bool(values[0]) != bool(values[1]))
        or (name in _of_discriminator(asked) and stored.train.gan_weight)
    }
    if fields:
        listed = ", ".join(
            f"{name} {old} in the checkpoint, {new} requested"
            for name, (old, new) in fields.items()
        )
        raise UserError(
            f"The checkpoint in {workdir} belongs to another network ({listed}): give these fields "
            "the checkpoint's values, or choose another --workdir."
        )


def _of_discriminator(config: Config) -> tuple[str, ...]:
    """The fields that decide the shapes of a discriminator's parameters."""
    if not config.train.gan_weight:
        return ()
    sides = ("data.patch",) if config.train.discriminator == "vgg" else ()
    return ("train.discriminator", "train.discriminator_features", *sides)
