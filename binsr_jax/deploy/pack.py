"""Packs a trained network: signs become bits, everything else is unchanged."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from binsr_jax import models
from binsr_jax.config import Config
from binsr_jax.deploy.model_file import PackedModel, load_model_file, save_model
from binsr_jax.nn.binary import FOLDED
from binsr_jax.nn.packed import PackedConv
from binsr_jax.tasks import task_of
from binsr_jax.training.trainable import (
    SUFFIX,
    Network,
    load_trainable,
    network_of_run,
    quantised,
    save_trainable,
)


def pack_params(config: Config, variables: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the packed network, from the variables of the trained one.

    Each binary convolution computes its own packed parameters (see ``binsr_jax.nn.binary``): signs
    as bits, a scale and a bias, with normalisation folded into these two. All other parameters are
    the same in both networks.

    The integer convolutions of the two networks are equal. The float arithmetic around them is the
    same, but XLA may round a product and the following sum once in one program and twice in the
    other, and folded values are rounded once more. So the output of a unit differs by at most a few
    2^-24 of its largest term for each of its dozen operations. A sign can flip only if a feature is
    that close to its threshold.

    Args:
        config: The full config of the network.
        variables: The variables of ``models.build(config)``: float32 ``params``, and other
            collections if it has any.

    Returns:
        The ``params`` of ``models.build(config, conv=PackedConv)``.

    Raises:
        UserError: The config describes no network.
        ValueError: The variables do not fit that network.
    """
    network = models.build(config)
    packed_shapes = models.shapes(config, PackedConv)
    _check_shapes(variables, models.shapes(config))
    pixel = jnp.zeros((1, 1, 1, task_of(config).channels))
    # One pixel is enough: its output is not used, so XLA removes the computation.
    folded = jax.jit(lambda v: network.apply(v, pixel, mutable=[FOLDED])[1])(variables)
    given = {**flatten_dict(variables["params"]), **flatten_dict(folded.get(FOLDED, {}))}
    return unflatten_dict({name: given[name] for name in flatten_dict(packed_shapes["params"])})


def _check_shapes(variables: dict[str, Any], wanted: dict[str, Any]) -> None:
    expected: dict[tuple[str, ...], Any] = flatten_dict(wanted)
    given: dict[tuple[str, ...], Any] = flatten_dict(variables)
    for name in sorted(expected.keys() | given.keys()):
        leaf, own = expected.get(name), given.get(name)
        if leaf is None or own is None or leaf.shape != own.shape:
            raise ValueError(f"the variables are not of this network: see {'/'.join(name)}")


def network_at(path: str | os.PathLike[str], which: Literal["best", "latest"] = "best") -> Network:
    """The network of a trainable file, or of a checkpoint of a work dir.

    Raises:
        UserError: There is no such file or checkpoint, or it is damaged.
    """
    return load_trainable(path) if Path(path).suffix == SUFFIX else network_of_run(path, which)


def from_network(network: Network) -> PackedModel:
    """Packs a network from a work dir or a trainable file."""
    params = pack_params(network.config, network.variables)
    return PackedModel(network.config, params, network.provenance)


def pack(
    workdir: str | os.PathLike[str],
    output: str | os.PathLike[str],
    which: Literal["best", "latest"] = "best",
    floats: str = "float32",
    trainable: str | os.PathLike[str] | None = None,
    about: Mapping[str, Any] | None = None,
) -> PackedModel:
    """Writes the model file of a trained network.

    Args:
        workdir: The work dir of its training, or a trainable file.
        output: The model file.
        which: The checkpoint of a work dir: "best" by the first evaluation set's PSNR, or
            "latest".
        floats: How to store floats, a name of ``ops.quantise.FLOATS``.
        trainable: A trainable file to write as well. The model file is then packed from its
            content, so that it can be reproduced from it bit for bit.
        about: Entries of the provenance to set: name, terms and scores.

    Returns:
        The packed network as stored in the file.

    Raises:
        UserError: There is no checkpoint, a file cannot be written, or a parameter is not finite.
    """
    network = network_at(workdir, which)
    network = replace(network, provenance={**network.provenance, **(about or {})})
    if trainable is not None:
        save_trainable(trainable, network)
        network = quantised(network)
    model = replace(from_network(network), floats=floats)
    save_model(output, model)
    return load_model_file(output)
