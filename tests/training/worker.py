"""One of several processes that train together on this machine: see test_processes.py."""

import json
import sys

import jax
import numpy as np

from binsr_jax.config import config_from_json
from binsr_jax.training.loop import train
from binsr_jax.training.scores import Validation


def _validate(variables, step):
    picture = np.zeros((4, 6, 3), np.uint8)
    return Validation({"samples/psnr": float(step)}, {"samples/one": picture}, {"samples": "f00d"})


if __name__ == "__main__":
    address, count, index, devices, config, workdir = sys.argv[1:]
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", int(devices))
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, int(count), int(index))
    sys.exit(train(config_from_json(json.loads(config)), workdir, _validate))
