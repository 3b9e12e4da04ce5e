"""Transfer from other networks: initial parameters, or a teacher."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from binsr_jax import models
from binsr_jax.config import Config, config_to_json, flat_fields
from binsr_jax.data.taught import PictureTeacher
from binsr_jax.errors import UserError
from binsr_jax.files import expanded, replace_text
from binsr_jax.models.restoring import restorer
from binsr_jax.nn.units import UNITS
from binsr_jax.ops.binarize import mean_weight_scale
from binsr_jax.ops.image import imresize_uint8
from binsr_jax.tasks import task_of
from binsr_jax.training.checkpoint import Checkpoints
from binsr_jax.training.devices import place_state
from binsr_jax.training.same_network import differences
from binsr_jax.training.state import TrainState, make_optimizer
from binsr_jax.training.trainable import Network, read_network
from binsr_jax.training.workdir import claim, writing_to

_Path = tuple[str, ...]
Teacher = Callable[[jax.Array], jax.Array]
ReadNetwork = Callable[[str], Network]


def start_run(workdir: Path, config: Config, variables: dict[str, Any], data: str) -> None:
    """Makes a work dir with one checkpoint, of step 0, that holds these variables.

    Args:
        workdir: A new folder, or one without checkpoints.
        config: A full config of the network.
        variables: Its ``params``, and other collections if it has any.
        data: Stored in place of the fingerprint of the training images.

    Raises:
        UserError: The work dir holds a trained network, is in use, or cannot be written.
    """
    workdir = expanded(workdir).absolute()
    collections = jax.tree.map(jnp.asarray, variables)
    params = collections.pop("params")
    moments = make_optimizer(config.train).init(params)
    state = TrainState(jnp.zeros((), jnp.int32), params, collections, moments, None)
    with claim(workdir), Checkpoints(workdir) as checkpoints:
        if checkpoints.latest_step() is not None:
            raise UserError(f"{workdir} holds a trained network already: name another folder.")
        checkpoints.save(state, config, data=data)
        checkpoints.wait()
        with writing_to(workdir):
            replace_text(workdir / "config.json", json.dumps(config_to_json(config), indent=2))


def digest(path: Path) -> str:
    """The first 16 digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def initialised(state: TrainState, config: Config, read: ReadNetwork = read_network) -> TrainState:
    """A fresh state with the parameters of ``config.train.init_from`` wherever they fit.

    A parameter fits if its path and shape are equal. So a float network of the same shape, a
    network of another scale (all but its upsampler), or one with fewer blocks gives everything that
    both have.

    The convolutions 0 and 1 of block i of a float network with ``ResidualBlock`` fit those of the
    units 2i and 2i + 1. There, and in the upsampler, float kernels become latent weights, as in
    XNOR-Net's initialisation: the binary convolution uses their signs and mean |w|, and a learnable
    scale starts at that mean. Biases that a binary convolution lacks are dropped.

    Parameters that do not fit are initialised anew and named in one log line; another line names
    the fields of the two networks that differ. Statistics of
    normalisation are copied if they fit.

    Args:
        state: From ``create_state``.
        config: The config of the new run.
        read: Reads the network of a path.

    Raises:
        UserError: There is no such network, it is damaged, or no parameter fits.
    """
    workdir = config.train.init_from
    network = read(workdir)
    source, variables = network.config, network.variables
    given: dict[_Path, Any] = flatten_dict(variables["params"])
    if UNITS[source.model.unit].convolutions > UNITS[config.model.unit].convolutions:
        given = {_of_single_units(path): value for path, value in given.items()}
    fresh: dict[_Path, Any] = flatten_dict(state.params)
    latent = models.binary_kernels(config)
    taken = {
        path: given[path]
        for path, value in fresh.items()
        if path in given and given[path].shape == value.shape
    }
    if not taken:
        raise UserError(
            f"No parameter of the network in {workdir} has the name and shape of one of this "
            f"network: choose another config.train.init_from."
        )
    anew = sorted("/".join(path) for path in fresh.keys() - taken.keys())
    for kernel in latent & taken.keys():
        weight_scale = (*kernel[:-1], "scale")
        if weight_scale in fresh and weight_scale not in given:
            taken[weight_scale] = mean_weight_scale(taken[kernel])
    logging.info(
        "Started from %d of %d parameters of %s (step %d). Initialised anew: %s.",
        len(fresh) - len(anew),
        len(fresh),
        workdir,
        network.provenance.get("steps", 0),
        ", ".join(anew) or "none",
    )
    if others := _other_fields(source, config):
        logging.info("This network differs from that of %s: %s.", workdir, others)
    params = unflatten_dict({**fresh, **taken})
    average = None if state.ema is None else jax.tree.map(jnp.copy, params)
    kept: dict[_Path, Any] = flatten_dict(state.collections)
    trained: dict[_Path, Any] = flatten_dict(variables)
    for path, value in trained.items():
        if path in kept and kept[path].shape == value.shape:
            kept[path] = value
    collections = unflatten_dict(kept)
    return dataclasses.replace(state, params=params, collections=collections, ema=average)


