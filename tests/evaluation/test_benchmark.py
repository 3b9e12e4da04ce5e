"""Benchmark sets of every layout, their scores, and what happens to files that cannot be scored."""

import dataclasses
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from binsr_jax import config as config_lib
from binsr_jax import models
from binsr_jax.data.degradations import as_image
from binsr_jax.errors import UserError
from binsr_jax.evaluation import report
from binsr_jax.evaluation.benchmark import restorer, score_set, validator
from binsr_jax.evaluation.sets import load_set, load_sets
from binsr_jax.ops.image import imresize_uint8, luma_uint8, rgb_to_y
from binsr_jax.ops.upsampling import upsample_nearest
from binsr_jax.tasks import Task, task_of


def _task(scale: int = 2) -> Task:
    config = config_lib.default()
    config.scale = scale
    return task_of(config)


def _picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colour with some noise, so that bicubic neither fails nor is perfect."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([np.sin(y / 5), np.cos(x / 7), np.sin((x + y) / 9)], -1) * 90 + 128
    return np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)


def _save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.mark.parametrize(
    ("name", "scale", "expected"),
    [
        ("Set5", 2, 33.67),
        ("Set5", 3, 30.40),
        ("Set5", 4, 28.43),
        ("B100", 2, 29.56),
    ],
)
def test_bicubic_has_the_published_scores(
    data_dir: Path, name: str, scale: int, expected: float
) -> None:
    if not (data_dir / name).is_dir():
        pytest.skip(f"{data_dir / name} does not exist")
    row = score_set(load_set(name, data_dir, _task(scale)))[-1]
    assert round(row["psnr"], 2) == expected
    assert row["protocol"] == f"Y, border {scale}, bicubic LR"


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_packaged_samples_are_scored_without_any_folder(
    scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BINSR_DATA", raising=False)
    samples = load_set("samples", "", _task(scale))
    *rows, total = score_set(samples)
    assert total["images"] == len(rows) == len(samples) > 0
    for row, example in zip(rows, samples, strict=True):
        assert row["image"] == example.name
        bicubic = imresize_uint8(example.lq, scale)
        inside = (slice(scale, -scale), slice(scale, -scale))
        if example.hq.shape[-1] == 3:
            scored = rgb_to_y(example.hq), rgb_to_y(bicubic)
        else:  # spiral.png, a grey one of three equal channels
            scored = example.hq, bicubic
        expected = peak_signal_noise_ratio(*(y[inside] for y in scored), data_range=255)
        assert row["psnr"] == pytest.approx(expected)
    assert "1 grey as it is" in total["protocol"]
    assert total["psnr"] == pytest.approx(np.mean([row["psnr"] for row in rows]))
    assert total["ssim"] == pytest.approx(np.mean([row["ssim"] for row in rows]))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_folder_of_odd_sizes_and_modes(tmp_path: Path, scale: int) -> None:
    _save(tmp_path / "Mixed/a.png", _picture(37, 53))
    Image.fromarray(_picture(41, 40)).convert("L").save(tmp_path / "Mixed/b.png")
    Image.fromarray(_picture(29, 31)).convert("RGBA").save(tmp_path / "Mixed/c.PNG")
    Image.fromarray(_picture(30, 31)).convert("P").save(tmp_path / "Mixed/d.png")
    _save(tmp_path / "Mixed/thin.png", _picture(12, 100))
    (tmp_path / "Mixed/readme.txt").write_text("no image")
    (tmp_path / "Mixed/._a.png").write_text("left by a file manager")
    mixed = load_set("Mixed", tmp_path, _task(scale))
    for example in mixed:
        assert example.hq.dtype == example.lq.dtype == np.uint8
        assert example.hq.shape == tuple(np.multiply(example.lq.shape, (scale, scale, 1)))
    *rows, total = score_set(mixed)
    assert [row["image"] for row in rows] == ["a", "b", "c", "d", "thin"]
    assert all(np.isfinite(row["psnr"]) and 0 < row["ssim"] <= 1 for row in rows)
    assert total["images"] == 5


def test_images_of_one_stem_keep_their_suffix(tmp_path: Path) -> None:
    for file in ("a.png", "a.bmp", "b.png"):
        _save(tmp_path / "Set" / file, _picture(20, 20))
    names = [example.name for example in load_set("Set", tmp_path, _task())]
    assert names == ["a.bmp", "a.png", "b"]


def test_the_usual_layout_with_lr_files(tmp_path: Path) -> None:
    for seed, name in enumerate(["one", "two"]):
        hq = _picture(33, 48, seed)
        _save(tmp_path / f"Pairs/HR/{name}.png", hq)
        # Nearest neighbours in place of bicubic show that the files are what is used.
        _save(tmp_path / f"Pairs/LR_bicubic/X2/{name}x2.png", hq[:32:2, ::2])
    pairs = load_set("Pairs", tmp_path, _task(2))
    assert pairs.protocol == "Y, border 2, LR files"
    for seed, example in enumerate(pairs):
        np.testing.assert_array_equal(example.hq, _picture(33, 48, seed)[:32])
        np.testing.assert_array_equal(example.lq, example.hq[::2, ::2])
    # No such files for another scale: they are made.
    assert load_set("Pairs", tmp_path, _task(3)).protocol == "Y, border 3, bicubic LR"


def test_lr_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    _save(tmp_path / "Pairs/HR/one.png", _picture(32, 48))
    _save(tmp_path / "Pairs/LR_bicubic/X2/onex2.png", _picture(16, 23))
    with pytest.raises(UserError, match=r"onex2.png is 23x16 .*one.png \(48x32\) reduced 2"):
        score_set(load_set("Pairs", tmp_path, _task()))
    _save(tmp_path / "Pairs/HR/two.png", _picture(32, 48))
    with pytest.raises(UserError, match=r"two.png has no LR image twox2.png in .*X2"):
        load_set("Pairs", tmp_path, _task())


def test_data_folder_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(tmp_path / "Tiny/a.png", _picture(20, 20))
    monkeypatch.setenv("BINSR_DATA", str(tmp_path))
    assert len(load_set("Tiny", "", _task())) == 1
    monkeypatch.delenv("BINSR_DATA")
    with pytest.raises(UserError, match=r"Tiny.*--data-dir.*BINSR_DATA"):
        load_set("Tiny", "", _task())


def test_missing_sets_are_named_with_the_layouts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        load_set("Set5", tmp_path / "nowhere", _task())
    with pytest.raises(UserError, match=r"no benchmark set Set5 .* Set5/\*.png.*X3/\*x3.png"):
        load_set("Set5", tmp_path, _task(3))
    (tmp_path / "Set5").mkdir()
    with pytest.raises(UserError, match=r"Set5 has no images .* Set5/\*.png"):
        load_set("Set5", tmp_path, _task())


def test_broken_images_are_named(tmp_path: Path) -> None:
    _save(tmp_path / "Set/whole.png", _picture(40, 40))
    whole = (tmp_path / "Set/whole.png").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not an image"):
        (tmp_path / "Set/broken.png").write_bytes(content)
        with pytest.raises(UserError, match=r"broken.png"):
            score_set(load_set("Set", tmp_path, _task()))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (50, 4), (5, 5)])
