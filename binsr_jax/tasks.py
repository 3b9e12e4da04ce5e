"""What a network is asked to restore, and by which protocol its results are scored."""

from collections.abc import Callable
from dataclasses import dataclass

from binsr_jax.config import Config
from binsr_jax.errors import UserError


@dataclass(frozen=True)
class Task:
    """A restoration task and the protocol that its papers score it by.

    Attributes:
        name: What the tables call it, such as "SR x2".
        scale: How many times larger the output is than the input.
        channels: Image channels, 3 for RGB.
        border: Pixels left out on each side before an image is scored.
        luma: Whether scores are taken on the Y channel (of MATLAB's rgb2ycbcr) or on all of RGB.
        sets: Benchmark sets that its papers report, in their order.
    """

    name: str
    scale: int
    channels: int
    border: int
    luma: bool
    sets: tuple[str, ...]

    @property
    def protocol(self) -> str:
        """The scoring rule in words, printed beside every number: "Y, border 2"."""
        return f"{'Y' if self.luma else 'RGB'}, border {self.border}"


_SCALES = (2, 3, 4)


def _super_resolution(config: Config) -> Task:
    if config.scale not in _SCALES:
        raise UserError(
            f"config.scale is {config.scale}, but super-resolution works at scale 2, 3 or 4."
        )
    return Task(
        name=f"SR x{config.scale}",
        scale=config.scale,
        channels=3,
        border=config.scale,
        luma=True,
        sets=("Set5", "Set14", "B100", "Urban100", "Manga109"),
    )


TASKS: dict[str, Callable[[Config], Task]] = {"sr": _super_resolution}


def task_of(config: Config) -> Task:
    """The task that a config names.

    Raises:
        UserError: `config.task` is not a key of `TASKS`, or the task has no such `config.scale`.
    """
    if config.task not in TASKS:
        raise UserError(f"config.task is {config.task!r}, but must be one of: {', '.join(TASKS)}.")
    return TASKS[config.task](config)
