"""The common part of all networks: head, body of units, tail, and the two halves of inference."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from binsr_jax.nn.fence import chain
from binsr_jax.nn.units.base import unit_progress
from binsr_jax.ops.binarize import Progress

Factory = Callable[..., nn.Module]

# The factors of the pixel shuffles that make up each upscaling factor.
UPSAMPLING_STEPS = {1: (), 2: (2,), 3: (3,), 4: (2, 2)}

LEAKY_SLOPE = 0.1

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "none": lambda x: x,
    "relu": nn.relu,
    "leaky_relu": lambda x: nn.leaky_relu(x, LEAKY_SLOPE),
}


class Backbone(nn.Module, kw_only=True):
    """A network for images: ``[B, h, w, C]`` in 0..1 to ``[B, s h, s w, C]``, not clipped.

    Inference runs the two halves ``extract`` and ``reconstruct`` one after the other. The
    intermediates of ``reconstruct`` may be far larger than its input, so it runs in strips of rows.

    Attributes:
        head: Makes the first convolution, to the body's number of features: ``head(x, progress)``.
        unit: Makes one unit of the body (see ``binsr_jax.nn.units.base``).
        units: The number of units.
        tail: Makes the last convolution, back to an image: ``tail(x, progress)``.
        scale: The upscaling factor s.
        amplification: k, by which the image is multiplied at the input and divided at the output:
            equation 10 of the attention paper (see ``binsr_jax.ops.binarize``). BBCU has it too.
        head_activation: The activation after the head, a key of ``ACTIVATIONS``.
        progressive: How the units become binary; see ``unit_progress``.
        progressive_until: The fraction of training after which they are; see ``unit_progress``.
        scan: Whether equal units run as a loop; see ``binsr_jax.nn.fence.chain``.
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
        """The number of input pixels per feature pixel along a side; both halves need multiples."""
        return 1

    @property
    def overlap(self) -> int | None:
        """A halo in pixels, smaller than the reach, with which a tile is nearly exact; or None.

        None means that there is no such halo: in a network with signs, a small difference can flip
        a sign and so become a large one.
        """
        return None

    def reach(self, params: Any, tail: Any) -> tuple[int, int]:
        """The receptive field's radius: the network's in input pixels, ``reconstruct``'s in rows.

        Both are upper bounds: the sum of ``kh // 2`` over all kernels ``[kh, kw, ...]``. No path
        passes a convolution twice, and none has coarser pixels than the input.

        Args:
            params: The network's parameters.
            tail: Those of them that ``reconstruct`` uses.
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
        """The output of an image x and its features, with a receptive field of a few pixels.

        The binary parts of this half compute with signs throughout training, even if the body is
        binarised progressively. Only the gradient of balanced weights depends on ``progress``.
        """
        raise NotImplementedError

    def held_scale(self, features: jax.Array) -> int:
        """How many times higher than its input the intermediates of ``reconstruct`` are.

        Intermediates of which it holds only a few rows at a time do not count. 1: no strips needed.
        """
        return self.stride * self.scale

    def parts(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The units in a row and the upsamplers, bound; for programs that run them elsewhere."""
        return list(self._body), []

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
        """The output of the units in a row, each with its own progress; ``+ x`` with ``skip``."""
        own = [
            unit_progress(progress, self.progressive, self.progressive_until, i, len(units))
            for i in range(len(units))
        ]
        return chain(units, x, train, own, self.scan, skip)


def pad_to_multiple(x: jax.Array, multiple: int) -> jax.Array:
    """Images ``[B, h, w, C]``, extended by mirroring until both sides are multiples.

    The new rows are at the bottom and the new columns at the right.
    """
    bottom, right = (-side % multiple for side in x.shape[1:3])
    if not (bottom or right):
        return x
    return jnp.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="reflect")
