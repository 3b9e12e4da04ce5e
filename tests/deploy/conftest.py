"""Networks to pack, packed ones, and ``binsr upscale`` with a stand-in for a network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from taps import TapsEngine

from binsr_jax import models
from binsr_jax.commands import main
from binsr_jax.commands import pictures as command
from binsr_jax.config import Config, default
from binsr_jax.deploy.engine import Engine
from binsr_jax.deploy.loading import Arithmetic
from binsr_jax.deploy.model_file import PackedModel, save_model
from binsr_jax.deploy.pack import pack_params
from binsr_jax.deploy.upscaler import Upscaler


@pytest.fixture(scope="session")
def make_config() -> Callable[..., Config]:
    """The config of a small network: ``make_config(scale, task, **fields of config.model)``."""

    def make(scale: int = 2, task: str = "sr", **fields) -> Config:
        config = default()
        config.task, config.scale = task, scale
        config.model.update({"features": 5, "blocks": 1, "amplification": 10.0, **fields})
        return config.lock()

    return make


@pytest.fixture(scope="session")
def make_variables() -> Callable[[Config], Any]:
    """Random variables of a float network, of the size that training makes."""

    def make(config: Config) -> Any:
        shapes = models.shapes(config)
        rng = np.random.default_rng(0)

        def draw(path: tuple[str, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
            values = 0.3 * rng.normal(size=leaf.shape)
            return jnp.asarray(np.exp(values) if path[-1] == "var" else values, jnp.float32)

        leaves: dict[tuple[str, ...], Any] = flatten_dict(shapes)
        return unflatten_dict({path: draw(path, leaf) for path, leaf in leaves.items()})

    return make


@pytest.fixture(scope="session")
def make_model(make_config, make_variables) -> Callable[..., PackedModel]:
    """A packed model: ``make_model(floats, scale, task=..., **fields of config.model)``."""
    known: dict[tuple[Any, ...], dict[str, Any]] = {}  # many tests want the same networks

    def make(floats: str = "float32", scale: int = 2, **fields) -> PackedModel:
        config = make_config(scale, **fields)
        provenance = {
            "steps": 7,
            "source": "samples",
            "data": "0f",
            "scores": {"samples/psnr": 30.25},
            "package": "0.1.0",
        }
        key = (scale, *sorted(fields.items()))
        if key not in known:
            known[key] = pack_params(config, make_variables(config))
        params = jax.tree.map(lambda leaf: leaf, known[key])  # in dictionaries of the caller's own
        return PackedModel(config, params, provenance, floats)

    return make


@pytest.fixture(scope="session")
def saved(make_model, tmp_path_factory) -> Path:
    """The file of a small packed network."""
    path = tmp_path_factory.mktemp("models") / "model.binsr"
    save_model(path, make_model())
    return path


@pytest.fixture
def engine(make_model) -> Callable[..., Engine]:
    """The engine of a small network: ``engine(arithmetic, **fields)`` as those of make_model."""

    def make(arithmetic: Arithmetic = "packed", **fields) -> Engine:
        return Engine(make_model(**fields), arithmetic)

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for images."""
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs ``binsr upscale -m ...`` with the arguments and returns the exit status."""
    monkeypatch.setattr(command, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr(command, "load", lambda model, memory: Upscaler(TapsEngine(), memory))
    return lambda *args: main(["upscale", "-m", "model.binsr", *map(str, args)])
