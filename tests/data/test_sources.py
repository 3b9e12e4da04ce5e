import logging
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binsr_jax import config as config_module
from binsr_jax.cache_folder import cache_folder
from binsr_jax.data.cache import decoded_folder
from binsr_jax.data.degradations import bicubic_pair
from binsr_jax.data.official import pair_up
from binsr_jax.data.pipeline import training_batches
from binsr_jax.data.sources import SAMPLES, open_mixture, open_source
from binsr_jax.errors import UserError


@pytest.fixture
def config(tmp_path):
    config = config_module.default()
    config.data.cache_dir = str(tmp_path / "cache")
    config.data.source = "folder"
    config.data.dir = str(tmp_path / "images")
    return config


def picture(seed, height, width):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return image


# Packaged samples


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(("split", "least"), [("train", 12), ("valid", 4)])
def test_samples_are_whole_multiples_of_every_scale(config, scale, split, least):
    config.data.source, config.data.dir, config.scale = "samples", "", scale
    source = open_source(config, split)
    assert len(source) >= least
    for name, (lq, hq) in zip(source.names, source, strict=True):
        original = np.asarray(Image.open(SAMPLES / split / name))
        np.testing.assert_array_equal(hq, original)
        assert hq.shape == (lq.shape[0] * scale, lq.shape[1] * scale, 3)


def test_samples_are_small_licensed_and_held_out():
    files = {split: sorted((SAMPLES / split).iterdir()) for split in ("train", "valid")}
    assert sum(file.stat().st_size for both in files.values() for file in both) <= 6e6
    photographs = {}
    for line in (SAMPLES / "LICENSE").read_text().splitlines():
        if row := re.fullmatch(r" +(train|valid)/(\S+\.png) +(\w+) +(\S+) +\d+ +\d+ +\d+", line):
            photographs[row[1], row[2]] = (row[3], row[4])
    assert set(photographs) == {(split, file.name) for split in files for file in files[split]}
    of_split = {
        split: {photo for (where, _), photo in photographs.items() if where == split}
        for split in files
    }
    assert not of_split["train"] & of_split["valid"]


# Folders of HR images


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_hr_alone(config, tmp_path, scale):
    config.scale = scale
    images = {
        f"{i}.png": save(tmp_path / "images" / f"{i}.png", picture(i, 13 + i, 17)) for i in range(3)
    }
    source = open_source(config, "train")
    assert source.names == tuple(images)
    for (lq, hq), image in zip(source, images.values(), strict=True):
        expected_lq, expected_hq = bicubic_pair(image, scale)
        np.testing.assert_array_equal(lq, expected_lq)
        np.testing.assert_array_equal(hq, expected_hq)


def test_lr_images_equal_the_files_that_matlab_wrote(config, data_dir):
    config.data.dir = str(data_dir / "Set5")
    source = open_source(config, "train")
    assert len(source) == 5
    for name, (lq, _) in zip(source.names, source, strict=True):
        official = np.asarray(Image.open(data_dir / "Set5_LR" / "x2_mirror" / name).convert("RGB"))
        np.testing.assert_array_equal(lq, official[: lq.shape[0], : lq.shape[1]])


def test_grey_palette_and_transparent_images_become_rgb(config, tmp_path):
    image = picture(0, 8, 8)
    save(tmp_path / "images" / "a.png", image[..., 0])
    save(tmp_path / "images" / "b.png", np.concatenate([image, image[..., :1]], -1))
    Image.fromarray(image[..., 0]).convert("P").save(tmp_path / "images" / "c.png")
    (_, grey), (_, transparent), (_, palette) = open_source(config, "train")
    np.testing.assert_array_equal(grey, np.repeat(image[..., :1], 3, -1))
    np.testing.assert_array_equal(transparent, image)
    np.testing.assert_array_equal(palette, grey)


def test_images_smaller_than_the_scale_are_left_out(config, tmp_path, caplog):
    save(tmp_path / "images" / "dot.png", picture(0, 1, 1))
    save(tmp_path / "images" / "line.png", picture(0, 9, 1))
    save(tmp_path / "images" / "square.png", picture(0, 4, 4))
    with caplog.at_level(logging.WARNING):
        source = open_source(config, "train")
    assert source.names == ("square.png",)
    assert [record.message for record in caplog.records] == [
        "Left out 2 images smaller than the scale 2: dot.png, line.png."
    ]


