"""Image operations against the reference arrays, MATLAB's own files, and plain numpy formulas."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binsr_jax.ops import image as ops

Reference = Callable[[str], dict[str, np.ndarray]]


def _read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape)


def test_imresize_equals_the_reference(reference: Reference) -> None:
    arrays = reference("6_imresize")
    checked = 0
    for name, expected in arrays.items():
        case = re.fullmatch(r"(\w+?)(?:_kair)?_(down|up)(\d)(_noaa)?", name)
        if case is None or f"{case[1]}_in" not in arrays:
            continue
        image, factor = arrays[f"{case[1]}_in"].astype(np.float64), int(case[3])
        scale = 1 / factor if case[2] == "down" else factor
        resized = ops.imresize(image, scale, antialias=case[4] is None)
        # The reference computes in float32, positions included, which are as large as the image.
        np.testing.assert_allclose(resized, expected, rtol=0, atol=5e-6, err_msg=name)
        checked += 1
    assert checked


@pytest.mark.parametrize(
    ("folder", "factor", "edge"),
    [("x2", 2, "clamp"), ("x3", 3, "clamp"), ("x4", 4, "clamp"), ("x2_mirror", 2, "mirror")],
)
def test_imresize_uint8_equals_matlabs_files(
    data_dir: Path, folder: str, factor: int, edge: ops.Edge
) -> None:
    files = sorted((data_dir / "Set5_LR" / folder).glob("*.png"))
    assert files
    for file in files:
        original = _read(data_dir / "Set5" / file.name)
        height, width = (size // factor * factor for size in original.shape[:2])
        small = ops.imresize_uint8(original[:height, :width], 1 / factor, edge=edge)
        np.testing.assert_array_equal(small, _read(file), err_msg=str(file))


@pytest.mark.parametrize("scale", [0.25, 1 / 3, 0.5, 0.7, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("edge", ["mirror", "clamp"])
def test_resizing_a_padded_image_changes_nothing_inside(scale: float, edge: ops.Edge) -> None:
    """The edge rules equal numpy's padding modes "symmetric" and "edge"."""
    image, pad = _random(30, 24, 2), 60  # 60 times any of the scales is an integer
    mode = "symmetric" if edge == "mirror" else "edge"
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode=mode)
    resized, expected = (ops.imresize(x, scale, edge=edge) for x in (image, padded))
    start = round(pad * scale)
    expected = expected[start : start + resized.shape[0], start : start + resized.shape[1]]
    np.testing.assert_allclose(resized, expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 3), (2, 3, 4), (7, 1, 3)])
@pytest.mark.parametrize("scale", [0.25, 1 / 3, 2.0, 3.0])
@pytest.mark.parametrize("edge", ["mirror", "clamp"])
def test_tiny_images_are_resized(shape: tuple[int, ...], scale: float, edge: ops.Edge) -> None:
    expected = (int(np.ceil(shape[0] * scale)), int(np.ceil(shape[1] * scale)), shape[2])
    resized = ops.imresize(np.full(shape, 0.3), scale, edge=edge)
    np.testing.assert_allclose(resized, np.full(expected, 0.3), atol=1e-14)
    resized = ops.imresize_uint8(np.full(shape, 77, np.uint8), scale, edge=edge)
    np.testing.assert_array_equal(resized, np.full(expected, 77))


def test_enlarging_reproduces_polynomials_of_degree_two() -> None:
    """A property of Keys' kernel, away from the edges."""
    line = np.arange(20.0)
    image = (line[:, None] ** 2 + 3 * line[None, :])[..., None]
    enlarged = ops.imresize(image, 2)
    centre = (np.arange(40) + 0.5) / 2 - 0.5
    expected = centre[:, None] ** 2 + 3 * centre[None, :]
    np.testing.assert_allclose(enlarged[4:-4, 4:-4, 0], expected[4:-4, 4:-4], atol=1e-10)


def test_imresize_keeps_the_float_type_and_refuses_others() -> None:
    assert ops.imresize(_random(4, 4, 3).astype(np.float32), 0.5).dtype == np.float32
    assert ops.imresize(_random(4, 4, 3), 0.5).dtype == np.float64
    with pytest.raises(TypeError, match="uint8"):
        ops.imresize(np.zeros((4, 4, 3), np.uint8), 0.5)
    with pytest.raises(TypeError, match="float64"):
        ops.imresize_uint8(np.zeros((4, 4, 3)), 0.5)
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        ops.imresize(np.zeros((4, 4)), 0.5)
    with pytest.raises(ValueError, match=r"\(0, 4, 3\)"):
        ops.imresize(np.zeros((0, 4, 3)), 0.5)
    with pytest.raises(ValueError, match="scale, not 0"):
        ops.imresize(np.zeros((4, 4, 3)), 0)
    with pytest.raises(ValueError, match="'wrap'"):
        ops.imresize(np.zeros((4, 4, 3)), 2, edge="wrap")  # pyright: ignore[reportArgumentType]


def test_to_uint8_rounds_half_up_and_clips() -> None:
    values = np.array([-3.0, -0.5, 0.49, 0.5, 1.5, 2.5, 254.5, 255.4, 300.0])
    np.testing.assert_array_equal(ops.to_uint8(values), [0, 0, 0, 1, 2, 3, 255, 255, 255])


def test_luma_equals_the_reference(reference: Reference) -> None:
    arrays = reference("6_metrics")
    image = arrays["conv_uint8"]
    y = ops.rgb_to_y(image)
    assert y.dtype == np.float64
    # The reference rounds to float32, whose last place at 235 is 1.5e-5.
    np.testing.assert_allclose(
        ops.rgb_to_y(image[..., ::-1]), arrays["to_y_channel_uint8_bgr"][..., 0], atol=3e-5
    )
    np.testing.assert_array_equal(np.round(y), arrays["rgb2ycbcr_uint8_yonly"])
    np.testing.assert_allclose(
        ops.rgb_to_y(arrays["conv_float"] * 255.0) / 255, arrays["rgb2ycbcr_float_yonly"], atol=2e-7
    )


def test_luma_of_black_white_and_grey() -> None:
    image = np.array([[[0, 0, 0], [255, 255, 255], [51, 51, 51]]], np.uint8)
    np.testing.assert_allclose(ops.rgb_to_y(image), [[16, 235, 16 + 219 / 5]], atol=1e-12)
    with pytest.raises(ValueError, match=r"\(2, 2, 4\)"):
        ops.rgb_to_y(np.zeros((2, 2, 4)))
