"""What all networks share: a head, a body of units, a tail, and the two halves they run in."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from binsr_jax.nn.fence import chain
from binsr_jax.nn.units.base import unit_progress
from binsr_jax.ops.binarize import Progress

Factory = Callable[..., nn.Module]

# How each factor is built up from steps of pixel shuffle.
UPSAMPLING_STEPS = {1: (), 2: (2,), 3: (3,), 4: (2, 2)}

LEAKY_SLOPE = 0.1

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "none": lambda x: x,
    "relu": nn.relu,
    "leaky_relu": lambda x: nn.leaky_relu(x, LEAKY_SLOPE),
}


class Backbone(nn.Module, kw_only=True):
    """A network: called with images ``[B, h, w, C]`` in 0..1, it gives ``[B, s h, s w, C]``.

    The output is not clipped. The two halves, ``extract`` and ``reconstruct``, are what inference
    runs: the second, whose intermediates may be far larger than its input, in strips of rows.

    Attributes:
        head: makes the first convolution, to the body's number of features: ``head(x, progress)``.
        unit: makes one unit of the body (see ``binsr_jax.nn.units.base``).
        units: how many there are.
        tail: makes the last convolution, back to an image: ``tail(x, progress)``.
        scale: s.
        amplification: k of BBCU's equation 10: one factor at the input, undone at the output.
        head_activation: a key of ``ACTIVATIONS``.
        progressive, progressive_until: how units become binary; see ``unit_progress``.
        scan: works equal units in a loop; see ``binsr_jax.nn.fence.chain``.
    """

    head: Factory
    unit: Factory
    units: int
    tail: Factory
    scale: int
    amplification: float
    head_activation: str
    progressive: str = "none"
    progressive_until: float = 1.0
    scan: bool = False

    def setup(self) -> None:
        self._head = self.head(name="head")
        self._body = [self.unit(name=f"body_{i}") for i in range(self.units)]
        self._tail = self.tail(name="tail")

    @property
    def stride(self) -> int:
        """Pixels of the input's sides for one of the features': the halves take multiples of it."""
        return 1

    @property
    def overlap(self) -> int | None:
        """Pixels around a tile that make it nearly exact, if fewer than its reach can.

        None where the network has signs: one that flips makes a large difference of a small one.
        """
        return None

    def reach(self, params: Any, tail: Any) -> tuple[int, int]:
        """How far the network looks at most, in pixels of its input, and ``reconstruct``, in rows.

        No path passes a convolution twice, and none has coarser pixels than the input: so it is no
        further than half the heights of all kernels (``[kh, kw, ...]``) together.

        Args:
            params: of the network.
            tail: those of them that ``reconstruct`` uses.
        """
        whole, part = (
            sum(leaf.shape[0] // 2 for leaf in jax.tree.leaves(tree) if leaf.ndim == 4)
            for tree in (params, tail)
        )
        return whole, part

    def __call__(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        padded = pad_to_multiple(x, self.stride)
        y = self.reconstruct(self.extract(padded, train, progress), padded, progress)
        return y[:, : self.scale * x.shape[1], : self.scale * x.shape[2]]

    def extract(self, x: jax.Array, train: bool = False, progress: Progress = 0.0) -> jax.Array:
        """The features of an image: ``[B, h, w, C] -> [B, h / stride, w / stride, features]``."""
        raise NotImplementedError

    def reconstruct(self, features: jax.Array, x: jax.Array, progress: Progress = 0.0) -> jax.Array:
        """The output for an image and its features; looks at a few pixels around each alone.

        Its binary parts have signs from the start, also where the body's come progressively; what
        ``progress`` changes is the gradient of balanced weights.
        """
        raise NotImplementedError

    def reconstructs_by_rows(self, features: jax.Array) -> bool:
        """Whether ``reconstruct`` itself has few rows of its intermediates at a time."""
        return False

    def _embed(self, x: jax.Array, progress: Progress) -> jax.Array:
        """``act(head(x))``."""
        return ACTIVATIONS[self.head_activation](self._head(x, progress))

    def _through(
        self,
        units: Sequence[nn.Module],
        x: jax.Array,
        train: bool,
        progress: Progress,
        skip: bool = False,
    ) -> jax.Array:
        """One unit after the other, each with its own progress; ``+ x`` with ``skip``."""
        own = [
            unit_progress(progress, self.progressive, self.progressive_until, i, len(units))
            for i in range(len(units))
        ]
        return chain(units, x, train, own, self.scan, skip)


def pad_to_multiple(x: jax.Array, multiple: int) -> jax.Array:
    """Images ``[B, h, w, C]``, mirrored at the bottom and at the right until they are multiples."""
    bottom, right = (-side % multiple for side in x.shape[1:3])
    if not (bottom or right):
        return x
    return jnp.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="reflect")