def test_changed_files_are_decoded_again(config, tmp_path):
    save(tmp_path / "images" / "a.png", picture(0, 4, 4))
    first = open_source(config, "train")
    new = save(tmp_path / "images" / "a.png", picture(1, 6, 4))
    second = open_source(config, "train")
    np.testing.assert_array_equal(second[0][1], new)
    assert second.fingerprint != first.fingerprint
    save(tmp_path / "images" / "b.png", picture(2, 4, 4))
    assert len(open_source(config, "train")) == 2


def test_fingerprint_is_that_of_the_pixels(config, tmp_path):
    save(tmp_path / "images" / "a.png", picture(0, 4, 4))
    first = open_source(config, "train").fingerprint
    shutil.copytree(tmp_path / "images", tmp_path / "copy")
    config.data.dir = str(tmp_path / "copy")
    assert open_source(config, "train").fingerprint == first


def test_a_file_replaced_by_one_of_its_size_and_time_is_decoded_anew(config, tmp_path):
    """As a copy with ``cp -p`` or an unpacked archive does it."""
    file = tmp_path / "images" / "a.bmp"
    first, second = picture(0, 8, 8), picture(1, 8, 8)
    for image in (first, second):
        save(file, image)
        os.utime(file, ns=(10**18, 10**18))
        np.testing.assert_array_equal(open_source(config, "train")[0][1], image)


# Official pairs


@pytest.fixture(params=["DIV2K", "plain"])
def pairs(request, tmp_path):
    """Three pairs whose LR images are not what bicubic would make, under official names."""
    root = tmp_path / "images"
    hr, lr = {
        "DIV2K": ("DIV2K_train_HR", "DIV2K_train_LR_bicubic"),
        "plain": ("HR", "LR_bicubic"),
    }[request.param]
    saved = []
    for i in (1, 2, 10):
        hq = save(root / hr / f"{i:04}.png", picture(i, 12, 16 + 4 * i))
        saved.append((save(root / lr / "X2" / f"{i:04}x2.png", hq[::2, ::2] ^ 1), hq))
    return saved, root / hr, root / lr / "X2"


def test_official_pairs(config, pairs):
    saved, _, _ = pairs
    source = open_source(config, "train")
    assert source.names == ("0001.png", "0002.png", "0010.png")
    for actual, expected in zip(source, saved, strict=True):
        np.testing.assert_array_equal(actual[0], expected[0])
        np.testing.assert_array_equal(actual[1], expected[1])


def test_lr_images_may_have_the_names_of_hr_images(config, pairs):
    saved, _, lr = pairs
    for file in list(lr.iterdir()):
        file.rename(lr / file.name.replace("x2", ""))
    np.testing.assert_array_equal(open_source(config, "train")[2][0], saved[2][0])


def test_scale_without_lr_images_has_them_made(config, pairs):
    config.scale = 4
    saved, _, _ = pairs
    np.testing.assert_array_equal(
        open_source(config, "train")[0][0], bicubic_pair(saved[0][1], 4)[0]
    )


def test_hr_image_that_is_no_multiple_of_the_scale(config, pairs):
    """MATLAB rounds sizes up: the LR image of 13x19 is 7x10, of which 6x9 are whole."""
    _, hr, lr = pairs
    hq = save(hr / "0001.png", picture(5, 13, 19))
    lq = save(lr / "0001x2.png", picture(6, 7, 10))
    actual = open_source(config, "train")[0]
    np.testing.assert_array_equal(actual[0], lq[:6, :9])
    np.testing.assert_array_equal(actual[1], hq[:12, :18])


def test_missing_lr_image(config, pairs):
    _, _, lr = pairs
    (lr / "0002x2.png").unlink()
    with pytest.raises(UserError, match=r"0002\.png has no LR image 0002x2\.png in .*X2"):
        open_source(config, "train")


def test_missing_hr_image(config, pairs):
    _, hr, _ = pairs
    (hr / "0002.png").unlink()
    with pytest.raises(UserError, match=r"0002x2\.png has no HR image in .*HR"):
        open_source(config, "train")


@pytest.mark.parametrize("shape", [(5, 10), (6, 9), (12, 20), (6, 12)])
def test_sizes_that_do_not_match(config, pairs, shape):
    _, _, lr = pairs
    save(lr / "0001x2.png", picture(0, *shape))
    size = f"{shape[1]}x{shape[0]}"
    with pytest.raises(
        UserError, match=rf"0001x2\.png \({size}\) is not .*0001\.png \(20x12\) reduced 2 times"
    ):
        open_source(config, "train")


