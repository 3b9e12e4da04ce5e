"""A packed network as a list of native calls and sums; it runs on any size without compilation.

XLA compiles a network anew for every shape of image, which takes longer than a small image does.
But a packed network of chains (``ops.branch``) consists of few native calls. So it is traced once,
and its steps then run on numpy arrays of any shape. The output equals that of XLA's program to the
last bit: the native calls are the same, and a sum, a product or a comparison of two floats has only
one result.

A program is written to a file and read without JAX: see ``deploy.loading``.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from binsr_jax.ops.image import pixel_shuffle, reduced_precision, upsample_bilinear
from binsr_jax.ops.native import choose, direct

# The rows that `reconstruct` computes at a time: few enough for an intermediate to stay in the
# cache, and many enough for their overlap to cost little.
_STRIP_BYTES, _STRIP_ROWS = 16 << 20, 64

# Elementwise steps process strips of this many bytes at a time, which stay in a core's cache. For
# more than 128 KB malloc asks the system, and each page of an intermediate result costs a fault. So
# few strips take less time than Python's threads take to wake.
_CACHED_BYTES, _FEW_STRIPS = 64 << 10, 16

_LINE, _HUGE_PAGE = 64, 2 << 20  # bytes

# At least this number of rows is enlarged together, since one more is read on each side.
_ENLARGED_ROWS = 8

# Elementwise operations by JAX's names. The operands have the same shape, or one of them has a
# single pixel.
ELEMENTWISE: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "max": np.maximum,
    "ge": np.greater_equal,
    "gt": np.greater,
    "select_n": lambda which, no, yes: np.where(which, yes, no),
    "reduce_precision": reduced_precision,
}
ATTENDED = "packed_attended"  # its last input are means over the image, and so is its second result
KERNELS = ("float_conv", "packed_branch", "packed_chain", ATTENDED, "packed_upsample")
# Steps that ``fusing`` makes from several others. The result of the second one may reuse the memory
# of its first input.
FLOAT_LAYER, IMAGE_SKIP = "float_layer", "image_skip"
# Functions of an array and a factor that enlarge, by their names in ``ops.upsampling``.
ENLARGING: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "upsample_bilinear": upsample_bilinear,
    "pixel_shuffle": pixel_shuffle,
}


@dataclass(frozen=True)
class Step:
    """A step of a program.

    Attributes:
        name: A key of ``ELEMENTWISE`` or of ``ENLARGING``, or one of ``KERNELS``.
        inputs: The numbers of its inputs.
        output: The number of its output.
        attributes: The attributes of a kernel.
        size: The factor between the sides of the output and of the image.
        channels: The channels of the output.
    """

    name: str
    inputs: tuple[int, ...]
    output: int
    attributes: dict[str, int | bool | str]
    size: int
    channels: int


@dataclass(frozen=True)
class Half:
    """One of the two halves of a network: see ``models.backbone.Backbone``.

    Attributes:
        steps: The steps, in their order.
        constants: Values that do not depend on the image, by number.
        inputs: The numbers of the inputs.
        output: The number of the result.
    """

    steps: tuple[Step, ...]
    constants: dict[int, np.ndarray]
    inputs: tuple[int, ...]
    output: int

    @property
    def pooling(self) -> tuple[Step, ...]:
        """The steps that take means over the image."""
        attended = (step for step in self.steps if step.name == ATTENDED)
        return tuple(step for step in attended if self.constants[step.inputs[-1]].shape[2])

    def __call__(self, *inputs: np.ndarray, pooled: dict[int, np.ndarray] | None = None):
        """The result for these inputs, ``[1, H, W, C]`` each.

        Args:
            inputs: the images.
            pooled: the means that steps take, by the numbers of their outputs. Missing ones are
                computed and added.
        """
        pooled = {} if pooled is None else pooled
        values = {**self.constants, **dict(zip(self.inputs, inputs, strict=True))}
        last_use = {number: i for i, step in enumerate(self.steps) for number in step.inputs}
        last_use[self.output] = len(self.steps)
        kept = self.constants.keys() | set(self.inputs)
        done = 0
        for (elementwise, size), group in itertools.groupby(self.steps, _kind):
            steps = list(group)
            done += len(steps)
            free = {n for n in values if last_use.get(n, -1) < done and n not in kept}
            sides = tuple(size * side for side in inputs[0].shape[1:3])
            if elementwise:
                needed = {step.output for step in steps if last_use[step.output] >= done}
                _elementwise(steps, sides, values, needed, free)
            else:
                for i, step in enumerate(steps, done - len(steps)):
                    taken, first = [values[n] for n in step.inputs], step.inputs[0]
                    if step.name == ATTENDED:
                        made, means = _attended(step, taken, pooled.get(step.output))
                        values[step.output], pooled[step.output] = made, means
                        continue
                    reused = step.name == IMAGE_SKIP and first not in kept and last_use[first] == i
                    values[step.output] = _made(step, sides, taken, taken[0] if reused else None)
            for number in free:
                del values[number]
        return values[self.output]


@dataclass(frozen=True)
class Program:
    """A network that runs without XLA; a ``deploy.upscaler.TileEngine``.

    Attributes:
        extract: The half from an image to features.
        reconstruct: The half from features and the image to the output.
        halo: The rows beside a row of output that ``reconstruct`` needs.
        scale: See ``deploy.engine.Engine``, also for the attributes below.
        channels: See there.
        radius: See there.
        bytes_per_pixel: See there.
    """

    extract: Half
    reconstruct: Half
    halo: int
    scale: int
    channels: int
    radius: int
    bytes_per_pixel: float

    # A network with a stride or without signs is no program.
    stride = 1
    overlap = None

    @property
    def global_pooling(self) -> bool:
        """Whether the network takes means over the whole image, in its first half."""
        return bool(self.extract.pooling)

    def run(self, image: np.ndarray, pooled: Any = None) -> np.ndarray:
        """Restores an image: float32 ``[h, w, channels]`` to ``[scale h, scale w, channels]``.

        Args:
            image: The image.
            pooled: The result of ``pooled_of`` for the whole image, if this is a tile of it.

        Raises:
            ValueError: The image has another shape.
            TypeError: The image is not float32.
        """
        check_image(image, self.channels)
        x = image[None]
        features = self.extract(x, pooled=dict(pooled or {}))
        # Only enlarged features count, not images. ``packed_upsample`` holds a few rows of them.
        held = (step.size for step in self.reconstruct.steps if step.channels > self.channels)
        largest = max(held, default=1)
        height, rows = len(image), strip_rows(features.shape, largest)
        if largest == 1 or height <= rows + 2 * self.halo:
            return self.reconstruct(features, x)[0]
        y = _empty((height * self.scale, x.shape[2] * self.scale, self.channels))
        for top in range(0, height, rows):
            start, end = max(0, top - self.halo), min(height, top + rows)
            seen = slice(start, end + self.halo)
            part = self.reconstruct(features[:, seen], x[:, seen])[0]
            kept = part[(top - start) * self.scale : (end - start) * self.scale]
            y[top * self.scale : end * self.scale] = kept
        return y

    def pooled_of(self, image: np.ndarray) -> Any:
        """The means over an image, which ``run`` takes for its tiles."""
        check_image(image, self.channels)
        pooled: dict[int, np.ndarray] = {}
        if self.global_pooling:
            self.extract(image[None], pooled=pooled)
        return pooled


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    """A new float32 array that begins with a cache line, or with a huge page if it is that large.

    So a vector touches one line rather than two. numpy asks for huge pages, which start at their
    multiples; what is before the start is never touched and takes no memory.
    """
    size = 4 * math.prod(shape)
    start = _HUGE_PAGE if size >= _HUGE_PAGE else _LINE
    y = np.empty((size + start) // 4, np.float32)
    first = -y.ctypes.data % start // 4
    return y[first : first + size // 4].reshape(shape)


def check_image(image: np.ndarray, channels: int) -> None:
    """Raises ValueError or TypeError if an image is not float32 ``[h, w, channels]``."""
    if image.ndim != 3 or image.shape[-1] != channels or 0 in image.shape:
        raise ValueError(f"an image must be [h, w, {channels}], not {image.shape}")
    if image.dtype != np.float32:
        raise TypeError(f"an image must be float32, not {image.dtype}")


def strip_rows(features: Sequence[int], scale: int) -> int:
    """The number of rows of features that are reconstructed at a time, without the halo.

    Args:
        features: The shape of the features.
        scale: The factor between the sides of the largest intermediate and of the features.
    """
    row = 4 * features[-1] * features[-2] * scale  # bytes, of an intermediate
    return max(1, max(_STRIP_ROWS, _STRIP_BYTES // row) // scale)


def _kind(step: Step) -> tuple[bool, int]:
    """The kind and size of a step; consecutive steps with the same ones run together."""
    return step.name in ELEMENTWISE, step.size


def _made(
    step: Step, sides: tuple[int, ...], inputs: Sequence[np.ndarray], y: np.ndarray | None
) -> np.ndarray:
    """The output of a step that is not elementwise; a kernel writes it to y, if that is given."""
    if step.name in ENLARGING:
        return _enlarged(step, inputs[0], sides[0] // inputs[0].shape[1])
    if y is None:
        y = _empty((len(inputs[0]), *sides, step.channels))
    direct.call(choose.chosen_form(), step.name, inputs, step.attributes, y)
    return y


def _attended(
    step: Step, inputs: Sequence[np.ndarray], given: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The output of units with attention, and the means that they took."""
    *rest, means = inputs
    y = _empty(rest[0].shape)
    batch, _, count, channels = means.shape
    taken = np.empty((batch, len(rest[1]), count, channels), np.float32)
    arrays = (*rest, means if given is None else given)
    direct.call(choose.chosen_form(), step.name, arrays, step.attributes, y, taken)
    return y, taken


