"""The folder of caches: in the home, or in a temporary folder of this user alone."""

import os
import stat

import pytest

from binsr_jax import cache_folder as module
from binsr_jax.cache_folder import cache_folder


@pytest.mark.parametrize("home", ["none", "a file"])
def test_without_a_home_a_temporary_folder_is_taken(monkeypatch, tmp_path, caplog, home):
    cache_folder.cache_clear()
    monkeypatch.setattr(module, "_NAMED", set())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if home == "none":

        def no_home():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr("pathlib.Path.home", no_home)
    else:
        (tmp_path / ".cache").write_text("a file where a folder should be")
        monkeypatch.setenv("HOME", str(tmp_path))
    folder = cache_folder("native")
    assert folder.parent.parent == tmp_path
    assert stat.S_IMODE(folder.lstat().st_mode) == 0o700
    assert cache_folder("native") == folder
    assert cache_folder("jax").parent == folder.parent
    assert len(caplog.records) == 1
    assert "Errno" not in caplog.text
    cache_folder.cache_clear()


def test_a_temporary_folder_of_others_is_not_taken(monkeypatch, tmp_path):
    cache_folder.cache_clear()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    place = tmp_path / f"binsr-jax-{os.getuid()}"
    place.symlink_to(tmp_path)
    with pytest.raises(OSError, match="alone"):
        cache_folder("native")
    place.unlink()
    place.mkdir()
    place.chmod(0o777)
    with pytest.raises(OSError, match="alone"):
        cache_folder("native")
    cache_folder.cache_clear()
