"""The networks that the page and the service offer, and the choice for a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from binsr_jax.deploy.choice import by_default
from binsr_jax.deploy.model_file import load_model_file
from binsr_jax.errors import UserError
from binsr_jax.pretrained import KINDS, NETWORKS, SUFFIXES, Packaged, find

# The tasks, and the words that name them on the page.
TASKS = {
    "upscale": "Enlarge",
    "denoise": "Remove noise",
    "dejpeg": "Remove JPEG artifacts",
}


@dataclass(frozen=True)
class Wish:
    """What a visitor has chosen; None leaves the choice to ``choose``."""

    task: str | None = None
    scale: int | None = None
    model: str | None = None


def offered(files: Sequence[str] = ()) -> dict[str, Packaged]:
    """The networks of this version and those of model files, by their names.

    Args:
        files: More model files; such a network has the name of its file.

    Raises:
        UserError: A file is missing or broken, or two networks have the same name.
    """
    networks = {name: network for name, network in NETWORKS.items() if network.there}
    for file in map(Path, files):
        network = _own(file)
        if network.name in networks or network.name in KINDS:
            raise UserError(
                f"There is another network {network.name!r}: give the file {file} another name."
            )
        networks[network.name] = network
    return networks


def choose(networks: dict[str, Packaged], wish: Wish, file: Path) -> Packaged:
    """The network for a picture.

    By default, the task and the scale are those of the named model, or else ``upscale`` and 2.
    Without a model, the choice is that of the command line.

    Args:
        networks: The networks of ``offered``.
        wish: The visitor's choices.
        file: The picture.

    Raises:
        UserError: There is no such network, or it is for another task or scale.
    """
    if wish.model is not None and wish.model not in KINDS:
        network = networks.get(wish.model)
        if network is None:
            raise UserError(f"There is no network {wish.model!r}: choose {', '.join(networks)}.")
        if wish.task not in (None, network.task):
            raise UserError(f"The network {network.name} is for {network.task}, not {wish.task}.")
        if wish.scale not in (None, network.scale):
            raise UserError(
                f"The network {network.name} enlarges {network.scale} times, not {wish.scale}."
            )
        return network
    task = wish.task or "upscale"
    if task not in TASKS:
        raise UserError(f"There is no task {task!r}: choose {', '.join(TASKS)}.")
    if task != "upscale":
        if wish.scale not in (None, 1):
            raise UserError(f"The task {task} keeps the size: leave out the scale.")
        if wish.model is not None:
            raise UserError(f"The task {task} has no model {wish.model!r}: leave it out.")
        return _offered(networks, find(task))
    scale = wish.scale or 2
    if wish.model is not None:
        return _offered(networks, find(task, scale, wish.model))
    (name,) = by_default([file], scale)[0]
    return _offered(networks, NETWORKS[name])


def suffix_of(network: Packaged) -> str:
    """The suffix in the names of a network's results."""
    return f"_x{network.scale}" if network.scale > 1 else SUFFIXES[network.task]


def _offered(networks: dict[str, Packaged], network: Packaged) -> Packaged:
    if network.name not in networks:
        raise UserError(f"The network {network.name} is not offered: choose {', '.join(networks)}.")
    return network


def _own(file: Path) -> Packaged:
    """The network of a model file, with the task that its description names."""
    model = load_model_file(file)
    task = "upscale"
    if model.task.scale == 1:
        task = "dejpeg" if "JPEG" in model.task.name else "denoise"
    return Packaged(file.stem, task, model.task.scale, "", file, model.task.name)
