"""YUV to RGB and back, against published values, and against libswscale."""

import itertools
from typing import Any

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from binsr_jax.errors import UserError
from binsr_jax.video.colour import RGB, Coding, from_rgb, matrix_of, to_rgb

WHOLE = (False, False)
SWSCALE = {
    1: Colorspace.ITU709,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
}


@pytest.mark.parametrize(
    ("coding", "rgb", "yuv"),
    [
        # Of Poynton's "Digital Video and HD", and of the JFIF specification.
        (Coding(1, False, 8, WHOLE), (1, 0, 0), (63, 102, 240)),
        (Coding(1, False, 8, WHOLE), (0, 1, 0), (173, 42, 26)),
        (Coding(6, False, 8, WHOLE), (1, 0, 0), (81, 90, 240)),
        (Coding(6, False, 8, WHOLE), (0, 0, 1), (41, 240, 110)),
        (Coding(6, True, 8, WHOLE), (1, 0, 0), (76, 85, 255)),
        (Coding(1, False, 8, WHOLE), (1, 1, 1), (235, 128, 128)),
        (Coding(1, False, 10, WHOLE), (1, 1, 1), (940, 512, 512)),
        (Coding(9, False, 10, WHOLE), (0, 0, 0), (64, 512, 512)),
        (Coding(9, True, 10, WHOLE), (1, 1, 1), (1023, 512, 512)),
    ],
)
def test_known_colours(coding, rgb, yuv):
    pixel = np.array([[rgb]], np.float32)
    planes = from_rgb(pixel, coding)
    assert tuple(int(plane[0, 0]) for plane in planes) == yuv
    np.testing.assert_allclose(
        to_rgb(planes, coding), pixel, atol=1.01 / 2 ** (coding.bits - 8) / 110
    )


@pytest.mark.parametrize(
    ("matrix", "full", "bits"), list(itertools.product((1, 4, 6, 7, 9), (False, True), (8, 10)))
)
def test_whole_chroma_comes_back_to_the_level(matrix, full, bits):
    coding = Coding(matrix, full, bits, WHOLE)
    colours = np.random.default_rng(0).random((16, 16, 3)).astype(np.float32)
    planes = from_rgb(colours, coding)
    for plane, again in zip(planes, from_rgb(to_rgb(planes, coding), coding), strict=True):
        np.testing.assert_allclose(again.astype(int), plane, atol=1)


@pytest.mark.parametrize("halved", [(True, True), (False, True)])
@pytest.mark.parametrize("cosited", [True, False])
def test_smooth_halved_chroma_comes_back_within_two_levels(halved, cosited):
    coding = Coding(1, False, 8, halved, cosited)
    y, x = np.mgrid[:33, :47]
    colours = np.stack([0.5 + 0.3 * np.sin(x / 9 + y / 11 + c) for c in range(3)], -1)
    planes = from_rgb(colours.astype(np.float32), coding)
    assert planes[1].shape == (17 if halved[0] else 33, 24)
    for plane, again in zip(planes, from_rgb(to_rgb(planes, coding), coding), strict=True):
        np.testing.assert_allclose(again.astype(int), plane, atol=2)


@pytest.mark.parametrize(("matrix", "bits"), list(itertools.product(SWSCALE, (8, 10))))
def test_libswscale_finds_the_same_colours(matrix, bits):
    coding = Coding(matrix, False, bits, WHOLE)
    colours = np.random.default_rng(1).random((16, 32, 3)).astype(np.float32)
    planes = from_rgb(colours, coding)
    frame = av.VideoFrame(32, 16, "yuv444p" if bits == 8 else "yuv444p10le")
    for place, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((16, place.line_size // values.itemsize), values.dtype)
        rows[:, :32] = values
        place.update(rows.tobytes())
    theirs: Any = frame.reformat(
        format="rgb48le",
        src_colorspace=SWSCALE[matrix],
        dst_colorspace=SWSCALE[matrix],
        src_color_range=ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
    )
    white = 255 * 256  # its white of 16 bits, where 65,535 is meant
    expected = np.clip(theirs.to_ndarray() / white, 0, 1)
    np.testing.assert_allclose(to_rgb(planes, coding), expected, atol=2e-4)


def test_chroma_lies_on_even_columns_or_between():
    luma = np.full((2, 8), 128, np.uint8)
    step = np.array([[50, 50, 200, 200]], np.uint8)
    grey = np.full((1, 4), 128, np.uint8)
    for cosited, expected in (
        (True, [50, 50, 50, 125, 200, 200, 200, 200]),
        (False, [50, 50, 50, 87.5, 162.5, 200, 200, 200]),
    ):
        coding = Coding(6, True, 8, (True, True), cosited)
        blue = to_rgb([luma, step, grey], coding)[0, :, 2]
        chroma = (blue - 128 / 255) / 1.772 * 255 + 128
        # Beyond these blue is clipped.
        np.testing.assert_allclose(chroma, np.clip(expected, 56, 199.7), atol=0.5)


def test_planes_of_rgb_and_of_grey():
    planes = [np.full((2, 3), value, np.uint8) for value in (10, 20, 30)]
    rgb = to_rgb(planes, Coding(RGB, True, 8, WHOLE))
    np.testing.assert_allclose(rgb[0, 0] * 255, [30, 10, 20], atol=1e-4)
    grey = to_rgb([np.full((2, 3), 235, np.uint8)], Coding(6, False, 8))
    np.testing.assert_allclose(grey, 1)


def test_a_matrix_that_is_not_named_is_that_of_the_size():
    assert matrix_of(2, 576, 720) == 6
    assert matrix_of(2, 720, 1280) == 1
    assert matrix_of(9, 576, 720) == 9
    with pytest.raises(UserError, match=r"number 14 of ITU-T H\.273"):
        matrix_of(14, 576, 720)
