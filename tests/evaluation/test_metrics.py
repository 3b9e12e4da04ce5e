"""PSNR and SSIM against the reference numbers, scikit-image and hand arithmetic."""

from collections.abc import Callable

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from binsr_jax.evaluation.metrics import psnr, psnrb, ssim
from binsr_jax.ops.image import luma_uint8, rgb_to_y

Reference = Callable[[str], dict[str, np.ndarray]]


def _pair(*shape: int, spread: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 256, shape)
    b = a + rng.integers(-spread, spread + 1, shape)
    return a.astype(np.uint8), np.clip(b, 0, 255).astype(np.uint8)


def test_scores_equal_the_reference(reference: Reference) -> None:
    arrays = reference("6_metrics")
    for pair, border, luma, expected_psnr, expected_ssim in arrays["basicsr_psnr_ssim"]:
        a, b = arrays[f"pair{int(pair)}_a"], arrays[f"pair{int(pair)}_b"]
        if luma:  # these numbers take the images to be BGR
            a, b = a[..., ::-1], b[..., ::-1]
        # The reference takes luma in float32, which shows in the seventh digit.
        assert psnr(a, b, int(border), bool(luma)) == pytest.approx(expected_psnr, abs=5e-6)
        assert ssim(a, b, int(border), bool(luma)) == pytest.approx(expected_ssim, abs=5e-8)


def test_rgb_scores_equal_a_second_reference(reference: Reference) -> None:
    arrays = reference("6_metrics")
    for pair, border, expected_psnr, expected_ssim, *_ in arrays["kair_psnr_ssim_rgb_then_y"]:
        a, b = arrays[f"pair{int(pair)}_a"], arrays[f"pair{int(pair)}_b"]
        assert psnr(a, b, int(border), luma=False) == pytest.approx(expected_psnr, abs=1e-10)
        assert ssim(a, b, int(border), luma=False) == pytest.approx(expected_ssim, abs=1e-12)


@pytest.mark.parametrize(
    ("shape", "luma"),
    [
        ((11, 11, 3), True),
        ((12, 30, 3), False),
        ((47, 33, 3), True),
        ((47, 33, 3), False),
        ((20, 20, 1), False),
    ],
)
def test_scores_equal_scikit_image(shape: tuple[int, ...], luma: bool) -> None:
    a, b = _pair(*shape)
    x, y = (rgb_to_y(a)[..., None], rgb_to_y(b)[..., None]) if luma else (a, b)
    expected = peak_signal_noise_ratio(x, y, data_range=255)
    assert psnr(a, b, 0, luma) == pytest.approx(expected, abs=1e-10)
    maps = structural_similarity(
        x,
        y,
        data_range=255,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )[1]
    assert ssim(a, b, 0, luma) == pytest.approx(maps[5:-5, 5:-5].mean(), abs=1e-12)


def test_psnr_by_hand() -> None:
    a = np.full((8, 8, 3), 100, np.uint8)
    b = a.copy()
    b[0, 0] = 255  # in the border
    b[4, 4] = 104  # one of 36 pixels: mean square 16 / 36
    assert psnr(a, b, 1, luma=False) == pytest.approx(10 * np.log10(255**2 * 36 / 16))
    # Grey 4 apart is 4 * 219 / 255 apart in luma.
    expected = 10 * np.log10(255**2 * 36 / (4 * 219 / 255) ** 2)
    assert psnr(a, b, 1, luma=True) == pytest.approx(expected)


def test_ssim_by_hand() -> None:
    """Flat images have no variance, so only the means count."""
    a, b = np.full((30, 30, 3), 50, np.uint8), np.full((30, 30, 3), 90, np.uint8)
    c1 = 2.55**2
    expected = (2 * 50 * 90 + c1) / (50**2 + 90**2 + c1)
    assert ssim(a, b, 2, luma=False) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 40, 3), (40, 10, 3), (4, 6, 3)])
@pytest.mark.parametrize("luma", [True, False])
def test_identical_images_of_any_size(shape: tuple[int, ...], luma: bool) -> None:
    a, _ = _pair(*shape)
    assert psnr(a, a, 0, luma) == float("inf")
    assert ssim(a, a, 0, luma) == pytest.approx(1.0)


def test_ssim_of_a_small_image_is_one_window() -> None:
    a, b = _pair(4, 3, 1)
    x, y = a[..., 0].astype(float), b[..., 0].astype(float)
    rows, columns = (np.exp(-((np.arange(n) - (n - 1) / 2) ** 2) / 4.5) for n in (4, 3))
    window = np.outer(rows, columns) / np.outer(rows, columns).sum()
    mx, my = (window * x).sum(), (window * y).sum()
    vx, vy = (window * (x - mx) ** 2).sum(), (window * (y - my) ** 2).sum()
    cov = (window * (x - mx) * (y - my)).sum()
    c1, c2 = 2.55**2, 7.65**2
    expected = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert ssim(a, b, 0, luma=False) == pytest.approx(expected, abs=1e-12)


