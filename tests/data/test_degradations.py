import numpy as np
import pytest

from binsr_jax.data.degradations import bicubic_pair, crop_to_multiple


@pytest.mark.parametrize(
    ("height", "width", "factor", "expected"),
    [(12, 12, 4, (12, 12)), (13, 15, 4, (12, 12)), (7, 9, 3, (6, 9)), (3, 5, 2, (2, 4))],
)
def test_crop_keeps_the_top_left(height, width, factor, expected):
    image = np.arange(height * width * 3).reshape(height, width, 3)
    cropped = crop_to_multiple(image, factor)
    assert cropped.shape == (*expected, 3)
    np.testing.assert_array_equal(cropped, image[: expected[0], : expected[1]])


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_pair_of_a_constant_image(scale):
    hq = np.full((25, 31, 3), (10, 128, 255), np.uint8)
    lq, cropped = bicubic_pair(hq, scale)
    assert lq.shape == (25 // scale, 31 // scale, 3)
    assert cropped.shape == (lq.shape[0] * scale, lq.shape[1] * scale, 3)
    assert (lq == hq[0, 0]).all()
    assert (cropped == hq[0, 0]).all()


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_pair_covers_the_same_place(scale):
    """In the middle of a linear ramp any symmetric filter gives the mean of the covered pixels."""
    ramp = np.arange(48, dtype=np.uint8)[None, :, None] * np.uint8(4)
    hq = np.broadcast_to(ramp, (48, 48, 3)).copy()
    lq, hq = bicubic_pair(hq, scale)
    covered = hq.reshape(48 // scale, scale, 48 // scale, scale, 3).mean(axis=(1, 3))
    edge = 4  # LQ pixels whose filter reaches over the edge
    inner = np.s_[edge:-edge, edge:-edge]
    assert np.abs(lq[inner] - covered[inner]).max() <= 0.5


def test_one_lq_pixel():
    lq, hq = bicubic_pair(np.full((3, 2, 3), 7, np.uint8), 2)
    assert (lq.shape, hq.shape) == ((1, 1, 3), (2, 2, 3))
    assert (lq == 7).all()
