"""Restoration tasks, and the protocols by which their results are scored."""

from collections.abc import Callable
from dataclasses import dataclass

from binsr_jax.config import Config
from binsr_jax.errors import UserError


def scored_set(name: str, level: int) -> str:
    """The name of a benchmark set at a level of degradation: "CBSD68-15"; level 0 means none."""
    return f"{name}-{level}" if level else name


@dataclass(frozen=True)
class Task:
    """A restoration task and the scoring protocol of its papers.

    Attributes:
        name: The name in tables, such as "SR x2".
        scale: How many times larger the output is than the input.
        channels: Image channels, 3 for RGB, 1 for grey or luma.
        border: Pixels that are cropped on each side before scoring.
        luma: Whether scores are computed on the Y channel (of MATLAB's rgb2ycbcr) of RGB images, or
            on all channels.
        grey: How a one-channel task converts a colour image: to grey in 0..255, 0.299 R + 0.587 G +
            0.114 B, if True, else to that Y, in 16..235.
        sets: Benchmark sets of its papers, in their order.
        degradation: The degradation of its inputs: a key of ``data.degradations.DEGRADATIONS``.
            Tables call the input by this name.
        levels: The strengths of a benchmark's degradation: standard deviations of noise, or JPEG
            qualities. Empty if there is only one.
        scores: Its scores: keys of ``evaluation.metrics.SCORES``.
    """

    name: str
    scale: int
    channels: int
    border: int
    luma: bool
    sets: tuple[str, ...]
    degradation: str = "bicubic"
    levels: tuple[int, ...] = ()
    scores: tuple[str, ...] = ("psnr", "ssim")
    grey: bool = False

    @property
    def protocol(self) -> str:
        """The scoring rule in words, printed beside every number: "Y, border 2"."""
        pixels = "RGB" if self.channels == 3 and not self.luma else "grey" if self.grey else "Y"
        return f"{pixels}, border {self.border}"

    def scored_sets(self, name: str) -> tuple[str, ...]:
        """The names of a benchmark set in scores: one for each level, "CBSD68-15"."""
        return tuple(scored_set(name, level) for level in self.levels or (0,))


_SCALES = (2, 3, 4)


def _super_resolution(config: Config) -> Task:
    if config.scale not in _SCALES:
        raise UserError(
            f"config.scale is {config.scale}, but super-resolution works at scale 2, 3 or 4."
        )
    if config.eval.levels:
        raise UserError(
            f"config.eval.levels is {config.eval.levels}, but super-resolution has no levels: "
            "leave it empty."
        )
    return Task(
        name=f"SR x{config.scale}",
        scale=config.scale,
        channels=3,
        border=config.scale,
        luma=True,
        sets=("Set5", "Set14", "B100", "Urban100", "Manga109"),
    )


def _photographs(config: Config) -> Task:
    if config.scale not in _SCALES:
        raise UserError(
            f"config.scale is {config.scale}, but photographs are enlarged 2, 3 or 4 times."
        )
    return Task(
        name=f"Photo x{config.scale}",
        scale=config.scale,
        channels=3,
        border=config.scale,
        luma=True,
        sets=("Set14", "B100", "Urban100"),
        degradation="photo",
        levels=_levels(config, (40, 60, 80), 100),
    )


def _blind(config: Config) -> Task:
    if config.scale not in _SCALES:
        raise UserError(f"config.scale is {config.scale}, but the task real has 2, 3 or 4.")
    if config.eval.levels:
        raise UserError(f"config.eval.levels is {config.eval.levels}, but the task real has none.")
    return Task(
        name=f"Real SR x{config.scale}",
        scale=config.scale,
        channels=3,
        border=config.scale,
        luma=True,
        sets=("Set5", "Set14", "B100"),
        degradation="real",
    )


def _denoising(config: Config) -> Task:
    _require_scale_1(config)
    return Task(
        name="Colour denoising",
        scale=1,
        channels=3,
        border=0,
        luma=False,
        sets=("CBSD68", "Kodak24", "McMaster", "Urban100"),
        degradation="noise",
        levels=_levels(config, (15, 25, 50), 255),
    )


def _grey_denoising(config: Config) -> Task:
    _require_scale_1(config)
    return Task(
        name="Grey denoising",
        scale=1,
        channels=1,
        border=0,
        luma=False,
        sets=("BSD68", "Set12"),
        degradation="noise",
        levels=_levels(config, (15, 25, 50), 255),
        grey=True,
    )


def _jpeg(config: Config) -> Task:
    _require_scale_1(config)
    return Task(
        name="JPEG artifact reduction",
        scale=1,
        channels=1,
        border=0,
        luma=False,
        sets=("LIVE1", "Classic5"),
        degradation="jpeg",
        levels=_levels(config, (10, 20, 30, 40), 100),
        scores=("psnr", "ssim", "psnrb"),
    )


def _jpeg_colour(subsampling: str) -> Callable[[Config], Task]:
    def task(config: Config) -> Task:
        _require_scale_1(config)
        return Task(
            name=f"Colour JPEG artifact reduction, {subsampling}",
            scale=1,
            channels=3,
            border=0,
            luma=False,
            sets=("LIVE1",),
            degradation=f"jpeg_{subsampling.replace(':', '')}",
            levels=_levels(config, (10, 20, 30, 40), 100),
        )

    return task


def _require_scale_1(config: Config) -> None:
    if config.scale != 1:
        raise UserError(
            f"config.scale is {config.scale}, but the task {config.task} does not enlarge: set it "
            "to 1."
        )


def _levels(config: Config, usual: tuple[int, ...], most: int) -> tuple[int, ...]:
    """The levels that a config requests, or the usual ones."""
    levels = tuple(config.eval.levels)
    if any(type(level) is not int or not 1 <= level <= most for level in levels):
        raise UserError(
            f"config.eval.levels is {levels}, but must hold whole numbers in 1..{most}, such as "
            f"{usual}."
        )
    return levels or usual


TASKS: dict[str, Callable[[Config], Task]] = {
    "sr": _super_resolution,
    "denoise": _denoising,
    "denoise_grey": _grey_denoising,
    "jpeg": _jpeg,
    # Two protocols of one task: networks for colour are trained with both subsamplings.
    "jpeg_colour": _jpeg_colour("4:2:0"),
    "jpeg_444": _jpeg_colour("4:4:4"),
    "photo": _photographs,
    "real": _blind,
}

# Tasks that enlarge by a scale of 2, 3 or 4; the others have scale 1.
ENLARGING = ("sr", "photo", "real")


def task_of(config: Config) -> Task:
    """The task that a config names.

    Raises:
        UserError: ``config.task`` is not a key of ``TASKS``, or the task does not allow this
            ``config.scale`` or ``config.eval.levels``.
    """
    if config.task not in TASKS:
        raise UserError(f"config.task is {config.task!r}, but must be one of: {', '.join(TASKS)}.")
    return TASKS[config.task](config)
