"""The registry of packaged networks, what is read of them, and which one is taken."""

import json
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from taps import photo

import binsr_jax
from binsr_jax import pretrained
from binsr_jax.commands import main, pictures
from binsr_jax.deploy import cards as cards_module
from binsr_jax.deploy.choice import (
    GENTLE,
    PHOTO_BELOW,
    by_default,
    gently,
    jpeg_quality,
)
from binsr_jax.deploy.model_file import load_model_file, save_model
from binsr_jax.deploy.steps import load_steps
from binsr_jax.errors import UserError
from binsr_jax.pretrained import NETWORKS

THERE = [network for network in NETWORKS.values() if network.there]


def test_files_are_those_of_the_registry_and_small():
    files = set(Path(pretrained.__file__).parent.glob("*.binsr"))
    assert files == {network.file for network in THERE}
    assert all(file.stat().st_size < 400_000 for file in files)
    assert sum(file.stat().st_size for file in files) < 3_000_000


@pytest.mark.parametrize("network", THERE, ids=lambda network: network.name)
def test_a_file_is_what_the_registry_says(network):
    model = load_model_file(network.file)
    tasks = {"upscale": ("sr", "photo"), "denoise": ("denoise",), "dejpeg": ("jpeg_colour",)}
    assert model.config.task in tasks[network.task]
    assert model.config.scale == network.scale
    assert (model.config.task == "photo") == (network.kind not in ("clean", "fast", ""))
    assert model.provenance["terms"]
    assert model.provenance["scores"]


@pytest.mark.parametrize("network", THERE, ids=lambda network: network.name)
def test_networks_are_loaded_by_name(network):
    assert binsr_jax.load(network.name).scale == network.scale


def test_models_lists_those_that_are_there():
    found = cast(Any, binsr_jax.models)()
    assert [card.name for card in found] == [network.name for network in THERE]
    for card in found:
        assert card.size == card.file.stat().st_size
        assert card.scores
        assert card.terms


def test_the_table_names_all(capsys):
    assert main(["models"]) == 0
    table = capsys.readouterr().out
    for network in NETWORKS.values():
        assert network.name in table
    assert "KB" in table


def test_time_is_measured(monkeypatch, capsys):
    class Fast:
        calls = 0

        def upscale(self, image: np.ndarray) -> np.ndarray:
            self.calls += 1
            return image

    fast = Fast()
    monkeypatch.setattr(cards_module, "load", lambda name: fast)
    seconds = cards_module.seconds_per_megapixel("x2", side=10)
    assert fast.calls == 4
    assert 0 < seconds < 10
    assert main(["models", "--time"]) == 0
    assert "on this machine" in capsys.readouterr().out


def test_measured_times_are_those_of_networks(tmp_path, monkeypatch):
    if cards_module.TIMES.is_file():
        assert cards_module.times()[1].keys() <= NETWORKS.keys()
    file = tmp_path / "times.json"
    file.write_text(json.dumps({"machine": "a", "seconds_per_megapixel": {"x2": 1.5}}))
    monkeypatch.setattr(cards_module, "TIMES", file)
    assert cards_module.cards()[0].seconds == 1.5


def test_names_that_there_are_not():
    with pytest.raises(UserError, match=r"no packaged network 'x5'.*x2, x3, x4"):
        binsr_jax.load("x5")
    with pytest.raises(UserError, match=r"There is no model file x5\.binsr"):
        binsr_jax.load("x5.binsr")
    with pytest.raises(UserError, match="no packaged network of the kind fast that enlarges 4"):
        pretrained.find("upscale", 4, "fast")


# Which network a picture is enlarged with


@pytest.mark.parametrize("quality", [25, 40, 50, 75, 90, 95, 100])
def test_the_quality_of_a_jpeg_is_read_from_its_table(quality, tmp_path):
    Image.fromarray(photo(24, 20)).save(tmp_path / "a.jpg", quality=quality)
    found = jpeg_quality(tmp_path / "a.jpg")
    assert found is not None
    assert abs(found - quality) <= 1


def test_other_files_have_no_quality(tmp_path):
    Image.fromarray(photo(24, 20)).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    os.mkfifo(tmp_path / "d.jpg")  # not waited for
    for name in ("a.png", "b.jpg", "c.jpg", "d.jpg"):
        assert jpeg_quality(tmp_path / name) is None


@pytest.fixture
def album(tmp_path):
    image = Image.fromarray(photo(24, 20))
    image.save(tmp_path / "a.jpg", quality=PHOTO_BELOW - 10)
    image.save(tmp_path / "b.jpg", quality=99)
    image.save(tmp_path / "c.png")
    return [tmp_path / name for name in ("a.jpg", "b.jpg", "c.png")]


