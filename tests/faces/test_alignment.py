"""Where an aligned face lies, what its parts are, and what comes back when it is pasted."""

import numpy as np
import pytest
from astronaut import LANDMARKS, portrait
from PIL import Image

from binsr_jax.faces.alignment import aligned_face, alignment, part_boxes, pasted
from binsr_jax.models.dfdnet import PARTS, SIDE


def turned(degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """The portrait turned anticlockwise around its centre, and its landmarks."""
    image = Image.fromarray(portrait()).rotate(degrees, Image.Resampling.BICUBIC)
    angle = np.deg2rad(degrees)
    x, y = (LANDMARKS - 255.5).T
    cos, sin = np.cos(angle), np.sin(angle)
    landmarks = np.stack([x * cos + y * sin, y * cos - x * sin], axis=1)
    return np.asarray(image), landmarks + 255.5


def test_corners_go_to_their_places():
    """Of a face that is the template enlarged, turned and moved, the transform is known."""
    template = np.array(
        [(168.96, 244.19), (218.98, 246.76), (293.39, 246.8), (343.39, 244.31), (256.79, 339.25)]
    )
    turn = np.array([[0.0, -1.0], [1.0, 0.0]])  # a quarter
    landmarks = np.zeros((68, 2))
    landmarks[[36, 39, 42, 45, 33]] = 0.25 * template @ turn.T + (400, 30)
    transform = alignment(landmarks)
    assert transform.scale == pytest.approx(4, rel=1e-3)
    np.testing.assert_allclose(transform([(400, 30)]), [(0, 0)], atol=0.1)
    np.testing.assert_allclose(transform(landmarks[[36, 33]]), template[[0, 4]], atol=0.1)


@pytest.mark.parametrize("degrees", [-60, 35, 180])
def test_tilted_faces_are_upright(degrees):
    image, landmarks = turned(degrees)
    upright = aligned_face(portrait(), alignment(LANDMARKS))
    face = aligned_face(image, alignment(landmarks))
    inner = np.s_[100:400, 100:400]
    assert np.abs(face[inner] - upright[inner]).mean() < 2  # of 255; what one rotation costs


def test_boxes_by_hand():
    """Each part's box is a square of its largest extent around its landmarks' mean."""
    landmarks = np.zeros((68, 2))
    landmarks[:] = (256, 256)
    landmarks[48:68] = [(x, y) for x in (200, 300) for y in (380, 420)] * 5
    left = [(x, 200) for x in (140, 151, 162, 173, 184, 195, 140, 151, 162, 173, 184)]
    landmarks[[*range(17, 22), *range(36, 42)]] = left
    boxes = part_boxes(landmarks)
    assert list(PARTS) == ["left_eye", "right_eye", "nose", "mouth"]
    # The mean of x is 1815 / 11 = 165, and half of 195 - 140 is 27.5.
    assert list(boxes[0]) == [138, 173, 192, 227]
    assert list(boxes[1]) == [241, 241, 272, 272]  # no extent: half a side is 16
    assert list(boxes[3]) == [250 - 50 + 1, 400 - 50 + 1, 300, 450]


def test_boxes_stay_inside():
    landmarks = np.full((68, 2), -40.0)
    landmarks[48:68] = np.linspace((-100, 0), (700, 600), 20)
    boxes = part_boxes(landmarks)
    assert boxes.min() == 0
    assert boxes.max() == SIDE
    sides = boxes[:, 2:] - boxes[:, :2]
    assert list(sides[0]) == [31, 31]  # moved, not cut
    assert (sides > 0).all()


@pytest.mark.parametrize(("side", "psnr"), [(512, 38), (1024, 38), (128, 34)])
def test_pasting_what_was_cut_out_costs_a_resampling(side, psnr):
    """The face in the portrait is 174 pixels wide, a third of the square that it is aligned to."""
    pixels = np.asarray(Image.fromarray(portrait()).resize((side, side), Image.Resampling.BICUBIC))
    transform = alignment((LANDMARKS + 0.5) * side / 512 - 0.5)
    place, new = pasted(pixels, aligned_face(pixels, transform), transform)
    error = new.astype(float) - pixels[place]
    assert 10 * np.log10(255**2 / np.mean(error**2)) > psnr
    assert abs(error.mean()) < 0.1


def test_a_pasted_face_fills_the_middle_and_fades_out():
    pixels = portrait()
    transform = alignment(LANDMARKS)
    grey = np.full((SIDE, SIDE, 3), 100.0)
    place, new = pasted(pixels, grey, transform)
    middle = transform.inverse([(255.5, 255.5)])[0].round().astype(int)
    x, y = middle - (place[1].start, place[0].start)
    np.testing.assert_array_equal(new[y - 30 : y + 30, x - 30 : x + 30], 100)
    np.testing.assert_array_equal(new[:, 0], pixels[place][:, 0])
    np.testing.assert_array_equal(new[-1], pixels[place][-1])


def test_a_face_at_the_border_is_pasted_up_to_it():
    pixels = np.ascontiguousarray(portrait()[100:, 190:])
    transform = alignment(LANDMARKS - (190, 100))
    face = aligned_face(pixels, transform)
    assert np.isfinite(face).all()
    place, new = pasted(pixels, np.zeros_like(face), transform)
    assert place[0].start == 0
    assert place[1].start == 0
    assert new[0, 30].max() == 0  # no seam along the border of the picture
