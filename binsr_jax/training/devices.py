"""The devices of a run, and how arrays are laid out on them."""

from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from binsr_jax.config import Config
from binsr_jax.errors import UserError

Tree = TypeVar("Tree")

AXIS = "data"  # the mesh axis along which a batch is split


def make_mesh(config: Config) -> Mesh:
    """The devices of a run, in a row along the axis ``data``.

    Raises:
        UserError: There are fewer devices than ``config.devices``, or they cannot evenly share the
            ``config.train.accumulate`` parts of ``config.train.batch``.
    """
    available = jax.devices()
    count = config.devices or len(available)
    if count > len(available):
        raise UserError(
            f"config.devices is {count}, but JAX sees only {len(available)} "
            f"{available[0].platform.upper()} device(s): set --config.devices=0 to use all of them."
        )
    if jax.process_count() > 1 and count != len(available):
        raise UserError(
            f"config.devices is {count}, but {jax.process_count()} processes train on all of their "
            f"{len(available)} devices together: set --config.devices=0."
        )
    batch, parts = config.train.batch, config.train.accumulate
    if batch % (count * parts):
        sharing = f"{count} devices cannot share evenly"
        if parts > 1:
            sharing += f", each in {parts} parts (config.train.accumulate)"
        raise UserError(
            f"config.train.batch is {batch}, which {sharing}: set --config.train.batch to a "
            f"multiple of {count * parts}, or --config.devices times --config.train.accumulate to "
            f"a divisor of {batch}."
        )
    return Mesh(np.array(available[:count]), (AXIS,))


def place_state(state: Tree, mesh: Mesh) -> Tree:
    """Copies a tree of arrays to every device of the mesh."""
    return jax.device_put(state, NamedSharding(mesh, PartitionSpec()))


def place_batch(config: Config, batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Splits this process's part of a batch among its devices.

    Args:
        config: The run; its ``parallel`` names the layout.
        batch: Arrays ``[B, ...]``, the local part of the global batch.
        mesh: The devices.

    Returns:
        Global arrays ``[B, ...]`` for "mesh"; ``[devices, B / devices, ...]`` for "pmap".
    """
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    local = len(mesh.local_devices)

    def place(array: np.ndarray) -> jax.Array:
        if config.parallel == "pmap":
            array = array.reshape(local, array.shape[0] // local, *array.shape[1:])
        return jax.make_array_from_process_local_data(sharding, array)

    return {name: place(array) for name, array in batch.items()}
