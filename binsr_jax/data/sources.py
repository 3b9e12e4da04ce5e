"""Sources of training images: DIV2K through TFDS, folders, zips, or the packaged samples."""

import dataclasses
import hashlib
import importlib.util
import io
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from binsr_jax.config import Config
from binsr_jax.data.cache import PairCache, Undecoded, decoded_folder, open_cache
from binsr_jax.data.degradations import DEGRADATIONS
from binsr_jax.data.images import read_image, read_rgb
from binsr_jax.data.official import official_pair, pair_up
from binsr_jax.data.pairs import Pair, bicubic_pair
from binsr_jax.data.zipped import ZippedImages
from binsr_jax.errors import UserError
from binsr_jax.files import expanded, printable
from binsr_jax.image_files import IMAGE_SUFFIXES, list_images
from binsr_jax.tasks import Task, task_of

SPLITS = ("train", "valid")
_LISTED = 5  # most images named in one line
SAMPLES = Path(__file__).parent / "samples"  # the packaged pictures: train/ and valid/


def open_source(config: Config, split: str) -> PairCache:
    """The image pairs of ``data.source``, decoded into a cache on first use.

    * "tfds": DIV2K's official pairs (``div2k/bicubic_x2``, x3, x4), prepared by TFDS as
      array_record files. Reading them needs no TensorFlow; preparing them does.
    * "folder": ``data.dir`` has either official pairs (``DIV2K_train_HR`` with
      ``DIV2K_train_LR_bicubic/X2/0001x2.png``, or ``HR`` with ``LR_bicubic/X2``) or HR images
      alone. For these, LR images are made with MATLAB's bicubic. Only ``DIV2K_valid_HR`` is a
      validation split.
    * "zip": ``data.dir`` is a zip of HR images, or a folder in one, ``IMAGES.zip/FOLDER``.
    * "samples": a few small pictures that come with the package.

    HR images are cropped to multiples of the scale. Images smaller than the scale are left out. A
    task that degrades patches uses whole HR images only, in its number of channels.

    Args:
        config: All settings; ``task``, ``scale`` and ``data`` are read.
        split: "train" or "valid".

    Returns:
        A sequence of (lq, hq), uint8 ``[h, w, C]`` and ``[scale h, scale w, C]``. If the task
        degrades patches, lq is hq and the scale is 1.

    Raises:
        UserError: The source is unknown, or its files are missing, unreadable or do not pair up.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}, but must be one of {SPLITS}")
    if config.data.source not in SOURCES:
        raise UserError(
            f"config.data.source is {config.data.source!r}, but must be one of: "
            f"{', '.join(SOURCES)}."
        )
    images = SOURCES[config.data.source](config, split)
    images = dataclasses.replace(images, skip_broken=config.data.skip_broken)
    source = open_cache(images, decoded_folder(config))
    if source.left_out:
        logging.warning(
            "Left out %d images smaller than the scale %d: %s.",
            len(source.left_out),
            source.scale,
            some(source.left_out),
        )
    if source.broken:
        logging.warning(
            "Skipped %d of %d images that cannot be used: %s",
            len(source.broken),
            len(source.broken) + len(source.left_out) + len(source),
            some(source.broken, " "),
        )
    return source


def open_mixture(config: Config) -> list[tuple[PairCache, float]]:
    """The training images: one source, or several with their shares of a batch.

    ``data.sources`` lists them as "SOURCE=WEIGHT" or "SOURCE:DIR=WEIGHT", such as
    "folder:/photos=3". The default weight is 1. If the list is empty, ``data.source`` is the only
    source.

    Args:
        config: All settings; ``scale`` and ``data`` are read.

    Returns:
        Each source with its weight; the weights add up to 1.

    Raises:
        UserError: See ``open_source``; or an entry is malformed.
    """
    if not config.data.sources:
        return [(open_source(config, "train"), 1.0)]
    entries = [_mixed(entry) for entry in config.data.sources]
    total = sum(weight for _, _, weight in entries)
    mixture = []
    for name, folder, weight in entries:
        one = config.copy_and_resolve_references()
        with one.unlocked():
            one.data.source, one.data.dir = name, folder
        mixture.append((open_source(one, "train"), weight / total))
    return mixture


def source_names(config: Config) -> list[str]:
    """Names for the sources of ``open_mixture``: a folder's own name, or the kind of source."""
    entries = [_mixed(entry)[:2] for entry in config.data.sources]
    entries = entries or [(config.data.source, config.data.dir)]
    return [Path(at).name if kind in ("folder", "zip") else kind for kind, at in entries]


def source_kinds(config: Config) -> str:
    """The kinds of source that ``open_mixture`` opens, each once, such as "folder samples"."""
    kinds = [_mixed(entry)[0] for entry in config.data.sources] or [config.data.source]
    return " ".join(dict.fromkeys(kinds))


