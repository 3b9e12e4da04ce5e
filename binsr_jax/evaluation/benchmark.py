"""Benchmark sets and their scores."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from tqdm import tqdm

from binsr_jax.config import Config
from binsr_jax.data.degradations import DEGRADATIONS, as_image
from binsr_jax.data.images import IMAGE_SUFFIXES, list_images, read_image
from binsr_jax.data.sources import SAMPLES
from binsr_jax.errors import UserError
from binsr_jax.evaluation import report
from binsr_jax.evaluation.metrics import SCORES
from binsr_jax.tasks import Task, scored_set, task_of

Restore = Callable[[np.ndarray], np.ndarray]
"""From an input ``[h, w, C]``, uint8 or float32 in about 0..1, to uint8 ``[s h, s w, C]``."""


@dataclass(frozen=True)
class Example:
    """One image of a benchmark set, its name and its input.

    ``lq`` is uint8, or float32 in about 0..1, ``[h, w, C]``; ``hq`` is uint8 ``[s h, s w, C]``.
    """

    name: str
    lq: np.ndarray
    hq: np.ndarray


@dataclass(frozen=True)
class BenchmarkSet:
    """A set of images that is scored as a whole; iterating decodes one image after the other.

    Attributes:
      name: what tables call it, such as "Set5" or, with its level, "CBSD68-15".
      task: what is to be restored, and how it is scored.
      files: HR files, in the order of their names.
      lr_files: the LR file of each HR file, or None where inputs are made from the HR images.
      level: how strongly they are degraded then; 0 where a task has no levels.
      crop: side of the square in the middle of each HR image that is taken; 0 takes all of it.
    """

    name: str
    task: Task
    files: tuple[Path, ...]
    lr_files: tuple[Path, ...] | None
    level: int = 0
    crop: int = 0

    def __len__(self) -> int:
        return len(self.files)

    @property
    def protocol(self) -> str:
        """How the images are scored and where the inputs come from, for the tables."""
        made = DEGRADATIONS[self.task.degradation].protocol.format(self.level)
        source = made if self.lr_files is None else "LR files"
        crop = f", centre {self.crop}x{self.crop}" if self.crop else ""
        return f"{self.task.protocol}, {source}{crop}"

    def __iter__(self) -> Iterator[Example]:
        """Yields the examples.

        Raises:
          UserError: a file cannot be read, is too small to be scored, or does not fit its LR file.
        """
        stems = [file.stem for file in self.files]
        for i, file in enumerate(self.files):
            name = file.stem if stems.count(file.stem) == 1 else file.name
            hq, scale = self._cropped(self._read(file), file), self.task.scale
            least = max(scale, 2 * self.task.border + 1)
            if min(size // scale * scale for size in hq.shape[:2]) < least:
                raise UserError(
                    f"{file} is {_size(hq)} pixels, too small for {self.task.name} scored with a "
                    f"border of {self.task.border}; remove it from the set."
                )
            if self.lr_files is None:
                make = DEGRADATIONS[self.task.degradation].benchmark
                lq, hq = make(hq, scale, self.level)
            else:
                lq = self._read(self.lr_files[i])
                if lq.shape[:2] != (hq.shape[0] // scale, hq.shape[1] // scale):
                    raise UserError(
                        f"{self.lr_files[i]} is {_size(lq)} pixels, which is not {file} "
                        f"({_size(hq)}) reduced {scale} times; replace one of them."
                    )
                hq = hq[: lq.shape[0] * scale, : lq.shape[1] * scale]
            yield Example(name, lq, hq)

    def _read(self, file: Path) -> np.ndarray:
        return read_image(file, self.task.channels, full_range=self.task.grey)

    def _cropped(self, hq: np.ndarray, file: Path) -> np.ndarray:
        """The middle of an image, or all of it."""
        if not self.crop:
            return hq
        if min(hq.shape[:2]) < self.crop:
            raise UserError(
                f"{file} is {_size(hq)} pixels, too small for its centre of "
                f"{self.crop}x{self.crop}: leave out @{self.crop} after the set's name."
            )
        top, left = ((side - self.crop) // 2 for side in hq.shape[:2])
        return hq[top : top + self.crop, left : left + self.crop]


def load_sets(names: Sequence[str], data_dir: str | Path, task: Task) -> list[BenchmarkSet]:
    """Finds benchmark sets, each once for every level of the task: see ``load_set``."""
    levels = task.levels or (0,)
    return [
        load_set(name, data_dir, task, level) for name in dict.fromkeys(names) for level in levels
    ]


def load_set(name: str, data_dir: str | Path, task: Task, level: int = 0) -> BenchmarkSet:
    """Finds a benchmark set.

    A set ``NAME`` is a folder of HR images, ``NAME/*.png`` or ``NAME/HR/*.png``, from which the
    inputs are made as the task says. For super-resolution that is the MATLAB-exact bicubic after
    cropping to a multiple of the scale; or LR images are ``NAME/LR_bicubic/X2/*x2.png``, beside
    ``NAME/HR``, if there are such and the task has no levels. "samples" are the held-out images
    that come with the package. ``NAME@500`` takes the 500x500 pixels in the middle of each image,
    from row (H - 500) // 2 and column (W - 500) // 2.

    Args:
      name: "samples" or a folder's name.
      data_dir: the folder that holds the set; "" means the environment variable BINSR_DATA.
      task: what is to be restored.
      level: how strongly its images are degraded; 0 is the first of the task's levels, if it has
        any.

    Raises:
      UserError: the folder is missing or has no images, or an HR image has no LR image.
    """
    level = level or (task.levels[0] if task.levels else 0)
    title = scored_set(name, level)
    name, at, side = name.rpartition("@") if "@" in name else (name, "", "0")
    if not side.isdecimal() or (at and not int(side)):
        raise UserError(
            f"The benchmark set {name}@{side} is none: after @ stands the side of the centre that "
            "is taken, as in Kodak24@500."
        )
    crop = int(side)
    folder = SAMPLES / "valid" if name == "samples" else _folder(name, str(data_dir), task)
    hr = folder / "HR" if (folder / "HR").is_dir() else folder
    files = tuple(list_images(hr))
    if not files:
        raise UserError(
            f"{hr} has no images ({', '.join(IMAGE_SUFFIXES)}); a set is {_layouts(name, task)}."
        )
    lr = folder / "LR_bicubic" / f"X{task.scale}"
    if hr == folder or not lr.is_dir() or crop or level:
        return BenchmarkSet(title, task, files, None, level, crop)
    by_stem = {file.stem: file for file in list_images(lr)}
    lr_files = []
    for file in files:
        stem = f"{file.stem}x{task.scale}"
        if stem not in by_stem:
            raise UserError(
                f"{file} has no LR image {stem}{file.suffix} in {lr}; add it, or remove that "
                "folder to have all LR images made."
            )
        lr_files.append(by_stem[stem])
    return BenchmarkSet(title, task, files, tuple(lr_files))


def restorer(model: nn.Module, variables: Mapping[str, Any]) -> Restore:
    """Makes a function of images of a network: its output clipped to 0..1, rounded to 8 bits.

    It is compiled once for each shape of image, however many sets of variables a network is given.

    Args:
      model: takes float ``[1, h, w, C]`` in 0..1 (see ``binsr_jax.models``).
      variables: its parameters, and other collections if it has such.
    """
    return lambda image: np.asarray(_restore(model, variables, jnp.asarray(image)))


@partial(jax.jit, static_argnums=0)
def _restore(model: nn.Module, variables: Mapping[str, Any], image: jax.Array) -> jax.Array:
    x = image[None].astype(jnp.float32) / (255 if image.dtype == jnp.uint8 else 1)
    y = model.apply(variables, x, train=False, progress=jnp.float32(1))
    assert isinstance(y, jax.Array)  # without mutable collections, apply returns only this
    return jnp.round(jnp.clip(y[0], 0, 1) * 255).astype(jnp.uint8)


def score_set(
    benchmark: BenchmarkSet, restore: Restore | None = None, images_dir: Path | None = None
) -> list[report.Row]:
    """Scores one set.

    Args:
      benchmark: the set.
      restore: what restores an image; None scores the input itself, enlarged by bicubic
        interpolation if the task enlarges.
      images_dir: where to write ``SET/IMAGE.png``, the restored images, and beside them
        ``SET/IMAGE_comparison.png``, the pictures of ``report.comparison``.

    Returns:
      One row an image (set, task, protocol, image, the task's scores such as psnr and ssim, and
      with ``restore`` those of the input: bicubic_psnr, noise_psnr or jpeg_psnr and so on), then
      one row of the set with ``images``, their number, in place of ``image`` and the means of the
      scores.

    Raises:
      UserError: an image cannot be read or scored, or a picture cannot be written.
    """
    task, rows, started = benchmark.task, [], time.monotonic()
    about = {"set": benchmark.name, "task": task.name, "protocol": benchmark.protocol}
    for example in _with_progress(benchmark):
        restorations = _unrestored(example, task)
        (untouched,) = restorations.values()
        scores = _scores(untouched, example.hq, task)
        if restore is not None:
            restorations["Ours"] = restore(example.lq)
            before = {f"{task.degradation}_{name}": score for name, score in scores.items()}
            scores = _scores(restorations["Ours"], example.hq, task) | before
        rows.append({**about, "image": example.name, **scores})
        if images_dir is not None:
            path = images_dir / benchmark.name / f"{example.name}.png"
            report.save_png(path, list(restorations.values())[-1])
            picture = report.comparison(
                f"{benchmark.name} / {example.name}", example.hq, restorations, task
            )
            report.save_png(path.with_name(f"{example.name}_comparison.png"), picture)
    seconds = time.monotonic() - started
    logging.info("%s: %d images scored in %.1f s", benchmark.name, len(benchmark), seconds)
    names = [name for name in rows[0] if name not in (*about, "image")]
    return [*rows, {**about, "images": len(rows), **_means(rows, names)}]


def validator(
    config: Config,
) -> Callable[[Restore, int], tuple[dict[str, float], dict[str, np.ndarray]]]:
    """The validation of a training run, on the sets that its config names.

    Returns:
      ``validate(restore, step) -> (scores, pictures)``: "SET/psnr" and so on, or with levels
      "SET-LEVEL/psnr", means over each set in the config's order, and a comparison picture
      "SET/IMAGE" of each set's first image.

    Raises:
      UserError: a set is missing (at once, not at the first validation), or there are none.
    """
    if not config.eval.sets or not all(isinstance(name, str) for name in config.eval.sets):
        raise UserError(
            f"config.eval.sets is {tuple(config.eval.sets)}, which names no benchmark set; name "
            "one, such as ('samples',)."
        )
    task = task_of(config)
    sets = load_sets(config.eval.sets, config.eval.data_dir, task)

    def validate(restore: Restore, step: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        scores: dict[str, float] = {}
        pictures: dict[str, np.ndarray] = {}
        for benchmark in sets:
            rows = []
            for example in benchmark:
                restored = restore(example.lq)
                if not rows:
                    pictures[f"{benchmark.name}/{example.name}"] = report.comparison(
                        f"{benchmark.name} / {example.name}, step {step:,}",
                        example.hq,
                        _unrestored(example, task) | {"Ours": restored},
                        task,
                    )
                rows.append(_scores(restored, example.hq, task))
            for name, mean in _means(rows, list(rows[0])).items():
                scores[f"{benchmark.name}/{name}"] = mean
        return scores, pictures

    return validate


def network_validator(
    config: Config, model: nn.Module
) -> Callable[[Mapping[str, Any], int], tuple[dict[str, float], dict[str, np.ndarray]]]:
    """The `validator` of a network, as a function of its variables and the step.

    Raises:
      UserError: as `validator`.
    """
    validate = validator(config)
    return lambda variables, step: validate(restorer(model, variables), step)


def _scores(restored: np.ndarray, hq: np.ndarray, task: Task) -> dict[str, float]:
    return {name: SCORES[name](restored, hq, task.border, task.luma) for name in task.scores}


def _unrestored(example: Example, task: Task) -> dict[str, np.ndarray]:
    """The input as an image, and its name in comparison pictures."""
    title = DEGRADATIONS[task.degradation].title
    return {title[0].upper() + title[1:]: as_image(example.lq, task.scale)}


def _means(rows: list[report.Row], names: list[str]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in names}


def _with_progress(benchmark: BenchmarkSet) -> Iterator[Example]:
    """The examples, with a progress bar on a terminal."""
    return iter(
        tqdm(
            benchmark,
            desc=benchmark.name,
            unit="image",
            total=len(benchmark),
            leave=False,
            disable=not sys.stderr.isatty(),
        )
    )


def _folder(name: str, data_dir: str, task: Task) -> Path:
    """The folder of a set under the data directory."""
    data_dir = data_dir or os.environ.get("BINSR_DATA", "")
    if not data_dir:
        raise UserError(
            f"No folder is given that holds the benchmark set {name}: set --data_dir, "
            "config.eval.data_dir or the environment variable BINSR_DATA."
        )
    root = Path(data_dir).expanduser()
    if not root.is_dir():
        raise UserError(f"There is no folder {root}, where the benchmark set {name} should be.")
    if not (root / name).is_dir():
        raise UserError(
            f"There is no benchmark set {name} in {root}: it would be {_layouts(name, task)}."
        )
    return root / name


def _layouts(name: str, task: Task) -> str:
    if task.scale == 1:
        return f"a folder of images {name}/*.png"
    return (
        f"a folder of HR images {name}/*.png, or {name}/HR/*.png with "
        f"{name}/LR_bicubic/X{task.scale}/*x{task.scale}.png"
    )


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
