"""Facts about the packaged networks, read from their files."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from binsr_jax.deploy.model_file import load_model_file
from binsr_jax.deploy.upscaler import load
from binsr_jax.pretrained import NETWORKS, Packaged

# The results of benchmarks/packaged.py: the machine, and seconds per megapixel by name.
TIMES = Path(__file__).parents[1] / "pretrained" / "times.json"


@dataclass(frozen=True)
class Card:
    """A network that comes with the package.

    Attributes:
        name: The argument of ``binsr_jax.load`` and ``--model``.
        task: What it restores, such as "SR x2".
        scale: How many times larger its output is.
        kind: one of ``pretrained.KINDS`` if a task has several networks, else "".
        about: Its purpose in a few words.
        file: Its model file.
        size: The size of the file in bytes.
        scores: By set, level and score, such as ``{"Set5/psnr": 37.32}``.
        terms: The terms of the weights, which follow from the training images; "" if the file has
            none.
        seconds: The time for a megapixel of the input on the machine of ``pretrained/times.json``,
            or None.
    """

    name: str
    task: str
    scale: int
    kind: str
    about: str
    file: Path
    size: int
    scores: Mapping[str, float]
    terms: str
    seconds: float | None


def cards() -> list[Card]:
    """The networks in this version, in the order of ``pretrained.NETWORKS``."""
    seconds = times()[1]
    return [card_of(network, seconds) for network in NETWORKS.values() if network.there]


def times() -> tuple[str, Mapping[str, float]]:
    """The machine of the measurement, and seconds per megapixel by name."""
    if not TIMES.is_file():
        return "", {}
    measured = json.loads(TIMES.read_text(encoding="utf-8"))
    return measured["machine"], measured["seconds_per_megapixel"]


def seconds_per_megapixel(name: str, side: int = 700) -> float:
    """The seconds that a network takes for a million input pixels here: the best of three.

    Args:
        name: The name of a network, or a model file.
        side: The side of the square test picture.
    """
    upscaler = load(name)
    y, x = np.mgrid[:side, :side] / 9.0
    waves = [100 * np.sin(y + c) * np.cos(x * (1 + c / 4)) + 128 for c in range(3)]
    image = np.stack(waves, -1).astype(np.uint8)
    upscaler.upscale(image)  # compiles
    took = []
    for _ in range(3):
        started = time.perf_counter()
        upscaler.upscale(image)
        took.append(time.perf_counter() - started)
    return min(took) / (side * side / 1e6)


def card_of(network: Packaged, seconds: Mapping[str, float]) -> Card:
    """What a network's file says of it, and its seconds a megapixel of those by name."""
    model = load_model_file(network.file)
    return Card(
        name=network.name,
        task=model.task.name,
        scale=network.scale,
        kind=network.kind,
        about=network.about,
        file=network.file,
        size=network.file.stat().st_size,
        scores=dict(model.provenance.get("scores", {})),
        terms=model.provenance.get("terms", ""),
        seconds=seconds.get(network.name),
    )