def _mixed(entry: str) -> tuple[str, str, float]:
    """Source, folder and weight of an entry of ``data.sources``."""
    where, equals, number = entry.rpartition("=")
    if not equals:
        where, number = entry, "1"
    name, _, folder = where.partition(":")
    try:
        weight = float(number)
    except ValueError:
        weight = math.nan
    if name not in SOURCES or not 0 < weight < math.inf:
        raise UserError(
            f"config.data.sources has the entry {entry!r}, but must have entries such as "
            f"'folder:DIR=2': one of {', '.join(SOURCES)}, and a weight above 0."
        )
    return name, folder, weight


def fingerprint(mixture: list[tuple[PairCache, float]]) -> str:
    """A hash of all images and weights; for a single source, its own fingerprint."""
    if len(mixture) == 1:
        return mixture[0][0].fingerprint
    parts = [[source.fingerprint, weight] for source, weight in mixture]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def some(texts: Sequence[str], between: str = ", ") -> str:
    """The first few texts in one line, and how many more there are."""
    listed = between.join(printable(text) for text in texts[:_LISTED])
    more = len(texts) - _LISTED
    return f"{listed} and {more} more" if more > 0 else listed


def _samples(config: Config, split: str) -> Undecoded:
    task = task_of(config)
    return _single_images(_title("samples", split, task), SAMPLES / split, task)


def _source_scale(task: Task) -> int:
    """HQ sides / LQ sides of the images; 1 if patches are degraded instead of images."""
    return task.scale if DEGRADATIONS[task.degradation].training is None else 1


def _title(source: str, split: str, task: Task) -> str:
    """The name of a cache: "folder-train-x2", or "folder-train-grey" if it has no LQ images."""
    scale, grey = _source_scale(task), "full-grey" if task.grey else "grey"
    colours = "rgb" if task.channels == 3 else grey
    return f"{source}-{split}-{f'x{scale}' if scale > 1 else colours}"


def _folder(config: Config, split: str) -> Undecoded:
    if not config.data.dir:
        raise UserError("config.data.source=folder needs config.data.dir, the folder of images.")
    root, task = expanded(config.data.dir), task_of(config)
    scale = _source_scale(task)
    if not root.is_dir():
        raise UserError(f"There is no folder {root}; set config.data.dir to a folder of images.")
    title = _title("folder", split, task)
    layouts = [(f"DIV2K_{split}_HR", f"DIV2K_{split}_LR_bicubic")]
    if split == "train":
        layouts.append(("HR", "LR_bicubic"))
    for hr, lr in layouts:
        if (root / hr).is_dir():
            lr_folder = root / lr / f"X{scale}"
            if scale > 1 and lr_folder.is_dir():
                return _paired_images(title, root / hr, lr_folder, scale)
            if scale > 1:
                logging.info("There is no %s: LR images are made from HR images.", lr_folder)
            return _single_images(title, root / hr, task)
    if split != "train":
        raise UserError(f"{root} has no validation images: it needs a folder DIV2K_{split}_HR.")
    return _single_images(title, root, task)


def _zip(config: Config, split: str) -> Undecoded:
    if not config.data.dir:
        raise UserError("config.data.source=zip needs config.data.dir, the zip file of images.")
    if split != "train":
        raise UserError("A zip of images has no validation split: set config.data.source=folder.")
    images, task = ZippedImages(expanded(config.data.dir)), task_of(config)

    def read(i: int) -> np.ndarray:
        return read_image(images.open(i), task.channels, images.label(i), full_range=task.grey)

    identity = [_identity(images.file), *images.contents]
    return _from_single_images(_title("zip", split, task), identity, images.names, read, task)


