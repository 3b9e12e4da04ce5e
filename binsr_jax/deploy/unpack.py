"""Converts a packed network back to one that can be trained: bits become latent weights."""

import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from binsr_jax import models
from binsr_jax.deploy.model_file import PackedModel, load_model_file
from binsr_jax.errors import UserError
from binsr_jax.files import expanded
from binsr_jax.ops.packed import unpack_weights
from binsr_jax.pretrained import NETWORKS, file_of
from binsr_jax.training import trainable
from binsr_jax.training.trainable import Network


def unpack_params(model: PackedModel) -> dict[str, Any]:
    """The parameters of a network that packs to this one.

    A packed kernel has lost its latent weights. They become ``scale * signs``. From these the
    binary convolution computes the same signs and, up to rounding, the same scale, so the network
    is the same. How close each weight was to a change of sign is lost.

    Args:
        model: The result of ``deploy.model_file.load_model_file``.

    Returns:
        The ``params`` of ``models.build(config)``.

    Raises:
        UserError: Batch normalisation was folded into its scales, which cannot be undone.
    """
    variables = models.shapes(model.config)
    if variables.keys() != {"params"}:
        raise UserError(
            f"The batch normalisation of its units ({model.config.model.unit}) is folded into the "
            "scales, so it cannot be trained further: train from the work dir that was packed."
        )
    given: dict[tuple[str, ...], Any] = flatten_dict(model.params)
    params: dict[tuple[str, ...], Any] = {}
    wanted: dict[tuple[str, ...], Any] = flatten_dict(variables["params"])
    for path, leaf in wanted.items():
        w_bits = (*path[:-1], "w_bits")
        if path[-1] != "kernel" or w_bits not in given:
            params[path] = given[path]
            continue
        # A scale of 0 would lose the signs, which training may still need.
        weight_scale = np.maximum(np.abs(given[*path[:-1], "scale"]), np.finfo(np.float32).tiny)
        params[path] = unpack_weights(jnp.asarray(given[w_bits]), leaf.shape[2]) * weight_scale
    return unflatten_dict(params)


def read_network(path: str | os.PathLike[str]) -> Network:
    """The network of a work dir, a trainable file or a model file, to start from or as a teacher.

    A name of ``binsr models`` means the packaged network, if nothing else of this name exists.

    Raises:
        UserError: There is no such network, it is damaged, or it cannot be unpacked.
    """
    if str(path) in NETWORKS and not os.path.lexists(path):
        path = file_of(str(path))
    if Path(path).suffix == trainable.SUFFIX or not expanded(path).is_file():
        return trainable.read_network(path)
    model = load_model_file(path)
    try:
        params = unpack_params(model)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return Network(model.config, {"params": params}, model.provenance)
