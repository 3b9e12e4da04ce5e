"""A cache of decoded image pairs on disk, read through memory maps.

A cache is a folder with three files. ``hq.bin`` and ``lq.bin`` hold the pixels of all images, one
after the other; ``index.json`` holds their names and sizes. ``lq.bin`` is empty if images are
degraded later. Decoding a 2040x1404 PNG takes tens of milliseconds, reading a patch from the mapped
file takes microseconds. A cache folder may be deleted at any time.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from absl import logging
from tqdm import tqdm

from binsr_jax.cache_folder import cache_folder
from binsr_jax.config import Config
from binsr_jax.data.pairs import Pair
from binsr_jax.errors import UserError
from binsr_jax.files import expanded, open_lock

INDEX_VERSION = 1  # version of the files' layout
_DECODING = 3  # version of the decoding: raise it when the same file gives other pixels
_THREADS = min(8, os.cpu_count() or 1)  # Pillow releases the GIL while it decodes

T = TypeVar("T")


@dataclass(frozen=True)
class Undecoded:
    """Image pairs that can be decoded, one at a time.

    Attributes:
        title: The name of the cache in log lines and folder names; letters, digits and hyphens.
        origin: Everything that decides the pixels (paths, sizes and times of files), as JSON
            values. It is the key of the cache.
        scale: HQ sides / LQ sides.
        names: One name per image.
        decode: Maps an index to (lq, hq), uint8 ``[h, w, C]`` and ``[scale h, scale w, C]``. It is
            called from threads. It returns None for an image smaller than one LQ pixel, and raises
            UserError for one that cannot be read.
        skip_broken: Whether images that cannot be read are left out and reported.
        channels: 3 for RGB images, 1 for grey ones.
        degraded: Whether each image has its own LQ image. If not, the LQ image is the HQ image,
            stored once; its patches are degraded later and the scale is 1.
    """

    title: str
    origin: Any
    scale: int
    names: tuple[str, ...]
    decode: Callable[[int], Pair | None]
    skip_broken: bool = False
    channels: int = 3
    degraded: bool = True


class PairCache(Sequence[Pair]):
    """Memory-mapped image pairs.

    ``cache[i]`` is (lq, hq), read-only uint8 ``[h, w, C]`` and ``[scale h, scale w, C]``. If images
    are degraded later, lq is hq. A cache is pickled as its path, so worker processes map the same
    files.

    Attributes:
        folder: The folder of the cache.
        scale: HQ sides / LQ sides.
        channels: 3 for RGB, 1 for grey.
        names: One name per image.
        sizes: Height and width of each HQ image.
        degraded: Whether it has LQ images; if not, lq is hq.
        left_out: Names of images that are smaller than one LQ pixel.
        broken: One sentence for each image that could not be read and was skipped.
        fingerprint: Hash of all names, sizes and pixels. It is equal on all machines that hold the
            same images.
    """

    def __init__(self, folder: Path):
        """Opens a finished cache.

        Raises:
            ValueError, OSError: Its files are missing or do not fit one another.
        """
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        if not isinstance(index, dict) or index.get("version") != INDEX_VERSION:
            raise ValueError("the index has another version")
        try:
            self.scale = int(index["scale"])
            self.channels = int(index.get("channels", 3))
            degraded = bool(index.get("degraded", True))
            self.names = tuple(str(name) for name in index["names"])
            self.sizes = tuple((int(height), int(width)) for height, width in index["sizes"])
            self.left_out = tuple(str(name) for name in index["left_out"])
            self.broken = tuple(str(sentence) for sentence in index.get("broken", []))
            self.fingerprint = str(index["fingerprint"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"the index is not complete ({error})") from error
        self.folder = folder
        areas = [height * width for height, width in self.sizes]
        positive = min(self.scale, self.channels, *areas) > 0 if areas else False
        if len(self.names) != len(areas) or not positive or not (degraded or self.scale == 1):
            raise ValueError("the index contradicts itself")
        # HQ pixels before each image; LQ images are scale^2 times smaller.
        self._starts = np.concatenate([[0], np.cumsum(areas, dtype=np.int64)])
        size = self.channels * int(self._starts[-1])
        self._hq = _map(folder / "hq.bin", size)
        self._lq = _map(folder / "lq.bin", size // self.scale**2) if degraded else self._hq
        self.degraded = degraded

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        index = range(len(self))[index]
        height, width = self.sizes[index]
        start = self.channels * int(self._starts[index])

        def image(pixels: np.ndarray, start: int, height: int, width: int) -> np.ndarray:
            end = start + self.channels * height * width
            return pixels[start:end].reshape(height, width, self.channels)

        hq = image(self._hq, start, height, width)
        if self._lq is self._hq:
            return hq, hq
        s = self.scale
        return image(self._lq, start // s**2, height // s, width // s), hq

    def __reduce__(self) -> tuple[type["PairCache"], tuple[Path]]:
        return PairCache, (self.folder,)


def decoded_folder(config: Config) -> Path:
    """Where decoded images are kept: ``config.data.cache_dir``, or the folder of all caches.

    Raises:
        UserError: None is named, and neither the home nor the temporary folder can have one.
    """
    if config.data.cache_dir:
        return expanded(config.data.cache_dir)
    try:
        return cache_folder("")
    except OSError as error:
        raise UserError(
            f"There is no place for decoded images ({error.strerror or error}): set "
            "config.data.cache_dir to a folder."
        ) from error


def open_cache(images: Undecoded, cache_dir: Path) -> PairCache:
    """Returns the cache of these images; builds it if it is missing, damaged or out of date.

    The cache is built in a temporary folder, under a lock, and renamed when it is complete. If two
    processes want the same images, one builds and the other waits. The next process removes what a
    crash leaves behind.

    Raises:
        UserError: An image cannot be decoded, no image is left, or the folder cannot be written.
    """
    # A cache with skipped images must not be used by a run that refuses broken images.
    tolerance = ["skip_broken"] if images.skip_broken else []
    form = [] if images.degraded else ["hq", images.channels]
    made = [INDEX_VERSION, _DECODING, images.scale]
    key = json.dumps([*made, images.origin, *tolerance, *form], sort_keys=True)
    name = f"{images.title}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    folder = cache_dir / name
    with contextlib.suppress(ValueError, OSError):
        return PairCache(folder)
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with lock(cache_dir / f"{name}.lock"):
            try:
                return PairCache(folder)  # another process has built it in the meantime
            except (ValueError, OSError) as error:
                if folder.exists():
                    logging.warning("Rebuilding the damaged cache %s: %s.", folder, error)
            partial = cache_dir / f"{name}.partial"
            for leftover in (partial, folder):
                if leftover.exists():
                    shutil.rmtree(leftover)
            partial.mkdir()
            try:
                _build(images, partial)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            partial.rename(folder)
            return PairCache(folder)
    except OSError as error:
        raise UserError(
            f"Cannot write decoded images to {cache_dir} ({error.strerror or error}); "
            "set config.data.cache_dir to a folder with space."
        ) from error


def _build(images: Undecoded, folder: Path) -> None:
    names, sizes, left_out, broken = [], [], [], []
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([INDEX_VERSION, images.scale]).encode())
    count, start = len(images.names), time.monotonic()
    logging.info("Decoding %d images (%s) into %s.", count, images.title, folder.parent)

    def decode(i: int) -> tuple[Pair, bytes] | UserError | None:
        try:
            pair = images.decode(i)
        except UserError as error:
            if not images.skip_broken:
                raise
            return error
        if pair is None:
            return None
        lq, hq = map(np.ascontiguousarray, pair)
        pixels = (hq, lq) if images.degraded else (hq,)
        return (lq, hq), b"".join(hashlib.blake2b(image.data).digest() for image in pixels)

    with (
        open(folder / "hq.bin", "wb") as hq_file,
        open(folder / "lq.bin", "wb") as lq_file,
        ThreadPoolExecutor(_THREADS) as pool,
        tqdm(total=count, desc=images.title, unit="image", disable=None) as bar,
    ):
        for i, decoded in enumerate(in_order(pool, decode, count)):
            bar.update()
            if bar.disable and (i + 1) % 100 == 0:
                logging.info("Decoded %d of %d images.", i + 1, count)
            if decoded is None:
                left_out.append(images.names[i])
                continue
            if isinstance(decoded, UserError):
                broken.append(str(decoded))
                continue
            (lq, hq), pixels = decoded
            hq_file.write(hq.data)
            if images.degraded:
                lq_file.write(lq.data)
            names.append(images.names[i])
            sizes.append(hq.shape[:2])
            digest.update(json.dumps([names[-1], sizes[-1]]).encode() + pixels)
        for file in (hq_file, lq_file):
            file.flush()
            os.fsync(file.fileno())  # the rename must not reach the disk before the pixels
    if broken and not names:
        raise UserError(f"No image of {images.title} can be used. The first reason: {broken[0]}")
    if not names:
        raise UserError(
            f"All {count} images of {images.title} are smaller than the scale {images.scale}."
        )
    index = {
        "version": INDEX_VERSION,
        "scale": images.scale,
        "channels": images.channels,
        "degraded": images.degraded,
        "names": names,
        "sizes": sizes,
        "left_out": left_out,
        "broken": broken,
        "fingerprint": digest.hexdigest(),
    }
    with open(folder / "index.json", "w", encoding="utf-8") as file:
        json.dump(index, file)
        file.flush()
        os.fsync(file.fileno())
    logging.info("Decoded %d images in %.1f s.", count, time.monotonic() - start)


def in_order(pool: ThreadPoolExecutor, function: Callable[[int], T], count: int) -> Iterator[T]:
    """Yields function(0), function(1), ... computed in threads, a few ahead of the caller."""
    pending: deque[Future[T]] = deque()
    try:
        for i in range(count):
            pending.append(pool.submit(function, i))
            if len(pending) > 2 * _THREADS:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _map(path: Path, size: int) -> np.ndarray:
    if path.stat().st_size != size:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes instead of {size}")
    return np.memmap(path, np.uint8, "r").view(np.ndarray)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Holds a lock that the system releases when the process ends, even by a crash."""
    with open(open_lock(path), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logging.info("Waiting for another process that decodes the same images (%s).", path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
