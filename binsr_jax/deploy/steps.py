"""Several networks in a row, as one engine: nothing is rounded or written in between."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from binsr_jax.deploy.engine import Engine
from binsr_jax.deploy.model_file import load_model_file
from binsr_jax.deploy.upscaler import TileEngine, Upscaler
from binsr_jax.errors import UserError
from binsr_jax.ops.image import grey_of_rgb
from binsr_jax.pretrained import file_of


@dataclass(frozen=True)
class Step:
    """A network, and how much of what it changes is taken.

    Attributes:
        engine: runs the network.
        strength: 0 leaves the image as it is, 1 takes the network's output. Of a network that
            enlarges it is 1.
    """

    engine: TileEngine
    strength: float = 1.0


class Steps:
    """Runs networks one after the other on a tile; a ``TileEngine`` itself.

    Its radius is the sum of theirs: that far away lies what an output pixel depends on. Between two
    steps the image is clipped to 0..1. A network for grey images changes the luma of colour ones.

    Args:
        steps: at least one; only the last may enlarge.

    Raises:
        UserError: a network that enlarges is followed by another.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        if any(step.engine.scale > 1 for step in steps[:-1]):
            raise UserError("A step that enlarges must be the last one.")
        self._steps = tuple(steps)
        engines = [step.engine for step in steps]
        self.scale = engines[-1].scale
        self.channels = max(engine.channels for engine in engines)
        self.radius = sum(engine.radius for engine in engines)
        near = any(engine.overlap is not None for engine in engines)
        self.overlap = sum(_overlap(engine) for engine in engines) if near else None
        self.stride = math.lcm(*(engine.stride for engine in engines))
        self.global_pooling = any(engine.global_pooling for engine in engines)
        # Beside a step's own memory there is the image that it is blended with.
        self.bytes_per_pixel = max(e.bytes_per_pixel for e in engines) + 4 * self.channels

    def pooled_of(self, image: np.ndarray) -> Any:
        """The means that each step takes over an image, as the steps before it leave it."""
        pooled = []
        for step in self._steps:
            means = None
            if step.engine.global_pooling:
                means = step.engine.pooled_of(_input(step.engine, image))
            pooled.append(means)
            if step is not self._steps[-1]:
                image = np.clip(_output(step, image, means), 0, 1)
        return pooled

    def run(self, image: np.ndarray, pooled: Any = None) -> np.ndarray:
        """Restores an image: float32 ``[h, w, channels]`` to ``[scale h, scale w, channels]``."""
        for i, step in enumerate(self._steps):
            x = np.clip(image, 0, 1) if i else image
            image = _output(step, x, pooled[i] if pooled is not None else None)
        return image


def _overlap(engine: TileEngine) -> int:
    return engine.radius if engine.overlap is None else engine.overlap


def _input(engine: TileEngine, image: np.ndarray) -> np.ndarray:
    """The image with the channels of the network: luma of colour."""
    return grey_of_rgb(image) if engine.channels < image.shape[-1] else image


def _output(step: Step, image: np.ndarray, pooled: Any) -> np.ndarray:
    """What a step makes of an image."""
    x = _input(step.engine, image)
    y = step.engine.run(x, pooled)
    if step.engine.scale > 1:
        if y.shape[-1] < image.shape[-1]:
            raise UserError(
                "A step enlarges grey images only, but another one is for colour: take a model "
                "for colour."
            )
        return y
    change = y - x  # of luma alone: added to R, G and B alike it changes no colour difference
    if step.strength == 1 and y.shape == image.shape:
        return y
    return image + np.float32(step.strength) * change


def load_steps(
    models: Sequence[str | Path], *, strength: float = 1.0, memory: int | None = None
) -> Upscaler:
    """Loads networks that are to work one after the other.

    Args:
        models: model files, or names of packaged networks.
        strength: of those that do not enlarge: see ``Step``.
        memory: see ``upscaler.load``.

    Raises:
        UserError: a file is missing or broken, or a network that enlarges is not the last one.
    """
    steps = []
    for model in models:
        engine = Engine(load_model_file(file_of(model)))
        steps.append(Step(engine, strength if engine.scale == 1 else 1.0))
    return Upscaler(Steps(steps), memory)
