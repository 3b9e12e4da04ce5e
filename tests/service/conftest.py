"""A queue whose networks are stand-ins."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import pytest
from stand_in import HeldEngine

from binsr_jax import models
from binsr_jax.config import default
from binsr_jax.deploy.model_file import PackedModel
from binsr_jax.deploy.pack import pack_params
from binsr_jax.pretrained import Packaged
from binsr_jax.service.restorer import Restorer


@pytest.fixture
def engines() -> dict[str, HeldEngine]:
    """By the names of networks."""
    return {"x2": HeldEngine(2), "denoise": HeldEngine(1)}


@pytest.fixture
def restorer(engines) -> Iterator[Restorer]:
    def load(network: Packaged) -> HeldEngine:
        return engines[network.name]

    restorer = Restorer(most_pixels=10_000, most_waiting=3, memory=2**20, load=load)
    yield restorer
    for engine in engines.values():
        engine.may_go_on.set()
    restorer.close()


@pytest.fixture(scope="session")
def small_model() -> PackedModel:
    """A packed network that enlarges twice."""
    config = default()
    config.model.update({"features": 4, "blocks": 1})
    network: Any = models.build(config)
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), "float32")
    variables = jax.jit(network.init)(jax.random.key(0), jax.numpy.zeros(image.shape))
    return PackedModel(config.lock(), pack_params(config, variables), {"steps": 1})


@pytest.fixture
def served() -> Callable[..., contextlib.AbstractContextManager[int]]:
    """``served(app, **options of Uvicorn)`` serves in a thread, and gives the port."""
    uvicorn = pytest.importorskip("uvicorn")

    @contextlib.contextmanager
    def serve(app: Any, **options: Any) -> Iterator[int]:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, **options))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            yield listener.getsockname()[1]
            server.should_exit = True
            thread.join()

    return serve