def _other_fields(source: Config, config: Config) -> str:
    """The fields of two networks that differ, with both values.

    The same parameters compute something else with another ``image_skip``, for example.
    """
    return ", ".join(
        f"{name} is {new} here, {old} there"
        for name, (old, new) in differences(source, config).items()
        if name.startswith("model.")
    )


def _of_single_units(path: _Path) -> _Path:
    """The path of a parameter in a network where each convolution of a block is its own unit."""
    part, _, number = path[0].partition("_")
    if part == "body" and number.isdecimal() and path[1].startswith("conv_"):
        index = 2 * int(number) + int(path[1].removeprefix("conv_"))
        return (f"body_{index}", "conv", *path[2:])
    return path


def picture_teacher(config: Config, read: ReadNetwork = read_network) -> PictureTeacher:
    """The network of ``config.train.teacher`` as a function of pictures.

    Its output is clipped to 0..1 and rounded. If its scale is larger than the student's, the output
    is reduced by MATLAB's bicubic.

    Args:
        config: The student's config.
        read: Reads the network of a path.

    Raises:
        UserError: There is no such network, it is damaged, or its scale is no multiple of the
            student's.
    """
    path = config.train.teacher
    if not path:
        raise UserError(
            f"config.data.taught is {config.data.taught}, but no config.train.teacher is set: name "
            "a work dir, a .safetensors or a model file."
        )
    network = read(path)
    source, channels = network.config, task_of(network.config).channels
    times, rest = divmod(source.scale, config.scale)
    if rest or not times or channels != task_of(config).channels:
        raise UserError(
            f"The teacher in {path} is for {task_of(source).name}, which a student for "
            f"{task_of(config).name} cannot learn from: choose another teacher."
        )
    logging.info("The teacher is step %d of %s.", network.provenance.get("steps", 0), path)
    restore = restorer(models.build(source), network.variables, channels)

    def reduced(image: np.ndarray) -> np.ndarray:
        restored = restore(image)
        return imresize_uint8(restored, 1 / times) if times > 1 else restored

    return PictureTeacher(reduced, f"{fingerprint(network)}/{times}")


def fingerprint(network: Network) -> str:
    """A hash of what a network computes: its settings and its variables."""
    settings = config_to_json(network.config)
    found = hashlib.blake2b(digest_size=16)
    found.update(json.dumps([settings[part] for part in ("task", "scale", "model")]).encode())
    variables: dict[str, Any] = flatten_dict(network.variables, sep="/")
    for name, value in sorted(variables.items()):
        array = np.asarray(value)
        found.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


def sources(
    config: Config,
    read: ReadNetwork = read_network,
    fields: Sequence[str] = ("train.init_from", "train.teacher"),
) -> dict[str, str]:
    """The fingerprints of the networks that a training starts from and learns from, by field.

    Args:
        config: The config of the training.
        read: Reads the network of a path.
        fields: The fields to look at; those without a network are left out.

    Raises:
        UserError: There is no such network, or it is damaged.
    """
    settings = flat_fields(config)
    paths = {field: settings[field] for field in fields}
    return {field: fingerprint(read(path)) for field, path in paths.items() if path}


def make_teacher(config: Config, mesh: Mesh, read: ReadNetwork = read_network) -> Teacher:
    """The network of ``config.train.teacher`` as a function of a batch of images.

    Args:
        config: The student's config.
        mesh: The devices that share a batch.
        read: Reads the network of a path.

    Returns:
        A compiled function of a batch's ``lq``, as placed by ``place_batch``. It returns the
        teacher's output, ``[..., s h, s w, C]``, not clipped.

    Raises:
        UserError: There is no such network, it is damaged, or it has another task or scale.
    """
    network = read(config.train.teacher)
    source = network.config
    model = models.build(source)
    for field in ("task", "scale"):
        if source[field] != config[field]:
            raise UserError(
                f"The teacher in {config.train.teacher} was trained with config.{field} "
                f"{source[field]}, but the student's is {config[field]}: choose another "
                f"config.train.teacher."
            )
    step = network.provenance.get("steps", 0)
    logging.info("The teacher is step %d of %s.", step, config.train.teacher)
    placed = place_state(network.variables, mesh)

    @jax.jit
    def restore(variables: Any, lq: jax.Array) -> jax.Array:
        # With "pmap" the batch has a leading axis of devices.
        restored = model.apply(variables, lq.reshape(-1, *lq.shape[-3:]), train=False)
        assert isinstance(restored, jax.Array)  # without mutable collections there is only this
        return restored.reshape(*lq.shape[:-3], *restored.shape[-3:])

    return lambda lq: restore(placed, lq)
