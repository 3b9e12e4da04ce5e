"""A packed network as a function of images of any size, to be traced."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from binsr_jax import models
from binsr_jax.deploy.model_file import PackedModel
from binsr_jax.models.backbone import Factory


def function_of(model: PackedModel, conv: Factory) -> tuple[Callable[[jax.Array], jax.Array], int]:
    """The network with its parameters, and the number that both sides of an image are multiples of.

    Args:
        model: the network.
        conv: its binary convolution, one of ``binsr_jax.nn.packed``.

    Returns:
        ``f: [B, h, w, channels]`` in 0..1 to ``[B, scale h, scale w, channels]``, not clipped; and
        the multiple, which is 1 unless the network turns pixels into channels.
    """
    network: Any = models.build(model.config, conv)

    def f(x: jax.Array) -> jax.Array:
        return network.apply({"params": model.params}, x)

    return f, network.stride


@functools.cache  # dimensions of two scopes cannot be compared, and JAX compares them
def free_images(channels: int, multiple: int) -> jax.ShapeDtypeStruct:
    """The type of images ``[b, h, w, channels]`` with sides that are any multiples."""
    b, h, w = _dimensions()
    return jax.ShapeDtypeStruct((b, multiple * h, multiple * w, channels), jnp.float32)


@functools.cache
def _dimensions() -> tuple[Any, ...]:
    return tuple(export.symbolic_shape("b, h, w"))