def _with_photo(monkeypatch, file):
    own = pretrained.Packaged("x2-photo", "upscale", 2, "photo", file, "photographs")
    monkeypatch.setitem(NETWORKS, "x2-photo", own)


def test_jpeg_photographs_get_their_network(album, monkeypatch):
    _with_photo(monkeypatch, NETWORKS["x2"].file)
    groups, sentence = by_default(album, 2)
    assert groups == {"x2-photo": album[:1], "x2": album[1:]}
    assert sentence.startswith("JPEG files below quality 95: 1 of 3")
    assert "--model clean" in sentence
    assert by_default(album[1:], 2) == ({"x2": album[1:]}, "")


def test_jpeg_files_of_high_quality_are_cleaned_gently(album, tmp_path):
    low, high, other = album
    assert gently([low, other]) == ({1.0: [low, other]}, "")
    middle = tmp_path / "d.jpg"
    Image.fromarray(photo(24, 20)).save(middle, quality=96)
    strengths, sentence = gently([*album, middle])
    assert strengths == {1.0: [low, other], GENTLE[98]: [high], GENTLE[95]: [middle]}
    assert sentence == (
        "JPEG files of quality 95 or more: 2 of 4, changed with strength 0.5 or 0.25 "
        "(--strength 1 applies all of it)."
    )


@pytest.mark.parametrize("flags", [[], ["--strength", "1"], ["-m", str(NETWORKS["dejpeg"].file)]])
def test_dejpeg_changes_a_good_file_less_unless_told_otherwise(album, tmp_path, capsys, flags):
    assert main(["dejpeg", str(album[1]), "-o", str(tmp_path / "out.png"), *flags]) == 0
    assert ("1 of 1" in capsys.readouterr().out) == (not flags)
    pixels = np.asarray(Image.open(album[1]).convert("RGB"))
    strength = 1.0 if flags else GENTLE[98]
    expected = load_steps(["dejpeg"], strength=strength).upscale(pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), expected)


def test_without_it_they_get_the_other_and_it_is_said(album, monkeypatch, tmp_path):
    _with_photo(monkeypatch, tmp_path / "absent")
    groups, sentence = by_default(album, 2)
    assert groups == {"x2": album}
    assert "has no network for photographs" in sentence


def test_upscale_takes_each_picture_with_its_network(
    album, monkeypatch, make_model, tmp_path, capsys
):
    monkeypatch.setattr(pictures, "keep_compiled_programs", lambda: None)
    save_model(tmp_path / "mine.binsr", make_model(image_skip="bilinear"))
    _with_photo(monkeypatch, tmp_path / "mine.binsr")
    save_model(tmp_path / "clean.binsr", make_model())
    clean = pretrained.Packaged("x2", "upscale", 2, "clean", tmp_path / "clean.binsr", "clean")
    monkeypatch.setitem(NETWORKS, "x2", clean)
    assert main(["upscale", "-f", "png", *map(str, album)]) == 0
    output = capsys.readouterr().out
    assert "by x2-photo" in output
    assert "3 enlarged." in output
    for file, model in ((album[0], "mine"), (album[1], "clean"), (album[2], "clean")):
        expected = binsr_jax.load(tmp_path / f"{model}.binsr").upscale(Image.open(file))
        with Image.open(file.with_name(f"{file.stem}_x2.png")) as made:
            np.testing.assert_array_equal(np.asarray(made), np.asarray(expected))


def test_kinds_and_scales(album, monkeypatch, make_model, tmp_path, capsys):
    monkeypatch.setattr(pictures, "keep_compiled_programs", lambda: None)
    save_model(tmp_path / "mine.binsr", make_model())
    _with_photo(monkeypatch, tmp_path / "mine.binsr")
    assert main(["upscale", "--model", "photo", str(album[2]), "-o", str(tmp_path / "o.png")]) == 0
    expected = binsr_jax.load(tmp_path / "mine.binsr").upscale(np.asarray(Image.open(album[2])))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "o.png")), expected)
    capsys.readouterr()
    assert main(["upscale", "-s", "5", str(album[2])]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "enlarges 5 times" in line
    monkeypatch.setitem(
        NETWORKS, "x3", pretrained.Packaged("x3", "upscale", 3, "clean", tmp_path / "no", "it")
    )
    assert main(["upscale", "-s", "3", str(album[2])]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "The network x3 (for it) is not in this version" in line
