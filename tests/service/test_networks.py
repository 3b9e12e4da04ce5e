"""Which network restores a picture."""

from pathlib import Path

import pytest
from stand_in import picture

from binsr_jax.deploy.model_file import save_model
from binsr_jax.errors import UserError
from binsr_jax.pretrained import NETWORKS
from binsr_jax.service.folders import safe_name
from binsr_jax.service.networks import Wish, choose, offered, suffix_of

HERE = {name: network for name, network in NETWORKS.items() if network.there}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(picture())
    return path


@pytest.mark.parametrize(
    ("wish", "name", "suffix"),
    [
        (Wish(), "x2", "_x2"),
        (Wish(scale=4), "x4", "_x4"),
        (Wish("upscale", 2, "clean"), "x2", "_x2"),
        (Wish(model="x4"), "x4", "_x4"),
        (Wish("denoise"), "denoise", "_denoised"),
        (Wish("denoise", 1, "denoise"), "denoise", "_denoised"),
    ],
)
def test_a_wish_has_a_network(file, wish, name, suffix):
    network = choose(HERE, wish, file)
    assert network.name == name
    assert suffix_of(network) == suffix


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (Wish(model="x9"), "no network 'x9'"),
        (Wish("denoise", model="x2"), "is for upscale"),
        (Wish(scale=3, model="x2"), "2 times, not 3"),
        (Wish("paint"), "no task 'paint'"),
        (Wish("denoise", 2), "keeps the size"),
        (Wish("denoise", None, "fast"), "no model 'fast'"),
        (Wish(scale=7), "7 times"),
    ],
)
def test_a_wish_without_one_is_a_sentence(file, wish, words):
    with pytest.raises(UserError, match=words):
        choose(HERE, wish, file)


def test_a_model_file_is_offered_by_its_name(tmp_path, file, small_model):
    path = tmp_path / "mine.binsr"
    save_model(path, small_model)
    networks = offered([str(path)])
    assert networks.keys() == {*HERE, "mine"}
    assert choose(networks, Wish(model="mine"), file).file == path
    assert networks["mine"].scale == 2
    path.rename(tmp_path / "x2.binsr")
    with pytest.raises(UserError, match="another name"):
        offered([str(tmp_path / "x2.binsr")])


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("photo.JPG", "photo.jpg"),
        ("../../etc/passwd", "passwd"),
        ("C:\\pictures\\a b.png", "a b.png"),
        ("", "picture"),
        ("..", "picture"),
        (".png", "png"),
        ("a\0b\n<i>.webp", "a_b__i_.webp"),
        ("été.tiff", "été.tiff"),
        ("x" * 500 + ".png", "x" * 100 + ".png"),
        ("photo.exe", "photo"),
    ],
)
def test_names_are_made_safe(name, safe):
    assert safe_name(name) == safe
