"""The networks that come with the package. This is the one place that names them.

What each was trained on, its scores and the terms of its training images are in its file; see
``binsr models`` and ``docs/models.md``.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from binsr_jax.errors import UserError

KINDS = ("clean", "photo", "commercial", "fast", "sharp", "drawing")
# Suffixes in the names of outputs that have the size of their images.
SUFFIXES = {"denoise": "_denoised", "dejpeg": "_dejpeg"}


@dataclass(frozen=True)
class Packaged:
    """A network that comes with the package, or that a later version may add.

    Attributes:
        name: The argument of ``binsr_jax.load`` and ``--model``.
        task: The subcommand that uses it: upscale, denoise or dejpeg.
        scale: How many times larger its output is.
        kind: One of ``KINDS`` if a task and scale have several networks, else "".
        file: Its model file.
        about: Its purpose, as the end of "a network for ...".
    """

    name: str
    task: str
    scale: int
    kind: str
    file: Path
    about: str

    @property
    def there(self) -> bool:
        """Whether this version has the file."""
        return self.file.is_file()


def _packaged(name: str, task: str, scale: int, kind: str, file: str, about: str) -> Packaged:
    return Packaged(name, task, scale, kind, Path(__file__).with_name(f"{file}.binsr"), about)


NETWORKS: dict[str, Packaged] = {
    network.name: network
    for network in (
        _packaged("x2", "upscale", 2, "clean", "sr_x2", "clean pictures, twice as large"),
        _packaged("x3", "upscale", 3, "clean", "sr_x3", "clean pictures, 3 times as large"),
        _packaged("x4", "upscale", 4, "clean", "sr_x4", "clean pictures, 4 times as large"),
        _packaged("x2-fast", "upscale", 2, "fast", "sr_x2_fast", "clean pictures, fast"),
        _packaged("x2-photo", "upscale", 2, "photo", "photo_x2", "photographs, twice as large"),
        # Trained only on pictures whose terms allow commercial use.
        _packaged(
            "x2-photo-commercial",
            "upscale",
            2,
            "commercial",
            "photo_x2_commercial",
            "photographs, for commercial use",
        ),
        _packaged("x4-photo", "upscale", 4, "photo", "photo_x4", "photographs, 4 times as large"),
        # These four imitate a float network that was trained for sharpness: see configs/distil.py.
        _packaged("x2-sharp", "upscale", 2, "sharp", "sharp_x2", "sharp photographs"),
        _packaged("sharp", "upscale", 4, "sharp", "sharp_x4", "sharp photographs"),
        _packaged("x2-drawing", "upscale", 2, "drawing", "drawing_x2", "drawings"),
        _packaged("drawing", "upscale", 4, "drawing", "drawing_x4", "drawings"),
        _packaged("denoise", "denoise", 1, "", "denoise", "noise"),
        _packaged("dejpeg", "dejpeg", 1, "", "dejpeg", "JPEG artifacts"),
    )
}


def find(task: str, scale: int = 1, kind: str = "") -> Packaged:
    """The network for a task, a scale and a kind; with scale 0, the first that is there.

    Raises:
        UserError: There is none, or this version does not have its file.
    """
    found = [
        network
        for network in NETWORKS.values()
        if (network.task, network.kind) == (task, kind) and scale in (0, network.scale)
    ]
    if found:
        return checked(next((network for network in found if network.there), found[0]))
    raise UserError(
        f"There is no packaged network of the kind {kind} that enlarges {scale} times: choose "
        "another --model or -s (binsr models lists them), or give a model file with -m."
    )


def checked(network: Packaged) -> Packaged:
    """The network, if this version has its file.

    Raises:
        UserError: The file is missing.
    """
    if network.there:
        return network
    raise UserError(
        f"The network {network.name} (for {network.about}) is not in this version of binsr-jax: "
        "give a model file with -m."
    )


def file_of(model: str | Path) -> Path:
    """The model file that a name of ``NETWORKS`` or a path names.

    Raises:
        UserError: This version does not have the network's file.
    """
    if model in NETWORKS:
        return checked(NETWORKS[str(model)]).file
    path = Path(model)
    is_a_name = isinstance(model, str) and path.name == model and not path.suffix
    if is_a_name and not os.path.lexists(path):
        raise UserError(
            f"There is no model file and no packaged network {model!r}: binsr pack makes a model "
            f"file, and binsr models lists the networks: {', '.join(NETWORKS)}."
        )
    return path
