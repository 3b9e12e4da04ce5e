"""Several networks in sequence as one engine, without rounding or files between them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from binsr_jax.deploy.loading import load_engine
from binsr_jax.deploy.upscaler import TileEngine, Upscaler
from binsr_jax.errors import UserError
from binsr_jax.ops.image import grey_of_rgb


@dataclass(frozen=True)
class Step:
    """A network and the strength of its change.

    Attributes:
        engine: Runs the network.
        strength: 0 leaves the image unchanged, 1 takes the network's output. It is 1 for a network
            that enlarges.
    """

    engine: TileEngine
    strength: float = 1.0


class Steps:
    """Runs networks one after the other on a tile; implements ``TileEngine``.

    Its radius is the sum of theirs. Between two steps the image is clipped to 0..1. A network for
    grey images changes the luma of colour images.

    Args:
        steps: At least one; only the last may enlarge.

    Raises:
        UserError: Another network follows one that enlarges.
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
        # A step also needs memory for the image with which its output is blended.
        self.bytes_per_pixel = max(e.bytes_per_pixel for e in engines) + 4 * self.channels

    def pooled_of(self, image: np.ndarray) -> Any:
        """The means of each step over an image, computed after the previous steps."""
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
    """The image with the network's channels: a grey network gets the luma of a colour image."""
    return grey_of_rgb(image) if engine.channels < image.shape[-1] else image


def _output(step: Step, image: np.ndarray, pooled: Any) -> np.ndarray:
    """The output of a step for an image."""
    x = _input(step.engine, image)
    y = step.engine.run(x, pooled)
    if step.engine.scale > 1:
        if y.shape[-1] < image.shape[-1]:
            raise UserError(
                "A step enlarges grey images only, but another one is for colour: take a model "
                "for colour."
            )
        return y
    change = y - x  # of luma: added equally to R, G and B, it leaves colour differences unchanged
    if step.strength == 1 and y.shape == image.shape:
        return y
    return image + np.float32(step.strength) * change


def load_steps(
    models: Sequence[str | Path], *, strength: float = 1.0, memory: int | None = None
) -> Upscaler:
    """Loads networks that run one after the other.

    Args:
        models: Model files, or names of packaged networks.
        strength: The strength of those that do not enlarge; see ``Step``.
        memory: See ``upscaler.load``.

    Raises:
        UserError: A file is missing or broken, or a network that enlarges is not the last one.
    """
    steps = []
    for model in models:
        engine = load_engine(model)
        steps.append(Step(engine, strength if engine.scale == 1 else 1.0))
    return Upscaler(Steps(steps), memory)
