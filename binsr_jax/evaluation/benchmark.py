"""Benchmark sets and their scores."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
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
from binsr_jax.data.degradations import bicubic_pair
from binsr_jax.data.images import SUFFIXES, list_images, read_rgb
from binsr_jax.data.sources import SAMPLES
from binsr_jax.errors import UserError
from binsr_jax.evaluation import report
from binsr_jax.evaluation.metrics import psnr, ssim
from binsr_jax.ops.image import imresize_uint8
from binsr_jax.tasks import Task, task_of

Restore = Callable[[np.ndarray], np.ndarray]
"""From a low-quality image, uint8 ``[h, w, 3]``, to a restored one, uint8 ``[s h, s w, 3]``."""


@dataclass(frozen=True)
class Example:
    """One image of a benchmark set: uint8 ``[h, w, 3]`` and ``[s h, s w, 3]``, and its name."""

    name: str
    lq: np.ndarray
    hq: np.ndarray


@dataclass(frozen=True)
class BenchmarkSet:
    """A set of images that is scored as a whole; iterating decodes one image after the other.

    Attributes:
      name: what tables call it, such as "Set5".
      task: what is to be restored, and how it is scored.
      files: HR files, in the order of their names.
      lr_files: the LR file of each HR file, or None where LR images are made from the HR images.
    """

    name: str
    task: Task
    files: tuple[Path, ...]
    lr_files: tuple[Path, ...] | None

    def __len__(self) -> int:
        return len(self.files)

    @property
    def protocol(self) -> str:
        """How the images are scored and where the LR images come from, for the tables."""
        source = "bicubic LR" if self.lr_files is None else "LR files"
        return f"{self.task.protocol}, {source}"

    def __iter__(self) -> Iterator[Example]:
        """Yields the examples.

        Raises:
          UserError: a file cannot be read, is too small to be scored, or does not fit its LR file.
        """
        stems = [file.stem for file in self.files]
        for i, file in enumerate(self.files):
            name = file.stem if stems.count(file.stem) == 1 else file.name
            hq, scale = read_rgb(file), self.task.scale
            least = max(scale, 2 * self.task.border + 1)
            if min(size // scale * scale for size in hq.shape[:2]) < least:
                raise UserError(
                    f"{file} is {_size(hq)} pixels, too small for {self.task.name} scored with a "
                    f"border of {self.task.border}; remove it from the set."
                )
            if self.lr_files is None:
                lq, hq = bicubic_pair(hq, scale)
            else:
                lq = read_rgb(self.lr_files[i])
                if lq.shape[:2] != (hq.shape[0] // scale, hq.shape[1] // scale):
                    raise UserError(
                        f"{self.lr_files[i]} is {_size(lq)} pixels, which is not {file} "
                        f"({_size(hq)}) reduced {scale} times; replace one of them."
                    )
                hq = hq[: lq.shape[0] * scale, : lq.shape[1] * scale]
            yield Example(name, lq, hq)


def load_set(name: str, data_dir: str | Path, task: Task) -> BenchmarkSet:
    """Finds a benchmark set.

    A set ``NAME`` is a folder of HR images, ``NAME/*.png``, from which LR images are made by the
    MATLAB-exact bicubic after cropping to a multiple of the scale; or ``NAME/HR/*.png``, with LR
    images ``NAME/LR_bicubic/X2/*x2.png`` if there are such. "samples" are the held-out images that
    come with the package.

    Args:
      name: "samples" or a folder's name.
      data_dir: the folder that holds the set; "" means the environment variable BINSR_DATA.
      task: what is to be restored.

    Raises:
      UserError: the folder is missing or has no images, or an HR image has no LR image.
    """
    folder = SAMPLES / "valid" if name == "samples" else _folder(name, str(data_dir), task)
    hr = folder / "HR" if (folder / "HR").is_dir() else folder
    files = tuple(list_images(hr))
    if not files:
        raise UserError(
            f"{hr} has no images ({', '.join(SUFFIXES)}); a set is {_layouts(name, task)}."
        )
    lr = folder / "LR_bicubic" / f"X{task.scale}"
    if hr == folder or not lr.is_dir():
        return BenchmarkSet(name, task, files, None)
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
    return BenchmarkSet(name, task, files, tuple(lr_files))


def restorer(model: nn.Module, variables: Mapping[str, Any]) -> Restore:
    """Makes a function of uint8 images of a network: clipped to 0..1 and rounded to 8 bits.

    It is compiled once for each shape of image, however many sets of variables a network is given.

    Args:
      model: takes float ``[1, h, w, 3]`` in 0..1 (see ``binsr_jax.models``).
      variables: its parameters, and other collections if it has such.
    """
    return lambda image: np.asarray(_restore(model, variables, jnp.asarray(image)))


@partial(jax.jit, static_argnums=0)
def _restore(model: nn.Module, variables: Mapping[str, Any], image: jax.Array) -> jax.Array:
    x = image[None].astype(jnp.float32) / 255
    y = model.apply(variables, x, train=False, progress=jnp.float32(1))
    assert isinstance(y, jax.Array)  # without mutable collections, apply returns only this
    return jnp.round(jnp.clip(y[0], 0, 1) * 255).astype(jnp.uint8)


def score_set(
    benchmark: BenchmarkSet, restore: Restore | None = None, images_dir: Path | None = None
) -> list[report.Row]:
    """Scores one set.

    Args:
      benchmark: the set.
      restore: what restores an image; None scores bicubic enlargement.
      images_dir: where to write ``SET/IMAGE.png``, the restored images, and beside them
        ``SET/IMAGE_comparison.png``, the pictures of ``report.comparison``.

    Returns:
      One row an image (set, task, protocol, image, psnr, ssim, and with ``restore`` bicubic_psnr
      and bicubic_ssim), then one row of the set with ``images``, their number, in place of
      ``image`` and the means of the scores.

    Raises:
      UserError: an image cannot be read or scored, or a picture cannot be written.
    """
    task, rows, started = benchmark.task, [], time.monotonic()
    about = {"set": benchmark.name, "task": task.name, "protocol": benchmark.protocol}
    for example in _with_progress(benchmark):
        restorations = {"Bicubic": imresize_uint8(example.lq, task.scale)}
        scores = _scores(restorations["Bicubic"], example.hq, task)
        if restore is not None:
            restorations["Ours"] = restore(example.lq)
            bicubic = {f"bicubic_{name}": score for name, score in scores.items()}
            scores = _scores(restorations["Ours"], example.hq, task) | bicubic
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
      ``validate(restore, step) -> (scores, pictures)``: "SET/psnr" and "SET/ssim", means over each
      set in the config's order, and a comparison picture "SET/IMAGE" of each set's first image.

    Raises:
      UserError: a set is missing (at once, not at the first validation), or there are none.
    """
    if not config.eval.sets:
        raise UserError("config.eval.sets names no benchmark set; name one, such as samples.")
    task = task_of(config)
    sets = [load_set(name, config.eval.data_dir, task) for name in config.eval.sets]

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
                        {"Bicubic": imresize_uint8(example.lq, task.scale), "Ours": restored},
                        task,
                    )
                rows.append(_scores(restored, example.hq, task))
            for name, mean in _means(rows, list(rows[0])).items():
                scores[f"{benchmark.name}/{name}"] = mean
        return scores, pictures

    return validate


def _scores(restored: np.ndarray, hq: np.ndarray, task: Task) -> dict[str, float]:
    return {
        "psnr": psnr(restored, hq, task.border, task.luma),
        "ssim": ssim(restored, hq, task.border, task.luma),
    }


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
    return (
        f"a folder of HR images {name}/*.png, or {name}/HR/*.png with "
        f"{name}/LR_bicubic/X{task.scale}/*x{task.scale}.png"
    )


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