def test_validation_pairs_are_the_official_ones(config, tmp_path):
    root = tmp_path / "images"
    hq = save(root / "DIV2K_valid_HR" / "0801.png", picture(0, 4, 4))
    lq = save(root / "DIV2K_valid_LR_bicubic" / "X2" / "0801x2.png", picture(1, 2, 2))
    ((actual_lq, actual_hq),) = open_source(config, "valid")
    np.testing.assert_array_equal(actual_lq, lq)
    np.testing.assert_array_equal(actual_hq, hq)


# Mistakes


@pytest.mark.parametrize("kept", [0, 20, 100])
def test_truncated_image_is_named(config, tmp_path, kept):
    save(tmp_path / "images" / "good.png", picture(0, 40, 40))
    save(tmp_path / "images" / "bad.png", picture(1, 40, 40))
    bad = tmp_path / "images" / "bad.png"
    bad.write_bytes(bad.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"Cannot read the image .*bad\.png .*; replace it"):
        open_source(config, "train")


def test_missing_folder(config):
    with pytest.raises(UserError, match=r"There is no folder .*images; set config\.data\.dir"):
        open_source(config, "train")


def test_a_link_to_nothing_is_a_sentence_or_left_out(config, tmp_path, caplog):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(folder / "a.png")
    (folder / "b.png").symlink_to(tmp_path / "gone.png")
    (folder / "c.png").symlink_to(folder / "c.png")
    config.data.source, config.data.dir = "folder", str(folder)
    with pytest.raises(UserError, match=r"Cannot read the image .*b.png \(No such file"):
        open_source(config, "train")
    config.data.skip_broken = True
    source = open_source(config, "train")
    assert source.names == ("a.png",)
    assert len(source.broken) == 2


def test_images_that_are_left_out_are_named_once_and_not_all(config, tmp_path, caplog):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(9):
        side = 40 if i == 8 else 10
        Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(folder / f"{i}.png")
    config.data.source, config.data.dir, config.data.patch = "folder", str(folder), 16
    mixture = open_mixture(config)
    with caplog.at_level("WARNING"), training_batches(config, mixture=mixture) as batches:
        next(batches)
    (line,) = [record.getMessage() for record in caplog.records if "16 pixels" in record.message]
    assert line.endswith("0.png, 1.png, 2.png, 3.png, 4.png and 3 more.")


def test_empty_folder(config, tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match=r"images has no images \(\.png, .*\.jpg"):
        open_source(config, "train")


def test_folder_setting_left_empty(config):
    config.data.dir = ""
    with pytest.raises(UserError, match=r"source=folder needs config\.data\.dir"):
        open_source(config, "train")


def test_folder_without_validation_images(config, tmp_path):
    save(tmp_path / "images" / "a.png", picture(0, 4, 4))
    with pytest.raises(UserError, match="no validation images: it needs a folder DIV2K_valid_HR"):
        open_source(config, "valid")


def test_unknown_source(config):
    config.data.source = "fodler"
    with pytest.raises(UserError, match="'fodler', but must be one of: tfds, folder, zip, samples"):
        open_source(config, "train")


def test_unknown_split(config):
    with pytest.raises(ValueError, match="split is 'test'"):
        open_source(config, "test")


def test_pairs_that_differ_only_in_their_endings():
    names = ["0001.png", "0001.jpg", "0002.png"]
    hr, lr = ([Path(folder, name) for name in names] for folder in ("HR", "LR"))
    assert pair_up(hr, lr[::-1], Path("LR"), 2) == lr
    with pytest.raises(UserError) as error:
        pair_up(hr, [lr[0], Path("LR/0002x2.jpg")], Path("LR"), 2)
    assert "In HR there is 0001.png and 0001.jpg, and in LR 0001.png" in str(error.value)
    assert pair_up(hr[:1], lr[:2], Path("LR"), 2) == lr[:1]
    with pytest.raises(UserError, match=r"In HR there is 0002\.png, and in LR 0002\.jpg and 0002"):
        pair_up(hr[2:], [Path("LR/0002.jpg"), Path("LR/0002.bmp")], Path("LR"), 2)


def test_without_a_home_images_are_kept_in_a_temporary_folder(monkeypatch, tmp_path):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    cache_folder.cache_clear()
    monkeypatch.setattr("pathlib.Path.home", no_home)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    settings = config_module.default()
    assert decoded_folder(settings).parent == tmp_path
    tmp_path.rename(tmp_path.with_name("gone"))
    cache_folder.cache_clear()
    with pytest.raises(UserError, match=r"no place for .*: set config\.data\.cache_dir"):
        decoded_folder(settings)
    cache_folder.cache_clear()
