"""Train a network by a recipe.

    binsr train --config quickstart --workdir runs/quickstart
    binsr train --config my_recipe.py:scale=4 --workdir runs/mine --config.train.steps=5000

Run the same command again to continue after a stop. Every field of the config can be set on the
command line, as in the second example. The list below explains each field.
"""

from collections.abc import Sequence

import jax
from absl import flags
from ml_collections import config_flags

from binsr_jax import models
from binsr_jax.config import Config
from binsr_jax.deploy.unpack import read_network
from binsr_jax.evaluation.benchmark import network_validator
from binsr_jax.training.loop import train


def define_flags(argv: Sequence[str]) -> flags.FlagValues:
    """The flags of ``binsr train``; ``argv`` decides which fields of the config are set."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config",
        None,
        "The recipe: a packaged one's name, or a file; and :VARIANT.",
        flag_values=values,
        sys_argv=list(argv),
    )
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder of checkpoints and logs; training continues from its checkpoints.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "distributed",
        False,
        "Train together with the other hosts (TPU pod slice, Slurm, ...).",
        flag_values=values,
    )
    flags.mark_flags_as_required(["config", "workdir"], flag_values=values)
    return values


def run(values: flags.FlagValues) -> int:
    """Runs ``binsr train``; the exit status is 128 + n if signal n stopped it."""
    if values.distributed:
        jax.distributed.initialize()
    config: Config = values.config
    model = models.build(config)
    return train(config, values.workdir, network_validator(config, model), read_network)