def _enlarged(step: Step, x: np.ndarray, factor: int) -> np.ndarray:
    """The output of a step that enlarges: a row depends on its neighbours only.

    All threads compute it, a few rows at a time.
    """
    _, height, width, _ = x.shape
    y = _empty((1, height * factor, width * factor, step.channels))
    rows = max(_ENLARGED_ROWS, _CACHED_BYTES // (4 * width * step.channels * factor**2))

    def work(top: int) -> None:
        start, count = max(0, top - 1), min(rows, height - top)
        part = ENLARGING[step.name](x[:, start : top + count + 1], factor)
        kept = slice((top - start) * factor, (top - start + count) * factor)
        y[:, top * factor : (top + count) * factor] = part[:, kept]

    _on_threads(work, range(0, height, rows))
    return y


def _elementwise(
    steps: Sequence[Step],
    sides: tuple[int, ...],
    values: dict[int, np.ndarray],
    outputs: set[int],
    free: set[int],
) -> None:
    """Runs elementwise steps, a few rows at a time, and adds their needed outputs to ``values``.

    Args:
        steps: One or more consecutive steps.
        sides: The height and width of all their outputs.
        values: All values so far, by number.
        outputs: The numbers of the values that later steps need.
        free: The numbers of values that no later step needs; outputs reuse their memory.
    """
    height, width = sides
    read = {n for step in steps for n in step.inputs if n in values}
    whole = {n for n in read if values[n].ndim == 4 and values[n].shape[1:3] == sides}
    spare = [values[n] for n in sorted(whole & free)]
    made = {}
    for step in steps:
        if step.output in outputs:
            shape = (1, height, width, step.channels)
            fitting = (i for i, array in enumerate(spare) if array.shape == shape)
            place = next(fitting, None)
            made[step.output] = _empty(shape) if place is None else spare.pop(place)
    rows = max(1, _CACHED_BYTES // (4 * width * max(step.channels for step in steps)))
    # Channels are few, so arrays are computed as rows of floats, for which constants are repeated.
    lines = {n: values[n].reshape(height, -1) for n in whole}
    others = {n: _repeated(values[n], width) for n in read - whole}
    results = {n: array.reshape(height, -1) for n, array in made.items()}

    def work(top: int) -> None:
        strip = slice(top, top + rows)
        local = others | {n: line[strip] for n, line in lines.items()}
        for step in steps:
            local[step.output] = ELEMENTWISE[step.name](*(local[n] for n in step.inputs))
        for number, line in results.items():
            line[strip] = local[number]

    _on_threads(work, range(0, height, rows))
    values.update(made)


def _repeated(pixel: np.ndarray, width: int) -> np.ndarray:
    """The channels of a pixel for each pixel of a row; or the one number of all channels."""
    return pixel.reshape(()) if pixel.size == 1 else np.tile(pixel.reshape(-1), width)


def _on_threads(work: Callable[[int], None], tops: Sequence[int]) -> None:
    if len(tops) <= _FEW_STRIPS:
        for top in tops:
            work(top)
        return
    for _ in _threads().map(work, tops):
        pass


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(direct.thread_count())
