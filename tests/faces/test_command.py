"""``binsr faces`` and its weights file: what becomes of files, and sentences for mistakes."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from astronaut import LANDMARKS, portrait
from PIL import Image

from binsr_jax.commands import faces, main
from binsr_jax.errors import UserError
from binsr_jax.faces.model import load_face_network


class OneFinder:
    """Finds the face of the portrait in pictures of its size, and none in others."""

    def __init__(self, search_side: int) -> None:
        pass

    def find(self, pixels: np.ndarray) -> list[np.ndarray]:
        return [LANDMARKS] if pixels.shape[:2] == (512, 512) else []


@pytest.fixture
def quick(monkeypatch):
    """A finder without dlib, and a network that halves a face's light."""
    monkeypatch.setattr(faces, "FaceFinder", OneFinder)
    monkeypatch.setattr(faces, "load_face_network", lambda file: lambda face, boxes: face / 2)


def test_pictures_with_and_without_faces(quick, tmp_path, capsys):
    Image.fromarray(portrait()).save(tmp_path / "a.png")
    Image.fromarray(portrait()[:200]).save(tmp_path / "b.jpg", quality=50)
    assert main(["faces", str(tmp_path / "a.png"), str(tmp_path / "b.jpg")]) == 0
    out, err = capsys.readouterr()
    said = out + err
    assert "a.png: 1 face." in said
    assert "b.jpg: no faces; it stays as it is." in said
    assert "2 done." in said
    restored = np.asarray(Image.open(tmp_path / "a_faces.png"))
    assert restored[100:150, 200:250].mean() / portrait()[100:150, 200:250].mean() < 0.55
    np.testing.assert_array_equal(restored[300:], portrait()[300:])
    assert (tmp_path / "b_faces.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()


def test_alpha_and_another_format(quick, tmp_path):
    alpha = np.full((512, 512, 1), 90, np.uint8)
    Image.fromarray(np.concatenate([portrait(), alpha], axis=2)).save(tmp_path / "a.png")
    Image.fromarray(portrait()[:200]).save(tmp_path / "b.png")
    assert main(["faces", str(tmp_path), "-o", str(tmp_path / "out"), "-f", "tif"]) == 0
    a, b = (np.asarray(Image.open(tmp_path / "out" / f"{name}_faces.tif")) for name in "ab")
    np.testing.assert_array_equal(a[..., 3], 90)
    np.testing.assert_array_equal(b, portrait()[:200])


def test_without_weights_a_sentence_says_what_to_get(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(faces, "FaceFinder", OneFinder)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    Image.fromarray(portrait()).save(tmp_path / "a.png")
    assert main(["faces", str(tmp_path / "a.png")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(tmp_path / "binsr-jax" / "dfdnet.safetensors") in error
    assert "--arch dfdnet" in error


@pytest.mark.parametrize("kind", ["broken", "other", "arrays"])
def test_other_files_are_refused(tmp_path, kind):
    file = Path(tmp_path / "dfdnet.safetensors")
    arrays = {"params/tail/bias": np.zeros(3, np.float32)}
    if kind == "broken":
        file.write_bytes(b"\xff" * 50)
    else:
        metadata = {"format": "binsr-dfdnet"} if kind == "arrays" else {}
        safetensors.numpy.save_file(arrays, file, metadata)
    sentence = {"broken": "cannot be read", "other": "no file of DFDNet", "arrays": "not hold the"}
    with pytest.raises(UserError, match=sentence[kind]):
        load_face_network(file)


def test_no_image_is_named(capsys):
    assert main(["faces"]) == 1
    assert "binsr faces PATH" in capsys.readouterr().err


def test_import_needs_the_dictionary(tmp_path, capsys):
    file, output = str(tmp_path / "x.npz"), str(tmp_path / "o")
    assert main(["import-torch", file, "--arch", "dfdnet", "-o", output]) == 1
    assert "--dictionary" in capsys.readouterr().err
