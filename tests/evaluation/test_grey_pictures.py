"""Grey pictures are scored on their own values, however they are stored."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from set_pictures import colour_picture, config_of, save, sr_task
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from binsr_jax import config as config_lib
from binsr_jax.evaluation.benchmark import restorer, score_set, validator
from binsr_jax.evaluation.sets import load_set
from binsr_jax.ops.image import imresize_uint8, luma_uint8, rgb_to_y
from binsr_jax.ops.upsampling import upsample_nearest
from binsr_jax.tasks import task_of


def test_grey_and_colour_images_in_sets_of_the_other_kind(tmp_path: Path) -> None:
    colour = colour_picture(40, 48)
    save(tmp_path / "Set/colour.png", colour)
    Image.fromarray(colour[..., 0]).save(tmp_path / "Set/grey.png")
    both = load_set("Set", tmp_path, task_of(config_of("denoise", 25)))
    in_colour, grey = (example.hq for example in both)
    np.testing.assert_array_equal(in_colour, colour)
    np.testing.assert_array_equal(grey, colour[..., :1])
    both = load_set("Set", tmp_path, task_of(config_of("jpeg", 30)))
    luma, grey = (example.hq for example in both)
    np.testing.assert_array_equal(luma, luma_uint8(colour)[..., None])
    np.testing.assert_array_equal(grey, colour[..., :1])  # as it is, not through RGB
    for row in score_set(both):
        assert row["psnr"] > row["psnrb"] > 20


def _grey_scores(hq: np.ndarray, restored: np.ndarray, border: int) -> tuple[float, float]:
    """PSNR and SSIM of a grey picture by scikit-image."""
    a, b = (image[border:-border, border:-border].astype(float) for image in (hq, restored))
    found: Any = structural_similarity(
        a,
        b,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    ratio = peak_signal_noise_ratio(a, b, data_range=255)
    return ratio, found[1][5:-5, 5:-5].mean()


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_grey_picture_is_scored_on_its_own_values(tmp_path: Path, scale: int) -> None:
    """However it is stored; in a set, in validation, beside a network, and in what is written."""
    colour = colour_picture(60, 72)
    grey = Image.fromarray(colour).convert("L")
    (tmp_path / "Set").mkdir()
    grey.save(tmp_path / "Set/a_grey.png")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(tmp_path / "Set/b_deep.png")
    Image.merge("LA", [grey, grey]).save(tmp_path / "Set/c_alpha.png")
    palette = Image.fromarray(np.asarray(grey))
    palette.putpalette([value for i in range(256) for value in (i, i, i)])
    palette.save(tmp_path / "Set/d_palette.png")
    save(tmp_path / "Set/e_colour.png", colour)

    images = load_set("Set", tmp_path, sr_task(scale))
    *rows, total = score_set(images)
    hq = np.asarray(grey)[: 60 // scale * scale, : 72 // scale * scale]
    bicubic = imresize_uint8(imresize_uint8(hq[..., None], 1 / scale), scale)[..., 0]
    expected = _grey_scores(hq, bicubic, scale)
    for row in rows[:4]:
        assert (row["psnr"], row["ssim"]) == pytest.approx(expected, abs=1e-9), row["image"]
    assert total["protocol"] == f"Y, border {scale}, bicubic LR; 4 grey as they are"

    def network(lq: np.ndarray) -> np.ndarray:  # a network's output is not quite grey
        return imresize_uint8(lq, scale)

    *again, _ = score_set(images, network, tmp_path / "images")
    assert [row["psnr"] for row in again] == [row["psnr"] for row in rows]
    for name in ("a_grey", "b_deep", "c_alpha", "d_palette"):
        written = Image.open(tmp_path / f"images/Set/{name}.png")
        assert written.mode == "L"
        np.testing.assert_array_equal(written, bicubic)
    assert Image.open(tmp_path / "images/Set/e_colour.png").mode == "RGB"

    config = config_lib.default()
    config.scale, config.eval.sets, config.eval.data_dir = scale, ("Set",), str(tmp_path)
    validation = validator(config)(network, 1)
    assert validation.scores["Set/psnr"] == total["psnr"]
    assert validation.scores["Set/ssim"] == total["ssim"]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_real_grey_pictures_have_the_scores_of_grey(
    data_dir: Path, tmp_path: Path, scale: int
) -> None:
    if not (data_dir / "Set5").is_dir():
        pytest.skip(f"{data_dir / 'Set5'} does not exist")
    (tmp_path / "Grey").mkdir()
    for file in (data_dir / "Set5").iterdir():
        Image.open(file).convert("L").save(tmp_path / "Grey" / file.name)
    for row, example in zip(
        score_set(load_set("Grey", tmp_path, sr_task(scale))),
        load_set("Grey", tmp_path, sr_task(scale)),
        strict=False,
    ):
        bicubic = imresize_uint8(example.lq, scale)[..., 0]
        expected = _grey_scores(example.hq[..., 0], bicubic, scale)
        assert (row["psnr"], row["ssim"]) == pytest.approx(expected, abs=1e-9)
        # By way of RGB it would be 1.32 dB more.
        in_colour = peak_signal_noise_ratio(
            *(
                rgb_to_y(x[scale:-scale, scale:-scale, None].repeat(3, -1))
                for x in (example.hq[..., 0], bicubic)
            ),
            data_range=255,
        )
        assert in_colour - row["psnr"] == pytest.approx(20 * np.log10(255 / 219))


def test_three_equal_channels_are_a_grey_image(tmp_path: Path) -> None:
    """Also where its LR file is stored in another way."""
    grey = Image.fromarray(colour_picture(40, 44)).convert("L")
    small = Image.fromarray(imresize_uint8(np.asarray(grey)[..., None], 0.5)[..., 0])
    for folder in ("made", "files/HR", "files/LR_bicubic/X2"):
        (tmp_path / folder).mkdir(parents=True)
    grey.convert("RGB").save(tmp_path / "made/a.png")
    grey.convert("RGB").save(tmp_path / "files/HR/a.png")
    small.save(tmp_path / "files/LR_bicubic/X2/ax2.png")
    bicubic = imresize_uint8(np.asarray(small)[..., None], 2)[..., 0]
    expected = peak_signal_noise_ratio(
        np.asarray(grey)[2:-2, 2:-2], bicubic[2:-2, 2:-2], data_range=255
    )
    for name, source in (("made", "bicubic LR"), ("files", "LR files")):
        row, total = score_set(load_set(name, tmp_path, sr_task()))
        assert row["psnr"] == pytest.approx(expected)
        assert total["protocol"] == f"Y, border 2, {source}; 1 grey as it is"


def test_a_grey_image_goes_through_a_network_for_colour_and_comes_back() -> None:
    class Tinted(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, train: bool, progress: jax.Array) -> jax.Array:
            return upsample_nearest(x * self.param("gain", nn.initializers.ones, (3,)), 2)

    gains = np.array([0.5, 0.75, 0.25])
    restore = restorer(Tinted(), {"params": {"gain": jnp.asarray(gains, jnp.float32)}}, 3)
    grey = colour_picture(6, 5)[..., :1]
    expected = np.rint(grey * (gains @ [0.299, 0.587, 0.114])).repeat(2, 0).repeat(2, 1)
    assert np.abs(restore(grey) - expected).max() <= 1
    assert restore(grey).shape == (12, 10, 1)


def test_grey_pictures_of_colour_denoising(tmp_path: Path) -> None:
    grey = np.asarray(Image.fromarray(colour_picture(40, 44)).convert("L"))
    save(tmp_path / "Set/a.png", grey)
    _, total = score_set(load_set("Set", tmp_path, task_of(config_of("denoise")), 25))
    noise = np.random.RandomState(0).normal(0, 25 / 255, (40, 44, 1)).astype(np.float32)
    noisy = np.rint(np.clip(grey[..., None] / np.float32(255) + noise, 0, 1) * 255)
    expected = peak_signal_noise_ratio(grey[..., None].astype(float), noisy, data_range=255)
    assert total["psnr"] == pytest.approx(expected, abs=1e-3)
    assert total["protocol"].endswith("; 1 grey as it is")
