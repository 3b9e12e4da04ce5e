"""Prepares a network for a smaller file in training: rounding, and a penalty on its scales."""

from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from binsr_jax import models
from binsr_jax.config import Config
from binsr_jax.errors import UserError
from binsr_jax.ops.binarize import mean_weight_scale
from binsr_jax.ops.quantise import rounded

_FACTOR = "binary_scale"  # the factor of a unit's binary branch


def with_rounding(config: Config, params: Any) -> Any:
    """The parameters as a model file with ``config.train.floats`` holds them.

    Latent weights stay: only their signs are stored. So do scales that are means of them.
    """
    if config.train.floats == "float32":
        return params
    latent = models.binary_kernels(config)
    flat: dict[tuple[str, ...], Any] = flatten_dict(params)
    return unflatten_dict(
        {
            path: value if path in latent else rounded(jnp.asarray(value), config.train.floats)
            for path, value in flat.items()
        }
    )


def sparsity_penalty(config: Config, params: Any) -> jax.Array:
    """The mean of ``|branch factor|`` over units, plus the mean of weight scales over channels.

    A weight scale is the parameter, or ``mean |w|`` of the latent weights of its channel.
    """
    flat: dict[tuple[str, ...], Any] = flatten_dict(params)
    factors = [jnp.abs(value) for path, value in flat.items() if path[-1] == _FACTOR]
    weight_scales = []
    for path in sorted(models.binary_kernels(config)):
        stored = flat.get((*path[:-1], "scale"))
        weight_scales.append(mean_weight_scale(flat[path]) if stored is None else jnp.abs(stored))
    if not weight_scales:
        raise UserError(
            f"config.train.sparsity is {config.train.sparsity}, but this network has no binary "
            "convolutions: leave it at 0."
        )
    total = jnp.concatenate(weight_scales).mean()
    return total + jnp.stack(factors).mean() if factors else total