def _tfds(config: Config, split: str) -> Undecoded:
    # Imported here because it takes a while and only this source needs it.
    import tensorflow_datasets as tfds

    task = task_of(config)
    data_dir = expanded(config.data.dir) if config.data.dir else None
    scale = _source_scale(task)
    # At scale 1 any of them is good enough: they have the same HR images.
    scales = (2, 3, 4) if scale == 1 else (scale,)
    names = [f"div2k/bicubic_x{n}" for n in scales]
    builders: list[Any] = [tfds.builder(name, data_dir=data_dir) for name in names]
    prepared = [builder.is_prepared() for builder in builders]
    which = prepared.index(True) if True in prepared else 0
    name, builder = names[which], builders[which]
    if not prepared[which]:
        _prepare(builder, name)
    key = {"train": "train", "valid": "validation"}[split]
    skip = tfds.decode.SkipDecoding()
    try:
        examples = builder.as_data_source(key, decoders={"lr": skip, "hr": skip})
    except NotImplementedError as error:
        raise UserError(
            f"{builder.data_path} was not prepared as array_record; remove it or set "
            "config.data.dir to another folder, and prepare it again."
        ) from error
    labels = tuple(f"{name} {key} {i}" for i in range(len(examples)))

    def image(i: int, part: str, channels: int) -> np.ndarray:
        file = io.BytesIO(examples[i][part])
        return read_image(file, channels, f"{part} of {labels[i]}", task.grey)

    def decode(i: int) -> Pair | None:
        if scale == 1:
            hq = image(i, "hr", task.channels)
            return hq, hq
        lq, hq = image(i, "lr", 3), image(i, "hr", 3)
        return official_pair(lq, hq, scale, f"lr of {labels[i]}", f"hr of {labels[i]}")

    files = sorted(Path(builder.data_path).iterdir())
    return Undecoded(
        title=_title("div2k", split, task),
        origin=[key, *map(_identity, files)],
        scale=scale,
        names=labels,
        decode=decode,
        channels=task.channels,
        degraded=scale > 1,
    )


def _prepare(builder: Any, name: str) -> None:
    import tensorflow_datasets as tfds

    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"The data set {name} is not prepared in {builder.data_path}: start once with "
            "TensorFlow, which downloads it (pip install 'binsr-jax[tf]'), or set "
            "config.data.source=folder and config.data.dir to a folder of images, or of the "
            "unzipped DIV2K_train_HR and DIV2K_train_LR_bicubic."
        )
    # Zips that already lie in its downloads/manual are used; the others are downloaded.
    download = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        builder.download_and_prepare(file_format="array_record", download_config=download)
    except Exception as error:  # of a network, a server, a zip or a disk
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"TFDS could not prepare {name} in {builder.data_path} ({reason}); put the official "
            "zips into downloads/manual of its data directory, or set config.data.source=folder."
        ) from error


def _single_images(title: str, folder: Path, task: Task) -> Undecoded:
    files = _images_of(folder)

    def read(i: int) -> np.ndarray:
        return read_image(files[i], task.channels, full_range=task.grey)

    names = tuple(file.name for file in files)
    return _from_single_images(title, [_identity(file) for file in files], names, read, task)


def _from_single_images(
    title: str, origin: Any, names: tuple[str, ...], read: Callable[[int], np.ndarray], task: Task
) -> Undecoded:
    """HR images alone, whose LR images are made here unless the task degrades patches."""
    scale = _source_scale(task)

    def decode(i: int) -> Pair | None:
        hq = read(i)
        if scale == 1:
            return hq, hq
        return bicubic_pair(hq, scale) if min(hq.shape[:2]) >= scale else None

    return Undecoded(
        title=title,
        origin=origin,
        scale=scale,
        names=names,
        decode=decode,
        channels=task.channels,
        degraded=scale > 1,
    )


def _paired_images(title: str, hr_folder: Path, lr_folder: Path, scale: int) -> Undecoded:
    pairs = _paired_files(hr_folder, lr_folder, scale)

    def decode(i: int) -> Pair | None:
        lr, hr = pairs[i]
        return official_pair(read_rgb(lr), read_rgb(hr), scale, str(lr), str(hr))

    return Undecoded(
        title=title,
        origin=[[_identity(lr), _identity(hr)] for lr, hr in pairs],
        scale=scale,
        names=tuple(hr.name for _, hr in pairs),
        decode=decode,
    )


def _paired_files(hr_folder: Path, lr_folder: Path, scale: int) -> list[tuple[Path, Path]]:
    """(LR, HR) for each HR image."""
    hr_files, lr_files = _images_of(hr_folder), _images_of(lr_folder)
    paired = pair_up(hr_files, lr_files, lr_folder, scale)
    for lr in sorted(set(lr_files) - set(paired)):
        raise UserError(f"{lr} has no HR image in {hr_folder}; add it, or remove the LR image.")
    return list(zip(paired, hr_files, strict=True))


def _images_of(folder: Path) -> list[Path]:
    files = list_images(folder)
    if not files:
        raise UserError(f"{folder} has no images ({', '.join(IMAGE_SUFFIXES)}).")
    return files


def _identity(file: Path) -> list[str | int]:
    """Values that change whenever a file is replaced, found without reading it.

    The time of the last modification alone would not do: copying and unpacking can preserve it.
    For a dangling link it is the path only; reading the image later reports what is missing.
    """
    path = os.path.realpath(file)
    try:
        status = os.stat(path)
    except OSError:
        return [path]
    return [path, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


SOURCES: dict[str, Callable[[Config, str], Undecoded]] = {
    "tfds": _tfds,
    "folder": _folder,
    "zip": _zip,
    "samples": _samples,
}
