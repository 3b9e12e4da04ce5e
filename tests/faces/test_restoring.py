"""All faces of a picture are restored, and nothing else of it changes."""

import importlib.util

import numpy as np
import pytest
from astronaut import LANDMARKS, portrait
from PIL import Image

from binsr_jax.errors import UserError
from binsr_jax.faces import finding
from binsr_jax.faces.restoring import restore_faces

needs_dlib = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("dlib", "face_recognition_models"))),
    reason="dlib and face_recognition_models are not installed",
)


class Known:
    """Finds faces that are known."""

    def __init__(self, *faces: np.ndarray) -> None:
        self.faces = faces

    def find(self, pixels: np.ndarray) -> list[np.ndarray]:
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3
        return list(self.faces)


def same(face: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    return face


def darker(face: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    return face / 2


def test_a_network_that_changes_nothing():
    """The picture differs by resampling, and outside of the square of the face not at all."""
    pixels = portrait()
    before = pixels.copy()
    result, faces = restore_faces(pixels, Known(LANDMARKS), same)
    assert faces == 1
    np.testing.assert_array_equal(pixels, before)
    error = result.astype(float) - pixels
    assert np.abs(error).mean() < 0.2
    np.testing.assert_array_equal(error[220:], 0)
    np.testing.assert_array_equal(error[:, 320:], 0)
    assert np.abs(error[40:180, 170:280]).max() > 0


def test_several_faces_and_progress():
    pixels = np.concatenate([portrait(), portrait()[:, ::-1]], axis=1)
    mirrored = np.stack([1023 - LANDMARKS[:, 0], LANDMARKS[:, 1]], axis=1)
    # Mirrored landmarks are those of the other side.
    order = [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)]
    order += [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40, *range(54, 47, -1)]
    order += [*range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1)]
    seen: list[tuple[int, int]] = []
    result, faces = restore_faces(
        pixels, Known(LANDMARKS, mirrored[order]), darker, lambda *done: seen.append(done)
    )
    assert faces == 2
    assert seen == [(0, 2), (1, 2), (2, 2)]
    for columns in (slice(200, 250), slice(773, 823)):
        ratio = result[100:150, columns].mean() / pixels[100:150, columns].mean()
        assert ratio == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_pictures_of_8_and_16_bits(dtype):
    grey = portrait().mean(axis=2, keepdims=True).astype(dtype) * (1 if dtype == np.uint8 else 257)
    result, _ = restore_faces(grey, Known(LANDMARKS), darker)
    assert result.dtype == dtype
    assert result.shape == grey.shape
    ratio = result[100:150, 200:250].mean() / grey[100:150, 200:250].mean()
    assert ratio == pytest.approx(0.5, abs=0.01)


def test_boxes_are_those_of_the_aligned_face():
    def network(face: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        assert face.shape == (512, 512, 3)
        assert 0 <= face.min() <= face.max() <= 1
        left_eye, right_eye, nose, mouth = boxes
        assert left_eye[2] < right_eye[0]
        assert nose[3] < mouth[3]
        # The pupil of the left eye is darker than the cheek below its box.
        x1, y1, x2, y2 = left_eye
        assert face[y1:y2, x1:x2].min() < 0.5 * face[y2 + 10, (x1 + x2) // 2].mean()
        return face

    restore_faces(portrait(), Known(LANDMARKS), network)


def test_a_picture_without_faces_is_the_same_object():
    pixels = portrait()
    result, faces = restore_faces(pixels, Known(), same)
    assert result is pixels
    assert faces == 0


def test_without_dlib_a_sentence_says_how_to_get_it(monkeypatch):
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(finding.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"pip install 'binsr-jax\[faces\]'"):
        finding.FaceFinder()


@needs_dlib
def test_dlib_finds_the_face():
    (landmarks,) = finding.FaceFinder(search_side=512).find(portrait())
    assert np.abs(landmarks - LANDMARKS).max() < 4


@needs_dlib
def test_dlib_finds_a_tiny_tilted_face():
    """32 pixels wide, of which the picture is enlarged."""
    small = Image.fromarray(portrait()).rotate(30, Image.Resampling.BICUBIC).resize((160, 160))
    (landmarks,) = finding.FaceFinder(search_side=448).find(np.asarray(small))
    eyes = landmarks[42:48].mean(axis=0) - landmarks[36:42].mean(axis=0)
    assert np.degrees(np.arctan2(-eyes[1], eyes[0])) == pytest.approx(30, abs=10)


@needs_dlib
def test_dlib_finds_no_face_in_a_picture_without_one():
    assert not finding.FaceFinder(search_side=300).find(portrait()[300:, :200])
