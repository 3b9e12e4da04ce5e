"""Benchmark sets: folders of images and the pairs for scoring."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from binsr_jax.data.degradations import DEGRADATIONS
from binsr_jax.data.images import read_image, read_pixels
from binsr_jax.data.official import pair_up
from binsr_jax.data.sources import SAMPLES
from binsr_jax.data.taught import PictureTeacher
from binsr_jax.errors import UserError
from binsr_jax.files import expanded, printable
from binsr_jax.image_files import IMAGE_SUFFIXES, list_images
from binsr_jax.ops.image import grey_of_rgb, to_uint8
from binsr_jax.tasks import Task, scored_set


@dataclass(frozen=True)
class Example:
    """One image of a benchmark set, its name and its input.

    ``lq`` is uint8, or float32 in about 0..1, ``[h, w, C]``; ``hq`` is uint8 ``[s h, s w, C]``.
    Both have one channel if the picture or the task is grey, otherwise three. The digest is a hash
    of the pixels of the files.
    """

    name: str
    lq: np.ndarray
    hq: np.ndarray
    digest: bytes


@dataclass(frozen=True)
class BenchmarkSet:
    """A set of images that is scored as a whole; iterating decodes one image after the other.

    Attributes:
        name: The name in tables, such as "Set5" or, with its level, "CBSD68-15".
        task: What is restored, and how it is scored.
        files: HR files, sorted by name.
        lr_files: The LR file of each HR file, or None if inputs are made from the HR images.
        level: The strength of the degradation; 0 if the task has no levels.
        crop: Side of the square that is cut from the middle of each HR image; 0 means the whole
            image.
        teacher: Its output takes the place of the HR images; None keeps these.
    """

    name: str
    task: Task
    files: tuple[Path, ...]
    lr_files: tuple[Path, ...] | None
    level: int = 0
    crop: int = 0
    teacher: PictureTeacher | None = None

    def __len__(self) -> int:
        return len(self.files)

    def against(self, teacher: PictureTeacher) -> "BenchmarkSet":
        """This set with a teacher's output in the place of the HR images.

        Its name ends in ``-teacher``, so that a stored score is not taken for one against the
        images.
        """
        return replace(self, name=f"{self.name}-teacher", teacher=teacher)

    @property
    def protocol(self) -> str:
        """How the images are scored and where the inputs come from, for tables."""
        made = DEGRADATIONS[self.task.degradation].protocol.format(self.level)
        source = made if self.lr_files is None else "LR files"
        crop = f", centre {self.crop}x{self.crop}" if self.crop else ""
        against = ", against the teacher" if self.teacher else ""
        return f"{self.task.protocol}, {source}{crop}{against}"

    def __iter__(self) -> Iterator[Example]:
        """Yields the examples.

        Raises:
            UserError: A file cannot be read, is too small to be scored, or does not fit its LR
                file.
        """
        make = DEGRADATIONS[self.task.degradation].benchmark
        for i, name in enumerate(_names(self.files)):
            hq, lq = self._pixels(i)
            digest = self._digest(hq, lq)
            scale = self.task.scale
            least = max(scale, 2 * self.task.border + 1)
            if min(size // scale * scale for size in hq.shape[:2]) < least:
                raise UserError(
                    f"{self.files[i]} is {_size(hq)} pixels, too small for {self.task.name} scored "
                    f"with a border of {self.task.border}; remove it from the set."
                )
            if lq is None:
                lq, hq = make(hq, scale, self.level)
            else:
                assert self.lr_files is not None
                if lq.shape[:2] != (hq.shape[0] // scale, hq.shape[1] // scale):
                    raise UserError(
                        f"{self.lr_files[i]} is {_size(lq)} pixels, which is not {self.files[i]} "
                        f"({_size(hq)}) reduced {scale} times; replace one of them."
                    )
                hq = hq[: lq.shape[0] * scale, : lq.shape[1] * scale]
            if self.teacher is not None:
                hq = self.teacher.restore(lq)
            yield Example(name, lq, hq, digest)

    def fingerprint(self) -> str:
        """A hash of the pixels of all images, independent of their folder.

        Raises:
            UserError: A file cannot be read, or is too small for its centre crop.
        """
        return fingerprint(self._digest(*self._pixels(i)) for i in range(len(self)))

    def _digest(self, hq: np.ndarray, lq: np.ndarray | None) -> bytes:
        """A hash of what an image is scored against."""
        own = self.teacher.fingerprint.encode() if self.teacher else b""
        return _digest(hq, lq) + own

    def _pixels(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """HR image and LR file, in the channels that are scored; None if there is no LR file.

        In a colour task, a grey picture keeps its one channel: it is scored on its own values.
        """
        read = read_pixels if self.task.channels == 3 else self._grey
        hq = self._cropped(read(self.files[index]), self.files[index])
        if self.lr_files is None:
            return hq, None
        lq = read(self.lr_files[index])
        if lq.shape[-1] > hq.shape[-1]:  # the HR image decides whether a pair is grey
            lq = to_uint8(grey_of_rgb(lq.astype(np.float32)))
        return hq, np.broadcast_to(lq, (*lq.shape[:2], hq.shape[-1]))

    def _grey(self, file: Path) -> np.ndarray:
        return read_image(file, 1, full_range=self.task.grey)

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
    """Finds benchmark sets, each once per level of the task; see ``load_set``."""
    levels = task.levels or (0,)
    return [
        load_set(name, data_dir, task, level) for name in dict.fromkeys(names) for level in levels
    ]


def load_set(name: str, data_dir: str | Path, task: Task, level: int = 0) -> BenchmarkSet:
    """Finds a benchmark set.

    A set ``NAME`` is a folder of HR images, ``NAME/*.png`` or ``NAME/HR/*.png``. The task makes the
    inputs from them; for super-resolution, by the MATLAB-exact bicubic after cropping to a multiple
    of the scale. If ``NAME/LR_bicubic/X2/*x2.png`` exists beside ``NAME/HR`` and the task has no
    levels, these are the inputs. "samples" are the held-out images of the package. ``NAME@500``
    takes the 500x500 pixels in the middle of each image, from row (H - 500) // 2 and column (W -
    500) // 2.

    Args:
        name: "samples" or a folder's name.
        data_dir: The folder that holds the set; "" means the environment variable BINSR_DATA.
        task: What is restored.
        level: The strength of the degradation; 0 means the task's first level, if it has any.

    Raises:
        UserError: The folder is missing or has no images, or an HR image has no LR image.
    """
    level = level or (task.levels[0] if task.levels else 0)
    title = scored_set(name, level)
    name, at, side = name.rpartition("@") if "@" in name else (name, "", "0")
    if not side.isdecimal() or (at and not int(side)):
        raise UserError(
            f"The benchmark set {name}@{side} has no valid size: after @ write the side of the "
            "centre crop, as in Kodak24@500."
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
    lr_files = pair_up(files, list_images(lr), lr, task.scale)
    return BenchmarkSet(title, task, files, tuple(lr_files))


def _folder(name: str, data_dir: str, task: Task) -> Path:
    """The folder of a set under the data directory."""
    data_dir = data_dir or os.environ.get("BINSR_DATA", "")
    if not data_dir:
        raise UserError(
            f"No folder is given that holds the benchmark set {name}: set --data-dir, "
            "config.eval.data_dir or the environment variable BINSR_DATA."
        )
    root = expanded(data_dir)
    if not root.is_dir():
        raise UserError(
            f"There is no folder {root} for the benchmark set {name}: set --data-dir to the folder "
            "of the sets."
        )
    if not (root / name).is_dir():
        raise UserError(
            f"There is no benchmark set {name} in {root}: it must be {_layouts(name, task)}."
        )
    return root / name


def _layouts(name: str, task: Task) -> str:
    if task.scale == 1:
        return f"a folder of images {name}/*.png"
    return (
        f"a folder of HR images {name}/*.png, or {name}/HR/*.png with "
        f"{name}/LR_bicubic/X{task.scale}/*x{task.scale}.png"
    )


def fingerprint(digests: Iterable[bytes]) -> str:
    """A hash of the images with these digests, independent of their order."""
    return hashlib.blake2b(b"".join(sorted(digests)), digest_size=8).hexdigest()


def _digest(hq: np.ndarray, lq: np.ndarray | None) -> bytes:
    """A hash of the pixels of an image, and of its LR image if it has one."""
    found = hashlib.blake2b(digest_size=16)
    for image in (hq, lq):
        if image is not None:
            found.update(f"{image.shape}".encode())
            found.update(np.ascontiguousarray(image).data)
    return found.digest()


def _names(files: Sequence[Path]) -> list[str]:
    """Names for images: the stems of their files, or the whole names if stems are equal.

    They are safe to print: without control characters and bytes that are not UTF-8.
    """
    stems = [printable(file.stem) for file in files]
    if len(set(stems)) == len(stems):
        return stems
    names = [printable(file.name) for file in files]
    return [
        stem if stems.count(stem) == 1 and stem not in names else name
        for stem, name in zip(stems, names, strict=True)
    ]


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
