"""Pictures and tasks for the tests of benchmark sets."""

from pathlib import Path

import numpy as np
from PIL import Image

from binsr_jax import config as config_lib
from binsr_jax.tasks import Task, task_of


def sr_task(scale: int = 2) -> Task:
    config = config_lib.default()
    config.scale = scale
    return task_of(config)


def colour_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colour with some noise, so that bicubic neither fails nor is perfect."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([np.sin(y / 5), np.cos(x / 7), np.sin((x + y) / 9)], -1) * 90 + 128
    return np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def config_of(task: str, *levels: int) -> config_lib.Config:
    config = config_lib.default()
    config.task, config.scale, config.eval.levels = task, 1, levels
    return config
