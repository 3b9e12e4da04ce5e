"""A run small enough to train in a second."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from binsr_jax.config import Config, config_to_json, default
from binsr_jax.training import loop
from binsr_jax.training.step import make_step


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of all tests keep decoded images."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tiny(cache_dir: Path) -> Callable[..., Config]:
    """Makes a config of a tiny network on the packaged samples: ``tiny(**{"train.steps": 3})``."""

    def make(**fields: object) -> Config:
        config = default()
        config.model.features, config.model.blocks = 8, 1
        config.model.residual_attention = "se"
        config.model.amplification = 16.0
        config.data.patch, config.data.cache_dir = 16, str(cache_dir)
        config.train.steps, config.train.batch = 4, 8
        config.train.learning_rate, config.train.schedule = 1e-3, "constant"
        config.train.log_every, config.train.checkpoint_every = 2, 1000
        config.eval.every = 1000
        config.devices = 1
        config.update_from_flattened_dict(fields)
        return config.lock()

    return make


@pytest.fixture(scope="module")
def _steps() -> dict[str, Any]:
    return {}


@pytest.fixture
def shared_steps(_steps: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of a module with one config share the step, which each would compile again.

    Runs that go on in another process, as users' do, are in ``tests/test_train.py``.
    """

    def shared(config: Config, *rest: Any) -> Any:
        fields = config_to_json(config)
        fields.pop("eval")
        key = json.dumps(fields)
        if key not in _steps:
            _steps[key] = make_step(config, *rest)
        return _steps[key]

    monkeypatch.setattr(loop, "make_step", shared)
