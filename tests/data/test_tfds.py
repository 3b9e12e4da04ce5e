"""The real DIV2K builder of TFDS on small zips with the official names, without TensorFlow."""

import hashlib
import importlib.util
import io
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.download import extractor
from tensorflow_datasets.core.download.checksums import UrlInfo
from tensorflow_datasets.core.units import Size

from binsr_jax import config as config_module
from binsr_jax.data.pipeline import training_batches
from binsr_jax.data.sources import open_source
from binsr_jax.errors import UserError
from binsr_jax.ops.image import luma_uint8
from binsr_jax.training.loop import train
from binsr_jax.training.scores import Validation

IDS = {"train": (1, 2, 3, 4, 5), "valid": (801, 802)}


def hr_image(number, scale):
    """An image that tells its number and where its pixels come from."""
    rng = np.random.default_rng(number)
    lq = rng.integers(0, 256, (12, 16, 3), np.uint8)
    return lq.repeat(scale, 0).repeat(scale, 1)


def lr_image(number, scale):
    return hr_image(number, scale)[::scale, ::scale]


def write_zip(path, images):
    with zipfile.ZipFile(path, "w") as archive:
        for name, image in images.items():
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            archive.writestr(name, file.getvalue())


@pytest.fixture
def config(tmp_path):
    config = config_module.default()
    config.data.source = "tfds"
    config.data.dir = str(tmp_path / "tfds")
    config.data.cache_dir = str(tmp_path / "cache")
    return config


@pytest.fixture
def stand_in(monkeypatch):
    """The three functions of TensorFlow that preparing DIV2K calls, where it calls them."""
    tensorflow = SimpleNamespace(
        io=SimpleNamespace(gfile=SimpleNamespace(GFile=open, walk=os.walk)),
        compat=SimpleNamespace(as_text=os.fsdecode),
    )
    builder_module = sys.modules[tfds.builder_cls("div2k").__module__]
    for module in (builder_module, extractor):
        monkeypatch.setattr(module, "tf", tensorflow)
    with_tensorflow(monkeypatch, installed=True)


def with_tensorflow(monkeypatch, *, installed):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *args: installed or None if name == "tensorflow" else real(name, *args),
    )


@pytest.fixture
def zips(config, tmp_path, monkeypatch):
    """Writes the zips of a scale where TFDS looks for them, and makes their checksums known."""

    def write(scale):
        folder = tmp_path / "tfds" / "downloads" / "manual"
        folder.mkdir(parents=True)
        for split, numbers in IDS.items():
            hr, lr = f"DIV2K_{split}_HR", f"DIV2K_{split}_LR_bicubic"
            write_zip(
                folder / f"{hr}.zip",
                {f"{hr}/{i:04}.png": hr_image(i, scale) for i in numbers},
            )
            write_zip(
                folder / f"{lr}_X{scale}.zip",
                {f"{lr}/X{scale}/{i:04}x{scale}.png": lr_image(i, scale) for i in numbers},
            )
        url = "https://data.vision.ee.ethz.ch/cvl/DIV2K/"
        checksums = {
            url + file.name: UrlInfo(
                size=Size(file.stat().st_size),
                checksum=hashlib.sha256(file.read_bytes()).hexdigest(),
                filename=file.name,
            )
            for file in folder.iterdir()
        }
        monkeypatch.setattr(tfds.builder_cls("div2k"), "url_infos", checksums)

    return write


def number_of(hq, scale, numbers):
    (number,) = (i for i in numbers if np.array_equal(hq, hr_image(i, scale)))
    return number


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_official_pairs_are_prepared_once_and_read_without_tensorflow(
    config, zips, stand_in, monkeypatch, tmp_path, scale
):
    imported = "tensorflow" in sys.modules
    config.scale = scale
    zips(scale)
    assert len(open_source(config, "train")) == 5
    shutil.rmtree(tmp_path / "tfds" / "downloads")
    monkeypatch.undo()  # from here on without the stand-ins
    for split, numbers in IDS.items():
        source = open_source(config, split)
        found = [number_of(hq, scale, numbers) for _, hq in source]
        assert sorted(found) == list(numbers)
        for number, (lq, _) in zip(found, source, strict=True):
            np.testing.assert_array_equal(lq, lr_image(number, scale))
    assert ("tensorflow" in sys.modules) == imported


def test_batches_hold_aligned_pairs(config, zips, stand_in):
    zips(2)
    config.data.patch, config.train.batch = 8, 5
    with training_batches(config) as batches:
        for _ in range(3):
            batch = next(batches)
            assert batch["hq"].shape == (5, 8, 8, 3)
            np.testing.assert_array_equal(batch["hq"], batch["lq"].repeat(2, 1).repeat(2, 2))


def test_a_network_trains_on_it(config, zips, stand_in, tmp_path):
    zips(2)
    config.data.patch, config.train.batch, config.train.steps = 16, 8, 2
    config.model.features, config.model.blocks, config.devices = 8, 1, 1
    scores = []

    def validate(variables, step):
        scores.append(step)
        return Validation({"samples/psnr": 30.0, "samples/ssim": 0.9}, {}, {})

    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
        assert train(config, str(tmp_path / "run"), validate) == 0
    assert scores == [2]
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").open()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses
    assert np.isfinite(losses).all()


def test_missing_tensorflow_is_one_sentence(config, monkeypatch):
    with_tensorflow(monkeypatch, installed=False)
    with pytest.raises(UserError) as error:
        open_source(config, "train")
    message = str(error.value)
    assert "div2k/bicubic_x2 is not prepared in" in message
    assert "pip install 'binsr-jax[tf]'" in message
    assert "config.data.source=folder" in message
    assert "\n" not in message


def test_damaged_zip_is_one_sentence(config, zips, stand_in):
    zips(2)
    file = Path(config.data.dir) / "downloads" / "manual" / "DIV2K_train_HR.zip"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(
        UserError, match=r"could not prepare div2k/bicubic_x2 in .*; put the"
    ) as error:
        open_source(config, "train")
    assert "\n" not in str(error.value)


def test_data_in_a_format_without_random_access(config, zips, stand_in):
    zips(2)
    open_source(config, "train")
    info = next(Path(config.data.dir).glob("div2k/bicubic_x2/*/dataset_info.json"))
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    for file in info.parent.glob("*array_record*"):
        file.rename(info.parent / file.name.replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="was not prepared as array_record; remove it or set"):
        open_source(config, "train")


@pytest.mark.parametrize(("task", "channels"), [("denoise", 3), ("jpeg", 1)])
def test_tasks_of_scale_1_take_the_hr_images_of_what_is_prepared(
    config, zips, stand_in, task, channels
):
    config.scale = 3
    zips(3)
    open_source(config, "train")
    config.task, config.scale = task, 1
    source = open_source(config, "train")
    assert len(source) == 5
    found = []
    for lq, hq in source:
        assert lq is hq
        assert hq.shape[-1] == channels
        images = {i: hr_image(i, 3) for i in IDS["train"]}
        as_read = {i: x if channels == 3 else luma_uint8(x)[..., None] for i, x in images.items()}
        found.append(next(i for i, x in as_read.items() if np.array_equal(x, hq)))
    assert sorted(found) == list(IDS["train"])