def test_images_smaller_than_the_border_are_named(tmp_path: Path, height: int, width: int) -> None:
    _save(tmp_path / "Set/small.png", _picture(height, width))
    with pytest.raises(UserError, match=rf"small.png is {width}x{height} pixels, too small"):
        score_set(load_set("Set", tmp_path, _task()))


def test_a_perfect_restoration_is_infinitely_good(tmp_path: Path) -> None:
    _save(tmp_path / "Flat/a.png", np.full((24, 24, 3), 99, np.uint8))
    rows = score_set(load_set("Flat", tmp_path, _task()))
    assert [row["psnr"] for row in rows] == [float("inf")] * 2
    assert "|  inf | 1.0000 |" in report.table(rows[-1:])


def test_a_restoration_is_held_against_bicubic(tmp_path: Path) -> None:
    hq = _picture(40, 48)
    _save(tmp_path / "Set/a.png", hq)

    def half_way(lq: np.ndarray) -> np.ndarray:
        return ((imresize_uint8(lq, 2).astype(int) + hq) // 2).astype(np.uint8)

    images = tmp_path / "images"
    image_row, total = score_set(load_set("Set", tmp_path, _task()), half_way, images)
    bicubic_row, _ = score_set(load_set("Set", tmp_path, _task()))
    assert image_row["bicubic_psnr"] == total["bicubic_psnr"] == bicubic_row["psnr"]
    assert image_row["bicubic_ssim"] == bicubic_row["ssim"]
    assert image_row["psnr"] == pytest.approx(bicubic_row["psnr"] + 6, abs=0.3)

    written = np.asarray(Image.open(images / "Set/a.png"))
    np.testing.assert_array_equal(written, half_way(imresize_uint8(hq, 0.5)))
    assert np.asarray(Image.open(images / "Set/a_comparison.png")).ndim == 3
    assert sorted(file.name for file in (images / "Set").iterdir()) == ["a.png", "a_comparison.png"]


class _Nearest(nn.Module):
    """A network of one parameter: pixels repeated and multiplied by it."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, progress: jax.Array) -> jax.Array:
        assert not train
        assert progress.dtype == jnp.float32
        gain = self.param("gain", nn.initializers.ones, ())
        return gain * upsample_nearest(x, 2)


@pytest.mark.parametrize("gain", [1.0, 0.5, 1.7, -1.0])
def test_restorer_clips_and_rounds(gain: float) -> None:
    with pytest.raises(UserError, match="not finite"):
        restorer(_Nearest(), {"params": {"gain": jnp.float32(np.inf)}})(np.ones((4, 4, 3), "u1"))
    restore = restorer(_Nearest(), {"params": {"gain": jnp.float32(gain)}})
    for shape in ((6, 5, 3), (1, 1, 3)):
        image = _picture(*shape[:2])
        values = np.clip(image.astype(np.float64) * gain, 0, 255)
        # Float32 may put a value at exactly one half on either side.
        restored = restore(image)
        assert restored.dtype == np.uint8
        difference = restored - values.repeat(2, axis=0).repeat(2, axis=1)
        assert np.abs(difference).max() <= 0.5 + 1e-4


def test_restorers_of_one_network_are_compiled_once_a_shape() -> None:
    traced = []

    class Traced(_Nearest):
        @nn.compact
        def __call__(self, x: jax.Array, train: bool, progress: jax.Array) -> jax.Array:
            traced.append(x.shape)
            return super().__call__(x, train, progress)

    network = Traced()
    for gain in (0.2, 0.4):
        restore = restorer(network, {"params": {"gain": jnp.float32(gain)}})
        for shape in ((2, 3, 3), (4, 3, 3)):
            assert restore(np.full(shape, 100, np.uint8))[0, 0, 0] == 100 * gain
    assert traced == [(1, 2, 3, 3), (1, 4, 3, 3)]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_restorer_runs_a_binary_network(scale: int) -> None:
    config = config_lib.default()
    config.model.features, config.model.blocks = 8, 1
    config.scale = scale
    model = models.build(config)
    variables = model.init(
        jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False, progress=jnp.float32(0)
    )
    image = _picture(9, 7)
    y = model.apply(
        variables, image[None].astype(np.float32) / 255, train=False, progress=jnp.float32(1)
    )
    expected = np.clip(np.asarray(y)[0] * 255.0, 0, 255)
    restored = restorer(model, variables)(image)
    assert restored.shape == (9 * scale, 7 * scale, 3)
    assert np.abs(restored - expected).max() <= 0.51


def test_validator_scores_every_set(tmp_path: Path) -> None:
    for name in ("One", "Two"):
        for seed in range(2):
            _save(tmp_path / f"{name}/{seed}.png", _picture(33, 40, seed))
    config = config_lib.default()
    config.eval.sets = ("Two", "One", "samples")
    config.eval.data_dir = str(tmp_path)
    scores, pictures, images = validator(config)(lambda lq: imresize_uint8(lq, 2), 1000)
    assert list(scores) == [
        f"{name}/{score}" for name in config.eval.sets for score in ("psnr", "ssim")
    ]
    expected = score_set(load_set("Two", tmp_path, _task()))[-1]
    assert scores["Two/psnr"] == expected["psnr"]
    assert scores["Two/ssim"] == expected["ssim"]
    assert list(pictures)[:2] == ["Two/0", "One/0"]
    assert images == {
        s.name: s.fingerprint() for s in load_sets(config.eval.sets, tmp_path, _task())
    }
    assert images["One"] == images["Two"] == expected["fingerprint"]
    for picture in pictures.values():
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3


@pytest.mark.parametrize(
    ("sets", "sentence"),
    [((), "config.eval.sets"), ((3,), "config.eval.sets is"), (("samples", "Absent"), "Absent")],
)
def test_validator_refuses_missing_sets_at_once(
    tmp_path: Path, sets: tuple[str, ...], sentence: str
) -> None:
    config = config_lib.default()
    config.eval.sets, config.eval.data_dir = sets, str(tmp_path)
    with pytest.raises(UserError, match=sentence):
        validator(config)


# Denoising and JPEG artifact reduction


def _config(task: str, *levels: int) -> config_lib.Config:
    config = config_lib.default()
    config.task, config.scale, config.eval.levels = task, 1, levels
    return config


def test_noisy_images_have_the_scores_of_their_noise(data_dir: Path) -> None:
    if not (data_dir / "CBSD68").is_dir():
        pytest.skip(f"{data_dir / 'CBSD68'} does not exist")
    for images in load_sets(["CBSD68"], data_dir, task_of(_config("denoise", 15, 50))):
        few = dataclasses.replace(images, files=images.files[::12])
        for row in score_set(few):
            above = row["psnr"] - 20 * np.log10(255 / images.level)
            # Clipping takes some of the noise where an image is nearly black or white.
            assert -0.05 < above < (1.5 if images.level == 15 else 3)


def test_jpeg_images_have_the_published_scores(data_dir: Path) -> None:
    """PSNR and PSNR-B of JPEG in Dong et al. 2015 (ARCNN)."""
    if not (data_dir / "Classic5").is_dir():
        pytest.skip(f"{data_dir / 'Classic5'} does not exist")
    expected = {10: (27.82, 25.21), 20: (30.12, 27.50), 40: (32.43, 29.92)}
    for images in load_sets(["Classic5"], data_dir, task_of(_config("jpeg", *expected))):
        row = score_set(images)[-1]
        assert (round(row["psnr"], 2), round(row["psnrb"], 2)) == expected[images.level]


@pytest.mark.parametrize(("task", "channels"), [("denoise", 3), ("jpeg", 1)])
def test_samples_are_scored_at_every_level(task: str, channels: int) -> None:
    whole = task_of(_config(task))
    sets = load_sets(["samples", "samples"], "", whole)
    assert [images.name for images in sets] == [f"samples-{level}" for level in whole.levels]
    firsts = [next(iter(images)) for images in sets]
    errors = []
    for images, example in zip(sets, firsts, strict=True):
        assert example.hq.shape == example.lq.shape
        assert example.hq.shape[-1] == channels
        assert str(images.level) in images.protocol
        lq = example.lq if example.lq.dtype == np.uint8 else example.lq * 255
        errors.append(np.square(lq - example.hq.astype(np.float64)).mean())
    assert errors == sorted(errors, reverse=task == "jpeg")
    if task == "denoise":
        sigmas = np.sqrt(errors)
        np.testing.assert_allclose(sigmas, whole.levels, rtol=0.02)
    assert load_set("samples", "", whole).level == whole.levels[0]


def test_grey_and_colour_images_in_sets_of_the_other_kind(tmp_path: Path) -> None:
    colour = _picture(40, 48)
    _save(tmp_path / "Set/colour.png", colour)
    Image.fromarray(colour[..., 0]).save(tmp_path / "Set/grey.png")
    both = load_set("Set", tmp_path, task_of(_config("denoise", 25)))
    in_colour, grey = (example.hq for example in both)
    np.testing.assert_array_equal(in_colour, colour)
    np.testing.assert_array_equal(grey, colour[..., :1])
    both = load_set("Set", tmp_path, task_of(_config("jpeg", 30)))
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
    colour = _picture(60, 72)
    grey = Image.fromarray(colour).convert("L")
    (tmp_path / "Set").mkdir()
    grey.save(tmp_path / "Set/a_grey.png")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(tmp_path / "Set/b_deep.png")
    Image.merge("LA", [grey, grey]).save(tmp_path / "Set/c_alpha.png")
    palette = Image.fromarray(np.asarray(grey))
    palette.putpalette([value for i in range(256) for value in (i, i, i)])
    palette.save(tmp_path / "Set/d_palette.png")
    _save(tmp_path / "Set/e_colour.png", colour)

    images = load_set("Set", tmp_path, _task(scale))
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
        score_set(load_set("Grey", tmp_path, _task(scale))),
        load_set("Grey", tmp_path, _task(scale)),
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
    grey = Image.fromarray(_picture(40, 44)).convert("L")
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
        row, total = score_set(load_set(name, tmp_path, _task()))
        assert row["psnr"] == pytest.approx(expected)
        assert total["protocol"] == f"Y, border 2, {source}; 1 grey as it is"


def test_a_grey_image_goes_through_a_network_for_colour_and_comes_back() -> None:
    class Tinted(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, train: bool, progress: jax.Array) -> jax.Array:
            return upsample_nearest(x * self.param("gain", nn.initializers.ones, (3,)), 2)

    gains = np.array([0.5, 0.75, 0.25])
    restore = restorer(Tinted(), {"params": {"gain": jnp.asarray(gains, jnp.float32)}}, 3)
    grey = _picture(6, 5)[..., :1]
    expected = np.rint(grey * (gains @ [0.299, 0.587, 0.114])).repeat(2, 0).repeat(2, 1)
    assert np.abs(restore(grey) - expected).max() <= 1
    assert restore(grey).shape == (12, 10, 1)


def test_grey_pictures_of_colour_denoising(tmp_path: Path) -> None:
    grey = np.asarray(Image.fromarray(_picture(40, 44)).convert("L"))
    _save(tmp_path / "Set/a.png", grey)
    _, total = score_set(load_set("Set", tmp_path, task_of(_config("denoise")), 25))
    noise = np.random.RandomState(0).normal(0, 25 / 255, (40, 44, 1)).astype(np.float32)
    noisy = np.rint(np.clip(grey[..., None] / np.float32(255) + noise, 0, 1) * 255)
    expected = peak_signal_noise_ratio(grey[..., None].astype(float), noisy, data_range=255)
    assert total["psnr"] == pytest.approx(expected, abs=1e-3)
    assert total["protocol"].endswith("; 1 grey as it is")


def test_a_fingerprint_is_of_the_pixels_alone(tmp_path: Path) -> None:
    for folder, suffix in (("one", "png"), ("two", "tif")):
        _save(tmp_path / folder / f"Set/a.{suffix}", _picture(40, 44))
        _save(tmp_path / folder / f"Set/b.{suffix}", _picture(40, 44, 1))
    found = [load_set("Set", tmp_path / name, _task()) for name in ("one", "two")]
    assert found[0].fingerprint() == found[1].fingerprint()
    assert score_set(found[0])[-1]["fingerprint"] == found[1].fingerprint()
    _save(tmp_path / "two/Set/b.tif", _picture(40, 44, 2))
    assert found[0].fingerprint() != found[1].fingerprint()


def test_lr_files_of_images_that_differ_in_their_ending(tmp_path: Path) -> None:
    hq = _picture(32, 48)
    for name in ("HR/one.png", "HR/one.bmp"):
        _save(tmp_path / "Pairs" / name, hq)
    _save(tmp_path / "Pairs/LR_bicubic/X2/onex2.png", hq[::2, ::2])
    with pytest.raises(UserError, match=r"one.bmp and one.png.*onex2.png: remove all but one"):
        load_set("Pairs", tmp_path, _task())
    _save(tmp_path / "Pairs/LR_bicubic/X2/onex2.bmp", hq[::2, 1::2])
    first, second = load_set("Pairs", tmp_path, _task())
    np.testing.assert_array_equal(first.lq, hq[::2, 1::2])
    np.testing.assert_array_equal(second.lq, hq[::2, ::2])


def test_names_that_are_long_or_no_utf8_do_not_stop_the_others(tmp_path: Path) -> None:
    names = ["x" * 245, "caf\udce9", "b"]
    for name in names:
        _save(tmp_path / f"Set/{name}.png", _picture(24, 24))
    rows = score_set(load_set("Set", tmp_path, _task()), None, tmp_path / "images")
    report.append_rows(tmp_path / "results.jsonl", rows)
    assert [row.get("image") for row in rows] == ["b", r"caf\xe9", "x" * 245, None]
    assert len(list((tmp_path / "images/Set").iterdir())) == 6


def test_centres_of_images(tmp_path: Path) -> None:
    image = _picture(41, 52)
    _save(tmp_path / "Set/a.png", image)
    for config in (_config("denoise"), config_lib.default()):
        images = load_set("Set@20", tmp_path, task_of(config))
        assert images.name.startswith("Set@20")
        assert images.protocol.endswith("centre 20x20")
        (example,) = images
        np.testing.assert_array_equal(example.hq, image[10:30, 16:36])
    with pytest.raises(UserError, match=r"a.png is 52x41 .* centre of 42x42.*@42"):
        list(load_set("Set@42", tmp_path, _task()))
    for name in ("Set@", "Set@x", "Set@0", "Set@-5"):
        with pytest.raises(UserError, match=r"as in Kodak24@500"):
            load_set(name, tmp_path, _task())


def test_kodak_centres_are_the_published_ones(data_dir: Path) -> None:
    if not (data_dir / "Kodak24").is_dir():
        pytest.skip(f"{data_dir / 'Kodak24'} does not exist")
    images = load_set("Kodak24@500", data_dir, task_of(_config("denoise", 25)))
    assert images.name == "Kodak24@500-25"
    example = next(iter(images))
    whole = np.asarray(Image.open(images.files[0]).convert("RGB"))
    top, left = (whole.shape[0] - 500) // 2, (whole.shape[1] - 500) // 2
    np.testing.assert_array_equal(example.hq, whole[top : top + 500, left : left + 500])


def test_missing_sets_of_scale_1_have_no_lr_layout(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"CBSD68 in .*: it must be a folder of images CBSD68/\*"):
        load_set("CBSD68", tmp_path, task_of(_config("denoise")))


def test_a_restoration_is_held_against_its_input(tmp_path: Path) -> None:
    _save(tmp_path / "Set/a.png", _picture(40, 48))
    for task, field in (("denoise", "noise"), ("jpeg", "jpeg")):
        images = load_set("Set", tmp_path, task_of(_config(task)))
        seen = []

        def perfect(lq: np.ndarray, images=images, seen=seen) -> np.ndarray:
            seen.append(lq)
            (example,) = images
            return example.hq

        image_row, total = score_set(images, perfect, tmp_path / task)
        (example,) = images
        np.testing.assert_array_equal(seen[0], example.lq)
        before = score_set(images)[-1]
        for score in images.task.scores:
            assert total[f"{field}_{score}"] == image_row[f"{field}_{score}"] == before[score]
        assert total["psnr"] == float("inf")
        written = np.asarray(Image.open(tmp_path / task / images.name / "a.png"))
        np.testing.assert_array_equal(written.reshape(example.hq.shape), example.hq)
        row = report.input_row(total)
        assert row is not None
        assert {name: row[name] for name in images.task.scores} == {
            name: before[name] for name in images.task.scores
        }


def test_restorer_takes_noise_beyond_white_and_black() -> None:
    class Same(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, train: bool, progress: jax.Array) -> jax.Array:
            return x * self.param("gain", nn.initializers.ones, ())

    restore = restorer(Same(), {"params": {"gain": jnp.float32(0.5)}})
    lq = np.array([[[-0.4, 0.2, 1.6], [3.0, 1.0, 0.0]]], np.float32)
    expected = np.rint(np.clip(lq / 2, 0, 1) * 255)
    np.testing.assert_array_equal(restore(lq), expected)


@pytest.mark.parametrize(("task", "levels"), [("denoise", (15, 25, 50)), ("jpeg", (10, 20))])
def test_validator_scores_every_level(tmp_path: Path, task: str, levels: tuple[int, ...]) -> None:
    _save(tmp_path / "One/0.png", _picture(33, 40))
    config = _config(task, *levels)
    config.eval.sets, config.eval.data_dir = ("One",), str(tmp_path)
    scores, pictures, images = validator(config)(lambda lq: as_image(lq, 1), 1000)
    names = task_of(config).scored_sets("One")
    wanted = task_of(config).scores
    assert list(scores) == [f"{name}/{score}" for name in names for score in wanted]
    for images in load_sets(["One"], tmp_path, task_of(config)):
        assert scores[f"{images.name}/psnr"] == score_set(images)[-1]["psnr"]
    assert list(pictures) == [f"{name}/0" for name in names]
