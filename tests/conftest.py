"""Strict settings for all tests, and the two folders of outside data they may find."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

# Eight CPU devices, so that data parallelism is tested on any machine; strict promotion, so that
# no float64 or weak type creeps in unseen.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")

# A shell starts what runs in its background deaf to Ctrl-C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent


def _outside_folder(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable) or ROOT / default)
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist; set {variable} to run this test")
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real images (Set5, B100, ...), from BINSR_DATA."""
    return _outside_folder("BINSR_DATA", "../shared/data")


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """The folder of reference arrays, from BINSR_REFERENCE."""
    return _outside_folder("BINSR_REFERENCE", "../shared/reference")


@pytest.fixture(scope="session")
def reference(reference_dir: Path) -> Callable[[str], dict[str, np.ndarray]]:
    """Reads one file of reference arrays: ``reference("1_quantisers")``."""

    def read(name: str) -> dict[str, np.ndarray]:
        path = reference_dir / f"{name}.npz"
        if not path.is_file():
            pytest.skip(f"{path} does not exist")
        with np.load(path) as arrays:
            return dict(arrays)

    return read
