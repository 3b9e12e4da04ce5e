"""Makes training batches from image pairs, with Grain.

The sequence of batches is a function of (config.seed, step) alone. A run that starts at any step,
with any number of worker processes and hosts, sees the same patches in the same order.
"""

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator

import grain
import numpy as np
from absl import flags, logging

from binsr_jax.config import FIELDS, Config
from binsr_jax.data.cache import PairCache
from binsr_jax.data.degradations import DEGRADATIONS
from binsr_jax.data.pairs import RandomDegradation
from binsr_jax.data.sources import open_mixture, some
from binsr_jax.errors import UserError
from binsr_jax.fields import check
from binsr_jax.tasks import task_of

Batch = dict[str, np.ndarray]

# Batches that each process prepares ahead; Grain's default of 500 would take gigabytes.
_READING = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)


class RandomPatch:
    """Cuts the same random patch out of both images of a pair, flipped and rotated at random.

    The corner is uniform over the LQ pixel grid. With flips and rotations, the eight symmetries of
    the square are equally likely. If the task degrades patches, that is done last.
    """

    def __init__(
        self,
        source: PairCache,
        patch: int,
        flip: bool,
        rotate: bool,
        degrade: RandomDegradation | None = None,
    ):
        """Takes settings as in ``config.data``; the scale divides ``patch``, the HQ side."""
        self._source, self._patch, self._flip, self._rotate = source, patch, flip, rotate
        self._degrade = degrade

    def __call__(self, index: int, rng: np.random.Generator) -> Batch:
        """A patch of image ``index``: {"lq": ``[p / s, p / s, C]``, "hq": ``[p, p, C]``}.

        Both are uint8, unless the degradation makes floats.
        """
        lq, hq = self._source[index]
        scale, patch = self._source.scale, self._patch
        if self._degrade is not None:
            patch += self._degrade.margin
        side = patch // scale
        top, left = (rng.integers(size - side + 1) for size in lq.shape[:2])
        mirrored = self._flip and rng.integers(2)
        turns = int(rng.integers(4)) if self._rotate else 0

        def cut(image: np.ndarray, step: int) -> np.ndarray:
            patch = image[step * top : step * (top + side), step * left : step * (left + side)]
            patch = patch[:, ::-1] if mirrored else patch
            return np.ascontiguousarray(np.rot90(patch, turns))

        if self._degrade is None:
            return {"lq": cut(lq, 1), "hq": cut(hq, scale)}
        low, high = self._degrade(cut(hq, 1), rng)
        return {"lq": low, "hq": high}


@contextlib.contextmanager
def training_batches(
    config: Config,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    mixture: list[tuple[PairCache, float]] | None = None,
) -> Iterator[Iterator[Batch]]:
    """Yields an endless iterator over training batches, as a context that stops its workers.

    If there are several sources (``data.sources``), each gives its weight's share of any run of
    patches. Images are shuffled anew in every epoch, and each gives one random patch
    (``RandomPatch``). ``config.train.batch`` consecutive patches are the global batch of a step.
    Process p of n gets its rows p B/n to (p + 1) B/n - 1. Images with a side shorter than the patch
    are skipped.

    With ``config.data.workers`` > 0 the main script needs an ``if __name__ == "__main__"`` guard,
    because worker processes are spawned.

    Args:
        config: All settings; ``seed``, ``task``, ``scale``, ``train.batch`` and ``data`` are read.
        start_step: The step of the first batch.
        process_index: The index of this process (host).
        process_count: How many processes share a batch.
        mixture: The result of ``open_mixture``, which is called if this is None.

    Yields:
        Iterator of {"lq": float32 ``[b, h, w, C]``, "hq": float32 ``[b, s h, s w, C]``} in 0..1;
        with noise, "lq" goes beyond.

    Raises:
        UserError: Settings contradict one another, no image is as large as a patch, or the source
            cannot be opened.
        ValueError: There is no such step or process.
    """
    if start_step < 0 or not 0 <= process_index < process_count:
        raise ValueError(f"no step {start_step} for process {process_index} of {process_count}")
    _check(config, process_count)
    mixture = mixture or open_mixture(config)
    patches = [_patches(config, source, i) for i, (source, _) in enumerate(mixture)]
    if len(mixture) > 1:
        mixed = grain.MapDataset.mix(patches, weights=[weight for _, weight in mixture])
    else:
        mixed = patches[0]
    batches = (
        mixed
        # Batches of consecutive patches; the processes take them in turn. Together they are the
        # global batch.
        .batch(config.train.batch // process_count, drop_remainder=True)
        .slice(slice(process_index, None, process_count))
        .slice(slice(start_step, None))
        .to_iter_dataset(_READING)
    )
    if config.data.workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's own flags, when no absl app has done it
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=config.data.workers, per_worker_buffer_size=2),
            worker_init_fn=_end_with_parent,
        )
    # Workers send bytes rather than floats where possible: a quarter of the memory to copy.
    iterator = iter(batches.map(_to_float))
    try:
        yield iterator
    finally:
        iterator.close()


def _patches(config: Config, source: PairCache, number: int) -> grain.MapDataset:
    """An endless sequence of random patches; each source has its own random numbers."""
    data = config.data
    training = DEGRADATIONS[task_of(config).degradation].training
    degrade = training(config) if training is not None and not source.degraded else None
    least = data.patch + (degrade.margin if degrade is not None else 0)
    return (
        grain.MapDataset.source(_large_enough(source, data.patch, least))
        .seed((config.seed + number) % 2**32)
        .shuffle()
        .repeat()
        .random_map(RandomPatch(source, data.patch, data.flip, data.rotate, degrade))
    )


def _to_float(batch: Batch) -> Batch:
    return {
        key: images.astype(np.float32) / np.float32(255) if images.dtype == np.uint8 else images
        for key, images in batch.items()
    }


def _end_with_parent(worker_index: int, worker_count: int) -> None:
    """Ends a worker process when its parent has died, even by SIGKILL; Grain's would stay."""
    del worker_index, worker_count
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _check(config: Config, process_count: int) -> None:
    patch, batch = config.data.patch, config.train.batch
    if patch < 1 or patch % config.scale:
        raise UserError(
            f"config.data.patch is {patch}, but must be a positive multiple of the scale, "
            f"{config.scale}."
        )
    if batch < 1 or batch % process_count:
        raise UserError(
            f"config.train.batch is {batch}, but must be a positive multiple of the number of "
            f"processes, {process_count}."
        )
    check({name: FIELDS[name] for name in ("seed", "data.workers")}, config)


def _large_enough(source: PairCache, patch: int, least: int) -> list[int]:
    """Indices of the images with sides of at least ``least``: a patch and its margin."""
    shortest = [min(size) for size in source.sizes]
    small = [name for name, side in zip(source.names, shortest, strict=True) if side < least]
    if len(small) == len(source):
        margin = f" (and {least - patch} more for its margin)" if least > patch else ""
        raise UserError(
            f"config.data.patch is {patch}{margin}, but the largest of {len(source)} training "
            f"images has a shortest side of {max(shortest)} pixels; set a smaller patch."
        )
    if small:
        logging.warning(
            "Skipping %d of %d images with a side under %d pixels: %s.",
            len(small),
            len(source),
            least,
            some(small),
        )
    return [i for i, side in enumerate(shortest) if side >= least]
