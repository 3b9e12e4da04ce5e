"""Records the activations that enter units and leave their convolutions, on a batch."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from binsr_jax import models
from binsr_jax.config import Config
from binsr_jax.nn.binary import BinaryConv
from binsr_jax.nn.units.base import Unit
from binsr_jax.nn.upsamplers import BinaryUpsampler

Path = tuple[str, ...]
_ENTERS, _LEAVES = "enters", "leaves"


@dataclass(frozen=True)
class Watched:
    """Activations ``[B, H, W, C]``, by the path of the module in the network.

    Attributes:
        entering: The inputs of units and binary upsamplers.
        leaving: The outputs of binary convolutions, after their normalisation.
    """

    entering: dict[Path, np.ndarray]
    leaving: dict[Path, np.ndarray]


def watch(config: Config, variables: dict[str, Any], images: np.ndarray) -> Watched:
    """The activations of a network, in inference.

    Args:
        config: The config of the network.
        variables: The variables of ``models.build(config)``.
        images: Images ``[B, h, w, C]``, float32.
    """
    model = models.build(config)

    # The functions of fenced units are compiled once, together with the observer, so there is only
    # this one way to do it.
    def look(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        result = call(*args, **kwargs)
        if context.method_name == "__call__":
            if isinstance(context.module, Unit | BinaryUpsampler):
                context.module.sow("intermediates", _ENTERS, args[0])
            elif isinstance(context.module, BinaryConv):
                context.module.sow("intermediates", _LEAVES, result)
        return result

    with nn.intercept_methods(look):
        _, found = jax.jit(partial(model.apply, train=False, mutable=["intermediates"]))(
            variables, jnp.asarray(images), progress=jnp.float32(1)
        )
    sown: dict[Path, Any] = flatten_dict(found["intermediates"])

    def named(name: str) -> dict[Path, np.ndarray]:
        return {path[:-1]: np.asarray(v[0]) for path, v in sown.items() if path[-1] == name}

    return Watched(named(_ENTERS), named(_LEAVES))
