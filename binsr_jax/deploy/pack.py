"""From a trained network to a packed one: signs become bits, everything else is kept as it is."""

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
    """The parameters of the packed network, of the variables of the trained one.

    Each binary convolution gives those of its packed form itself (see ``binsr_jax.nn.binary``):
    signs as bits, scale, and bias, normalisation folded into the two. All others are the same in
    both networks.

    The integer convolutions of the two networks are equal. Around them the arithmetic is the same,
    but XLA may round a product and the sum that follows it once in one program and twice in the
    other, and what is folded is rounded when it is: a unit's output differs by at most some 2^-24
    of its largest term for each of its dozen operations. A sign can flip only where a feature is
    that near to its threshold.

    Args:
        config: the full config of the network.
        variables: of ``models.build(config)``: ``params``, float32, and other collections if it
            has such.

    Returns:
        The ``params`` of ``models.build(config, conv=PackedConv)``.

    Raises:
        UserError: the config describes no network.
        ValueError: the variables are not of that network.
    """
    network = models.build(config)
    packed_shapes = models.shapes(config, PackedConv)
    _check_shapes(variables, models.shapes(config))
    pixel = jnp.zeros((1, 1, 1, task_of(config).channels))
    # Of a pixel: what is computed from it is not asked for, so XLA leaves it out.
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
        UserError: there is no such file or checkpoint, or it is damaged.
    """
    return load_trainable(path) if Path(path).suffix == SUFFIX else network_of_run(path, which)


def from_network(network: Network) -> PackedModel:
    """Packs a network that was read from a work dir or a trainable file."""
    params = pack_params(network.config, network.variables)
    return PackedModel(network.config, params, network.provenance)


def from_workdir(
    workdir: str | os.PathLike[str], which: Literal["best", "latest"] = "best"
) -> PackedModel:
    """Packs a trained network.

    Args:
        workdir: where it was trained.
        which: the checkpoint: "best" by the first evaluation set's PSNR, or "latest".

    Raises:
        UserError: there is no checkpoint, or it is damaged.
    """
    return from_network(network_of_run(workdir, which))


def pack(
    workdir: str | os.PathLike[str],
    output: str | os.PathLike[str],
    which: Literal["best", "latest"] = "best",
    half: bool = False,
    trainable: str | os.PathLike[str] | None = None,
    about: Mapping[str, Any] | None = None,
) -> PackedModel:
    """Makes a model file of a trained network.

    Args:
        workdir: where it was trained; or a trainable file.
        output: the file.
        which: as in `from_workdir`.
        half: store what is not binary as float16.
        trainable: a trainable file to write, too. The model file is then packed from what that one
            holds, so that it can be made of it again, to the bit.
        about: entries of the provenance to set: name, terms and scores.

    Returns:
        The packed network as the file holds it.

    Raises:
        UserError: there is no checkpoint, a file cannot be written, or a parameter is not finite.
    """
    network = network_at(workdir, which)
    network = replace(network, provenance={**network.provenance, **(about or {})})
    if trainable is not None:
        save_trainable(trainable, network)
        network = quantised(network)
    model = replace(from_network(network), floats="float16" if half else "float32")
    save_model(output, model)
    return load_model_file(output)
