"""Settings of all tests, bounded memory, and the two folders of outside data they may find."""

import ctypes
import gc
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from jax._src import compiler  # JAX has no public setting for XLA's options of every program

ROOT = Path(__file__).parent.parent

# Compiled programs are shared between the workers, the programs that tests start, and later runs.
_CACHE = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "jax"))
jax.config.update("jax_compilation_cache_dir", _CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

# Programs do not say which line of which file each of their operations is from.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
jax.config.update("jax_traceback_in_locations_limit", 0)

# Eight CPU devices, so that data parallelism is tested on any machine; strict promotion, so that
# no float64 or weak type creeps in unseen.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")

# A shell starts what runs in its background deaf to Ctrl-C, which some tests send.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Modules that train, compile many networks, or start many programs: those of more than about 10 s
# of CPU in all. CI runs them; a first run may leave them out with -m "not slow". The other modules
# are meant to take less than three minutes together, on two cores.
SLOW = (
    "compress/",
    "data/test_pipeline.py",
    "deploy/export/",
    "deploy/test_engine.py",
    "deploy/test_engine_in_pieces.py",
    "deploy/test_esrgan_tiles.py",
    "deploy/test_pack.py",
    "deploy/test_program.py",
    "deploy/test_tiled_networks.py",
    "deploy/test_unpack.py",
    "models/test_dfdnet.py",
    "models/test_edsr.py",
    "models/test_esrgan.py",
    "models/test_every_unit.py",
    "models/test_official_steps.py",
    "nn/test_fence.py",
    "nn/test_packed_convolution.py",
    "nn/test_units.py",
    "ops/test_native.py",
    "ops/test_native_build.py",
    "ops/test_native_kernels.py",
    "ops/test_packed.py",
    "service/test_browser.py",
    "test_evaluate.py",
    "test_prune_study.py",
    "test_published_costs.py",
    "test_studies.py",
    "test_train.py",
    "test_wheel.py",
    "training/test_adversarial.py",
    "training/test_checkpoint.py",
    "training/test_compression.py",
    "training/test_loop.py",
    "training/test_normalised.py",
    "training/test_processes.py",
    "training/test_step.py",
    "training/test_taught.py",
    "training/test_trainable.py",
    "training/test_transfer.py",
)
# Modules whose programs are compiled as users' are: those about equal bits of differently compiled
# programs, about memory, or about the last digits of a reference. In all others LLVM optimises
# little, and XLA writes the loops of fusions in its older way, which together halve the time of
# compilation; what is fused is as always. A single test has the marker.
OPTIMISED = (
    "deploy/test_engine_in_pieces.py",
    "deploy/test_esrgan_tiles.py",
    "deploy/test_program.py",
    "deploy/test_tiled_networks.py",
    "models/test_official_steps.py",
    "ops/test_image_skip.py",
)
_MOST_MEMORY = 3 << 29  # bytes that a worker keeps from one module to the next


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests of the modules in ``SLOW`` and in ``OPTIMISED``."""
    for item in items:
        module = item.path.relative_to(ROOT / "tests").as_posix()
        if module.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
        if module.startswith(OPTIMISED):
            item.add_marker(pytest.mark.optimised)


_compile_options = compiler.get_compile_options
_XLA_FLAGS = os.environ.get("XLA_FLAGS", "")
# The older way of loops, and one LLVM module a program.
_FAST = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}


def _with_fast_compilation(*args, **kwargs):
    options = _compile_options(*args, **kwargs)
    if jax.config.read("jax_disable_most_optimizations"):
        options.env_option_overrides = [*options.env_option_overrides, *_FAST.items()]
    return options


compiler.get_compile_options = _with_fast_compilation


def _optimise(much: bool) -> None:
    """Sets how XLA compiles from now on, here and in the programs that tests start."""
    jax.config.update("jax_disable_most_optimizations", not much)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(not much))
    flags = [] if much else [f"--{name}={str(value).lower()}" for name, value in _FAST.items()]
    os.environ["XLA_FLAGS"] = " ".join([_XLA_FLAGS, *flags])


# XLA reads its flags once, with the first program; those above are for other processes.
jax.block_until_ready(jax.jit(lambda: 0.0)())
_optimise(False)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Compiles the programs of ``optimised`` tests and their fixtures as users' are."""
    much = item.get_closest_marker("optimised") is not None
    if much == jax.config.read("jax_disable_most_optimizations"):
        jax.clear_caches()
        _optimise(much)


def pytest_collection_finish() -> None:
    """Collects garbage less often, and never looks at what was imported.

    Tracing makes many objects that live on, and to look at all of them again and again took a
    fifth of its time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def _forget_programs() -> None:
    jax.clear_caches()
    gc.collect()
    # glibc keeps what was freed among what was not.
    getattr(ctypes.CDLL(None), "malloc_trim", int)(0)


@pytest.fixture(scope="module", autouse=True)
def _bounded_memory() -> Iterator[None]:
    """Forgets compiled programs after a module that left a worker large."""
    yield
    statistics = Path("/proc/self/statm")
    if statistics.exists():
        resident = int(statistics.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        if resident > _MOST_MEMORY:
            _forget_programs()


@pytest.fixture(scope="module")
def small_worker() -> None:
    """Forgets compiled programs before a module that needs much memory itself."""
    _forget_programs()


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
