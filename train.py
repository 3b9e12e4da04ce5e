"""Trains a network: ``python train.py --config configs/quickstart.py --workdir runs/quickstart``.

Start the same command again to go on after a stop. Any field of the config can be set on the way,
as in ``--config.train.steps=5000``; ``binsr_jax/config.py`` lists them.
"""

from collections.abc import Sequence

import jax
from absl import flags
from ml_collections import config_flags

from binsr_jax import launcher, models
from binsr_jax.evaluation.benchmark import network_validator
from binsr_jax.tasks import task_of
from binsr_jax.training.loop import train

CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe: configs/NAME.py[:variant].")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of checkpoints and logs; training goes on from what it holds."
)
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Train together with the other hosts (TPU pod slice, Slurm, ...)."
)
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: Sequence[str]) -> int:
    del argv
    if DISTRIBUTED.value:
        jax.distributed.initialize()
    config, workdir = CONFIG.value, str(WORKDIR.value)
    model = models.build(config.model, config.scale, task_of(config).channels)
    return train(config, workdir, network_validator(config, model))


if __name__ == "__main__":
    launcher.run(main)
