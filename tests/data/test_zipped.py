"""Training images in a zip: the same pixels as in a folder, and one sentence for what is wrong."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binsr_jax import config as config_module
from binsr_jax.data import zipped
from binsr_jax.data.pipeline import training_batches
from binsr_jax.data.sources import open_source, source_names
from binsr_jax.errors import UserError


@pytest.fixture
def config(tmp_path):
    config = config_module.default()
    config.data.cache_dir = str(tmp_path / "cache")
    config.data.source, config.data.dir = "zip", str(tmp_path / "all.zip")
    config.data.patch, config.train.batch = 16, 2
    return config


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two images of noise, and files that are none."""
    folder = tmp_path / "BSD"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, side in (("b.png", 20), ("a.PNG", 24)):
        Image.fromarray(rng.integers(0, 256, (side, 24, 3), np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    (folder / "._a.png").write_bytes(b"what another system leaves in zips")
    return folder


def _pack(file, folder, prefix=""):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.iterdir()):
            packed.write(path, f"{prefix}{path.name}")


@pytest.mark.parametrize("prefix", ["", "BSD/", "deep/er/"])
def test_a_zip_gives_the_images_of_the_folder(config, folder, tmp_path, prefix):
    _pack(tmp_path / "all.zip", folder, prefix)
    config.data.dir = f"{tmp_path}/all.zip/{prefix}"
    source = open_source(config, "train")
    config.data.source, config.data.dir = "folder", str(folder)
    expected = open_source(config, "train")
    assert source.names == expected.names == ("a.PNG", "b.png")
    assert source.fingerprint == expected.fingerprint
    for (lq, hq), (low, high) in zip(source, expected, strict=True):
        np.testing.assert_array_equal(lq, low)
        np.testing.assert_array_equal(hq, high)


def test_zips_are_mixed_with_other_sources(config, folder, tmp_path):
    _pack(tmp_path / "all.zip", folder, "BSD/")
    config.data.sources = (f"zip:{tmp_path}/all.zip/BSD=3", "samples=1")
    assert source_names(config) == ["BSD", "samples"]
    with training_batches(config) as batches:
        assert next(batches)["hq"].shape == (2, 16, 16, 3)


def test_a_replaced_zip_is_read_again(config, folder, tmp_path):
    _pack(tmp_path / "all.zip", folder)
    before = open_source(config, "train").fingerprint
    Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save(folder / "b.png")
    _pack(tmp_path / "all.zip", folder)
    assert open_source(config, "train").fingerprint != before


def test_what_is_no_zip_of_images_is_one_sentence(config, folder, tmp_path):
    with pytest.raises(UserError, match=r"^There is no zip file .*all\.zip; set config\.data\.dir"):
        open_source(config, "train")
    (tmp_path / "all.zip").write_bytes(b"PK\3\4 and then nothing of a zip")
    with pytest.raises(
        UserError, match=r"^Cannot read the zip file .*all\.zip \(File is not a zip"
    ):
        open_source(config, "train")
    _pack(tmp_path / "all.zip", folder, "BSD/")
    with pytest.raises(UserError, match=r"has no images .* Name one .*all\.zip/FOLDER \(BSD\)\.$"):
        open_source(config, "train")
    config.data.dir += "/DIV2K"
    with pytest.raises(UserError, match=r"all\.zip/DIV2K has no images .*\(BSD\)"):
        open_source(config, "train")
    config.data.dir = ""
    with pytest.raises(UserError, match=r"source=zip needs config\.data\.dir"):
        open_source(config, "train")


def test_a_zip_has_no_validation_split(config, folder, tmp_path):
    _pack(tmp_path / "all.zip", folder)
    with pytest.raises(UserError, match="no validation split"):
        open_source(config, "valid")


def test_a_damaged_image_is_named_or_skipped(config, folder, tmp_path):
    (folder / "c.png").write_bytes((folder / "b.png").read_bytes())
    _pack(tmp_path / "all.zip", folder)
    with zipfile.ZipFile(tmp_path / "all.zip") as packed:
        start = packed.getinfo("c.png").header_offset + 60
    content = bytearray((tmp_path / "all.zip").read_bytes())
    content[start] ^= 0xFF
    (tmp_path / "all.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"^Cannot read the image .*all\.zip/c\.png \(.*remove it"):
        open_source(config, "train")
    config.data.skip_broken = True
    assert open_source(config, "train").names == ("a.PNG", "b.png")


def test_an_encrypted_image_is_named_or_skipped(config, folder, tmp_path):
    _pack(tmp_path / "all.zip", folder)
    with zipfile.ZipFile(tmp_path / "all.zip") as packed:
        local = packed.getinfo("a.PNG").header_offset
        central = packed.start_dir
    content = bytearray((tmp_path / "all.zip").read_bytes())
    # A header's flags, of which bit 0 means encryption, before the file and in the directory.
    content[local + 6] |= 1
    content[content.index(b"a.PNG", central) - 46 + 8] |= 1
    (tmp_path / "all.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"Cannot read the image .*a\.PNG \(.*encrypted"):
        open_source(config, "train")
    config.data.skip_broken = True
    assert open_source(config, "train").names == ("b.png",)


def test_an_image_of_absurd_size_is_not_unpacked(config, folder, tmp_path, monkeypatch):
    _pack(tmp_path / "all.zip", folder)
    monkeypatch.setattr(zipped, "_MOST_BYTES", 100)
    with pytest.raises(UserError, match=r"Cannot read the image .*a\.PNG \(it has \d+ bytes\)"):
        open_source(config, "train")
