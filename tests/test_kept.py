"""Compiled programs that JAX keeps on disk."""

import logging
import warnings

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from binsr_jax import kept


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of kept programs; JAX's settings are put back."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    for name in names:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(kept, "cache_folder", lambda name: tmp_path / name)
    (tmp_path / "jax").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        kept.keep_compiled_programs()
        jax.config.update(names[1], 0.0)
        compilation_cache.reset_cache()
        yield tmp_path / "jax"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def compiled() -> None:
    jax.clear_caches()

    @jax.jit
    def of_this_test(x):
        return jnp.sin(x) + 1

    of_this_test(jnp.zeros(3)).block_until_ready()


def test_a_damaged_program_is_replaced_and_said_once(folder, caplog, capsys):
    compiled()
    (file,) = folder.glob("jit_of_this_test-*-cache")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.WARNING, logger="binsr_jax"):
        compiled()
        assert len(file.read_bytes()) > len(content) // 2
        file.write_bytes(b"")
        compiled()
        compiled()
    (record,) = caplog.records
    assert "are damaged and are compiled again" in record.getMessage()
    assert "UserWarning" not in capsys.readouterr().err


def test_other_warnings_are_shown_as_before(folder, monkeypatch):
    with warnings.catch_warnings(record=True) as caught:
        kept.keep_compiled_programs()
        warnings.warn("Something else", UserWarning, stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["Something else"]