def test_psnrb_equals_the_reference(reference: Reference) -> None:
    arrays = reference("6_metrics")
    for pair, expected in enumerate(arrays["kair_psnrb_y"]):
        restored, original = (
            luma_uint8(arrays[f"pair{pair}_{which}"])[..., None] for which in "ab"
        )
        assert psnrb(restored, original, 0, luma=False) == pytest.approx(expected, abs=1e-9)


def test_grey_scores_equal_a_second_reference(reference: Reference) -> None:
    arrays = reference("6_metrics")
    for pair, border, _, _, expected_psnr, expected_ssim in arrays["kair_psnr_ssim_rgb_then_y"]:
        a, b = (luma_uint8(arrays[f"pair{int(pair)}_{which}"])[..., None] for which in "ab")
        assert psnr(a, b, int(border), luma=False) == pytest.approx(expected_psnr, abs=1e-10)
        assert ssim(a, b, int(border), luma=False) == pytest.approx(expected_ssim, abs=1e-12)


@pytest.mark.parametrize(("height", "width"), [(16, 24), (31, 20), (24, 16), (9, 40)])
def test_psnrb_by_hand(height: int, width: int) -> None:
    """Pixel by pixel, on an image with steps between blocks."""
    rng = np.random.default_rng(0)
    original = rng.integers(60, 200, (height, width, 1)).astype(np.uint8)
    y, x = np.mgrid[:height, :width]
    restored = (10 * (y // 8) + 7 * (x // 8) + rng.integers(80, 84, (height, width)))[..., None]
    between, others, z = 0.0, 0.0, restored[..., 0].astype(float)
    for i in range(height):
        for j in range(width):
            if i + 1 < height:
                step = (z[i + 1, j] - z[i, j]) ** 2
                between, others = (
                    (between + step, others) if i % 8 == 7 else (between, others + step)
                )
            if j + 1 < width:
                step = (z[i, j + 1] - z[i, j]) ** 2
                between, others = (
                    (between + step, others) if j % 8 == 7 else (between, others + step)
                )
    boundaries = height * (width // 8 - 1) + width * (height // 8 - 1)
    pairs = height * (width - 1) + width * (height - 1)
    effect = between / boundaries - others / (pairs - boundaries)
    effect *= 3 / np.log2(min(height, width))
    error = np.mean((z - original[..., 0]) ** 2)
    expected = 10 * np.log10(255**2 / (error + effect))
    restored = restored.astype(np.uint8)
    assert psnrb(restored, original, 0, luma=False) == pytest.approx(expected, abs=1e-10)
    assert psnrb(restored, original, 0, luma=False) < psnr(restored, original, 0, luma=False) - 0.01


def test_blocks_of_the_original_do_not_count() -> None:
    y, x = np.mgrid[:24, :32]
    blocks = (60 + 20 * (y // 8) + 9 * (x // 8)).astype(np.uint8)[..., None]
    flat = np.full_like(blocks, 100)
    assert psnrb(flat, blocks, 0, luma=False) == psnr(flat, blocks, 0, luma=False)
    assert psnrb(blocks, flat, 0, luma=False) < psnr(blocks, flat, 0, luma=False) - 0.1


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 40, 1), (7, 7, 1), (8, 8, 3), (15, 9, 1)])
def test_psnrb_of_small_images(shape: tuple[int, ...]) -> None:
    a, b = _pair(*shape)
    assert psnrb(a, a, 0, luma=False) == float("inf")
    mean = np.mean([psnr(a[..., i : i + 1], b[..., i : i + 1], 0, False) for i in range(shape[2])])
    assert psnrb(a, b, 0, luma=False) == pytest.approx(mean)


@pytest.mark.parametrize("score", [psnr, ssim, psnrb])
def test_wrong_images_are_refused(score: Callable[..., float]) -> None:
    a = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(TypeError, match="float32"):
        score(a, a.astype(np.float32), 0, True)
    with pytest.raises(ValueError, match=r"\(8, 8, 3\), \(8, 9, 3\)"):
        score(a, np.zeros((8, 9, 3), np.uint8), 0, True)
    with pytest.raises(ValueError, match=r"border of 4 .* \(8, 8, 3\)"):
        score(a, a, 4, True)
    with pytest.raises(ValueError, match=r"\(8, 8, 2\)"):
        score(a[..., :2], a[..., :2], 0, True)


@pytest.mark.parametrize("score", [psnr, ssim, psnrb])
def test_an_image_of_one_channel_is_its_own_luma(score: Callable[..., float]) -> None:
    a, b = _pair(24, 31, 1)
    assert score(a, b, 2, True) == score(a, b, 2, False)
    # By way of RGB errors shrink to 219 / 255.
    in_colour = psnr(a.repeat(3, -1), b.repeat(3, -1), 2, True)
    assert in_colour - psnr(a, b, 2, True) == pytest.approx(20 * np.log10(255 / 219))
