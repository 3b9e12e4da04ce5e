"""Several sources mixed by weight, and images that cannot be read."""

import itertools
import logging

import numpy as np
import pytest
from PIL import Image

from binsr_jax.config import config_from_json, config_to_json, default
from binsr_jax.data.pipeline import training_batches
from binsr_jax.data.sources import fingerprint, open_mixture, open_source, source_kinds
from binsr_jax.errors import UserError


@pytest.fixture
def config(tmp_path):
    """Two folders: three black pictures in ``dark``, five white ones in ``light``."""
    for name, count, value in (("dark", 3, 0), ("light", 5, 255)):
        (tmp_path / name).mkdir()
        for i in range(count):
            image = np.full((20 + i, 24, 3), value, np.uint8)
            Image.fromarray(image).save(tmp_path / name / f"{i}.png")
    config = default()
    config.data.cache_dir = str(tmp_path / "cache")
    config.data.patch, config.train.batch = 8, 8
    config.data.sources = (f"folder:{tmp_path / 'dark'}=1", f"folder:{tmp_path / 'light'}=3")
    return config


def batches(config, count, **where):
    with training_batches(config, **where) as batches:
        return [batch["hq"] for batch in itertools.islice(batches, count)]


def test_each_source_has_its_share_of_every_batch(config):
    for batch in batches(config, 6):
        assert sorted(batch.mean((1, 2, 3)).tolist()) == [0] * 2 + [1] * 6


def test_a_mixture_resumes_and_is_shared_like_one_source(config):
    config.data.sources = (*config.data.sources, "samples")
    once = batches(config, 5)
    np.testing.assert_array_equal(batches(config, 2, start_step=3), once[3:])
    parts = [batches(config, 5, process_index=p, process_count=2) for p in range(2)]
    for whole, *halves in zip(once, *parts, strict=True):
        rows = {row.tobytes() for row in whole}
        assert rows == {row.tobytes() for half in halves for row in half}


def test_weights_add_up_to_1_and_change_the_fingerprint(config):
    mixture = open_mixture(config)
    assert [weight for _, weight in mixture] == [0.25, 0.75]
    assert [len(source) for source, _ in mixture] == [3, 5]
    before = fingerprint(mixture)
    config.data.sources = tuple(entry.rpartition("=")[0] for entry in config.data.sources)
    assert [weight for _, weight in open_mixture(config)] == [0.5, 0.5]
    assert fingerprint(open_mixture(config)) != before
    config.data.sources = config.data.sources[:1]
    assert fingerprint(open_mixture(config)) == open_mixture(config)[0][0].fingerprint


@pytest.mark.parametrize("entry", ["photos=2", "samples=0", "samples=-1", "samples=nan", "", "=1"])
def test_an_entry_that_is_none_is_refused(config, entry):
    config.data.sources = (entry,)
    with pytest.raises(UserError, match=r"config\.data\.sources has the entry"):
        open_mixture(config)


def test_sources_survive_a_checkpoint(config):
    stored = config_from_json(config_to_json(config))
    assert stored.data.sources == config.data.sources
    assert config_from_json(config_to_json(default())).data.sources == ()


def test_broken_images_are_refused_or_skipped_and_reported(config, tmp_path, caplog):
    config.data.source, config.data.dir = "folder", str(tmp_path / "light")
    config.data.sources = ()
    path = tmp_path / "light" / "3.png"
    path.write_bytes(path.read_bytes()[:60])
    (tmp_path / "light" / "x.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"3\.png"):
        open_source(config, "train")
    config.data.skip_broken = True
    for _ in range(2):  # decoded, and from the cache
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="absl"):
            source = open_source(config, "train")
        assert source.names == ("0.png", "1.png", "2.png", "4.png")
        assert "Skipped 2 of 6 images" in caplog.text
        assert "3.png" in caplog.text
        assert "x.jpg" in caplog.text
    assert batches(config, 1)[0].shape == (8, 8, 8, 3)
    config.data.skip_broken = False
    with pytest.raises(UserError, match=r"3\.png"):
        open_source(config, "train")


def test_a_folder_of_broken_images_alone_is_refused(config, tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.png").write_bytes(b"no picture")
    config.data.sources, config.data.skip_broken = (f"folder:{tmp_path / 'none'}",), True
    with pytest.raises(UserError, match=r"No image of .* can be used.*a\.png"):
        open_mixture(config)


@pytest.mark.parametrize(
    ("sources", "kinds"),
    [
        ((), "tfds"),
        (("samples",), "samples"),
        (("folder:a=3", "samples=1", "folder:b"), "folder samples"),
    ],
)
def test_the_kinds_of_source_are_named_once(sources, kinds):
    config = default()
    config.data.source, config.data.sources = "tfds", sources
    assert source_kinds(config) == kinds
