"""Training pairs whose targets are a teacher's outputs, computed once and kept on disk.

The teacher's output depends only on the degraded input, so it need not be computed in every step. A
folder of pairs is a cache like those of ``binsr_jax.data.cache``, with a window of an image for
each name. Pairs are appended one by one, so an interrupted run continues.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import logging
from tqdm import tqdm

from binsr_jax.config import Config
from binsr_jax.data.cache import INDEX_VERSION, PairCache, decoded_folder, in_order, lock
from binsr_jax.data.degradations import DEGRADATIONS
from binsr_jax.data.pairs import Pair, RandomDegradation, bicubic_pair
from binsr_jax.errors import UserError
from binsr_jax.files import replace_text
from binsr_jax.tasks import task_of

_VERSION = 1  # of the algorithm; a change makes new pairs
# Pixels of context around the small window that the teacher also gets.
_CONTEXT = 8
_SAVED_EVERY = 64  # pairs
_SPARE = 2**30  # bytes of the disk that are left free

Mixture = list[tuple[PairCache, float]]


@dataclass(frozen=True)
class PictureTeacher:
    """A teacher as a function of pictures.

    Attributes:
        restore: uint8 ``[h, w, C]`` to uint8 ``[s h, s w, C]``, with the student's scale s.
        fingerprint: The fingerprint of the network and of the processing of its output.
    """

    restore: Callable[[np.ndarray], np.ndarray]
    fingerprint: str


def open_taught(config: Config, mixture: Mixture, teacher: PictureTeacher) -> PairCache:
    """Opens the pairs of a teacher; computes missing ones.

    ``config.data.taught`` windows of ``config.data.window`` pixels are cut out of the training
    images at random places, degraded as the task degrades its patches, and restored by the teacher.
    Pair i is a function of the settings, of ``config.seed`` and of i.

    Args:
        config: The settings; ``seed``, ``task``, ``scale``, ``data`` and ``real`` are used.
        mixture: The training images, from ``sources.open_mixture``.
        teacher: Makes the targets.

    Raises:
        UserError: No image is large enough, or the disk has too little space or is not writable.
    """
    maker = _Maker(config, mixture)
    count, bytes_ = config.data.taught, maker.bytes
    settings = [_VERSION, teacher.fingerprint, config.scale, config.seed, count]
    settings += [config.data.window, repr(maker.degrade)]
    settings += [[source.fingerprint, weight] for source, weight in mixture]
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32]
    cache_dir = decoded_folder(config)
    folder = cache_dir / f"taught-x{config.scale}-{digest[:16]}"
    with contextlib.suppress(ValueError, OSError):
        return PairCache(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock(cache_dir / f"{folder.name}.lock"):
            with contextlib.suppress(ValueError, OSError):
                return PairCache(folder)  # another process has made it in the meantime
            done = _whole_pairs(folder, bytes_)
            needed, free = (count - done) * sum(bytes_), shutil.disk_usage(folder).free
            if needed + _SPARE > free:
                raise UserError(
                    f"{count - done:,} pairs of a teacher take {needed / 2**30:.1f} GiB, but "
                    f"{cache_dir} has {free / 2**30:.1f} GiB: set a smaller config.data.taught, or "
                    "config.data.cache_dir to another folder."
                )
            _make(folder, range(min(done, count), count), maker, teacher)
            index = {
                "version": INDEX_VERSION,
                "scale": config.scale,
                "channels": maker.channels,
                "names": [maker.name(i) for i in range(count)],
                "sizes": [[config.data.window] * 2] * count,
                "left_out": [],
                "fingerprint": digest,
            }
            replace_text(folder / "index.json", json.dumps(index))
            return PairCache(folder)
    except OSError as error:
        raise UserError(
            f"Cannot write the pairs of a teacher to {cache_dir} ({error.strerror or error}); set "
            "config.data.cache_dir to a folder with space."
        ) from error


class _Maker:
    """Chooses, cuts and degrades windows of images.

    Attributes:
        degrade: Makes a pair of patches.
        channels: The channels of the images.
        bytes: The bytes of a low-quality window and of its target.
    """

    def __init__(self, config: Config, mixture: Mixture) -> None:
        training = DEGRADATIONS[task_of(config).degradation].training
        self.degrade: RandomDegradation | None = training(config) if training else None
        self.channels = task_of(config).channels
        self._seed, self._scale, self._window = config.seed, config.scale, config.data.window
        margin = self.degrade.margin if self.degrade else 0
        self._side = self._window + 2 * _CONTEXT * self._scale + margin
        self._sources = [source for source, _ in mixture]
        self._large = [
            [i for i, size in enumerate(source.sizes) if min(size) >= self._side]
            for source in self._sources
        ]
        weights = [weight for _, weight in mixture]
        shares = np.where([bool(found) for found in self._large], weights, 0.0)
        if not shares.any():
            raise UserError(
                f"config.data.window is {self._window}, for which an image must have "
                f"{self._side} pixels a side, and no training image has: set a smaller window."
            )
        self._shares = shares / shares.sum()
        hq = self.channels * self._window**2
        self.bytes = hq // self._scale**2, hq

    def _drawn(self, index: int) -> tuple[np.random.Generator, PairCache, int]:
        """The random generator of a pair, and the image that it chooses."""
        rng = np.random.default_rng([self._seed, index])
        number = int(rng.choice(len(self._shares), p=self._shares))
        large = self._large[number]
        return rng, self._sources[number], large[int(rng.integers(len(large)))]

    def name(self, index: int) -> str:
        """The name of a pair."""
        _, source, image = self._drawn(index)
        return f"{source.names[image]} {index}"

    def low_quality(self, index: int) -> np.ndarray:
        """The degraded window of a pair, with its context: uint8 ``[h + 2c, w + 2c, C]``."""
        rng, source, image = self._drawn(index)
        hq = source[image][1]
        top, left = (int(rng.integers(length - self._side + 1)) for length in hq.shape[:2])
        patch = np.ascontiguousarray(hq[top : top + self._side, left : left + self._side])
        if self.degrade is None:
            return bicubic_pair(patch, self._scale)[0]
        return self.degrade(patch, rng)[0]

    def pair(self, low: np.ndarray, high: np.ndarray) -> Pair:
        """The pair of windows, without their context."""

        def inner(image: np.ndarray, context: int) -> np.ndarray:
            return np.ascontiguousarray(image[context:-context, context:-context])

        return inner(low, _CONTEXT), inner(high, _CONTEXT * self._scale)


def _whole_pairs(folder: Path, bytes_: tuple[int, int]) -> int:
    """The number of complete pairs in a folder; an incomplete one at the end is removed."""
    files = [folder / "lq.bin", folder / "hq.bin"]
    for file in files:
        file.touch()
    done = min(file.stat().st_size // size for file, size in zip(files, bytes_, strict=True))
    for file, size in zip(files, bytes_, strict=True):
        os.truncate(file, done * size)
    return done


def _make(folder: Path, numbers: range, maker: _Maker, teacher: PictureTeacher) -> None:
    """Appends pairs to a folder's files."""
    logging.info("Making pairs %d to %d of a teacher.", numbers.start, numbers.stop)
    started = time.monotonic()
    with (
        open(folder / "lq.bin", "ab") as lq_file,
        open(folder / "hq.bin", "ab") as hq_file,
        ThreadPoolExecutor(2) as pool,
        tqdm(total=len(numbers), desc="teacher", unit="pair", disable=None) as bar,
    ):
        inputs = in_order(pool, lambda n: maker.low_quality(numbers[n]), len(numbers))
        for made, low in enumerate(inputs, 1):
            lq, hq = maker.pair(low, teacher.restore(low))
            lq_file.write(lq.data)
            hq_file.write(hq.data)
            if made % _SAVED_EVERY == 0 or made == len(numbers):
                for file in (lq_file, hq_file):
                    file.flush()
                    os.fsync(file.fileno())
            bar.update()
            if bar.disable and made % 500 == 0:
                left = (len(numbers) - made) * (time.monotonic() - started) / made / 60
                logging.info("Made %d of %d pairs; %.0f minutes left.", made, len(numbers), left)
