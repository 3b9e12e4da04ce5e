"""A network as a function of 8-bit images."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from binsr_jax.errors import NotFiniteError
from binsr_jax.ops.image import grey_of_rgb

Restore = Callable[[np.ndarray], np.ndarray]
"""From an input ``[h, w, C]``, uint8 or float32 in about 0..1, to uint8 ``[s h, s w, C]``."""


def restorer(model: nn.Module, variables: Mapping[str, Any], channels: int = 3) -> Restore:
    """Returns a function that restores an image, with output clipped to 0..1 and rounded to 8 bits.

    A grey image passes through a colour network as three equal channels, and the output is
    converted back to grey. The network is compiled once for each image shape, for any number of
    variables.

    Args:
        model: Takes float ``[1, h, w, channels]`` in 0..1 (see ``binsr_jax.models``).
        variables: Its parameters, and other collections if it has any.
        channels: The number of channels of its input.

    Returns:
        The function. It raises NotFiniteError where the network's output is not finite.
    """

    def restore(image: np.ndarray) -> np.ndarray:
        restored, finite = _restore(model, channels, variables, jnp.asarray(image))
        if not finite:
            raise NotFiniteError
        return np.asarray(restored)

    return restore


@partial(jax.jit, static_argnums=(0, 1))
def _restore(
    model: nn.Module, channels: int, variables: Mapping[str, Any], image: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The restored image, and whether the network's output is finite."""
    x = image[None].astype(jnp.float32) / (255 if image.dtype == jnp.uint8 else 1)
    grey = image.shape[-1] < channels
    if grey:
        x = jnp.repeat(x, channels, axis=-1)
    y = model.apply(variables, x, train=False, progress=jnp.float32(1))
    assert isinstance(y, jax.Array)  # apply returns only this if no collection is mutable
    y = grey_of_rgb(y[0]) if grey else y[0]
    return jnp.round(jnp.clip(y, 0, 1) * 255).astype(jnp.uint8), jnp.isfinite(y).all()
