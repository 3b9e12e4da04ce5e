"""The scores of benchmark sets."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from set_pictures import colour_picture, config_of, save, sr_task
from skimage.metrics import peak_signal_noise_ratio

from binsr_jax.evaluation import report
from binsr_jax.evaluation.benchmark import score_set
from binsr_jax.evaluation.sets import load_set, load_sets
from binsr_jax.ops.image import imresize_uint8, rgb_to_y
from binsr_jax.tasks import task_of


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
    row = score_set(load_set(name, data_dir, sr_task(scale)))[-1]
    assert round(row["psnr"], 2) == expected
    assert row["protocol"] == f"Y, border {scale}, bicubic LR"


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_packaged_samples_are_scored_without_any_folder(
    scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BINSR_DATA", raising=False)
    samples = load_set("samples", "", sr_task(scale))
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
    save(tmp_path / "Mixed/a.png", colour_picture(37, 53))
    Image.fromarray(colour_picture(41, 40)).convert("L").save(tmp_path / "Mixed/b.png")
    Image.fromarray(colour_picture(29, 31)).convert("RGBA").save(tmp_path / "Mixed/c.PNG")
    Image.fromarray(colour_picture(30, 31)).convert("P").save(tmp_path / "Mixed/d.png")
    save(tmp_path / "Mixed/thin.png", colour_picture(12, 100))
    (tmp_path / "Mixed/readme.txt").write_text("no image")
    (tmp_path / "Mixed/._a.png").write_text("left by a file manager")
    mixed = load_set("Mixed", tmp_path, sr_task(scale))
    for example in mixed:
        assert example.hq.dtype == example.lq.dtype == np.uint8
        assert example.hq.shape == tuple(np.multiply(example.lq.shape, (scale, scale, 1)))
    *rows, total = score_set(mixed)
    assert [row["image"] for row in rows] == ["a", "b", "c", "d", "thin"]
    assert all(np.isfinite(row["psnr"]) and 0 < row["ssim"] <= 1 for row in rows)
    assert total["images"] == 5


def test_a_perfect_restoration_is_infinitely_good(tmp_path: Path) -> None:
    save(tmp_path / "Flat/a.png", np.full((24, 24, 3), 99, np.uint8))
    rows = score_set(load_set("Flat", tmp_path, sr_task()))
    assert [row["psnr"] for row in rows] == [float("inf")] * 2
    assert "|  inf | 1.0000 |" in report.table(rows[-1:])


def test_a_restoration_is_held_against_bicubic(tmp_path: Path) -> None:
    hq = colour_picture(40, 48)
    save(tmp_path / "Set/a.png", hq)

    def half_way(lq: np.ndarray) -> np.ndarray:
        return ((imresize_uint8(lq, 2).astype(int) + hq) // 2).astype(np.uint8)

    images = tmp_path / "images"
    image_row, total = score_set(load_set("Set", tmp_path, sr_task()), half_way, images)
    bicubic_row, _ = score_set(load_set("Set", tmp_path, sr_task()))
    assert image_row["bicubic_psnr"] == total["bicubic_psnr"] == bicubic_row["psnr"]
    assert image_row["bicubic_ssim"] == bicubic_row["ssim"]
    assert image_row["psnr"] == pytest.approx(bicubic_row["psnr"] + 6, abs=0.3)

    written = np.asarray(Image.open(images / "Set/a.png"))
    np.testing.assert_array_equal(written, half_way(imresize_uint8(hq, 0.5)))
    assert np.asarray(Image.open(images / "Set/a_comparison.png")).ndim == 3
    assert sorted(file.name for file in (images / "Set").iterdir()) == ["a.png", "a_comparison.png"]


def test_noisy_images_have_the_scores_of_their_noise(data_dir: Path) -> None:
    if not (data_dir / "CBSD68").is_dir():
        pytest.skip(f"{data_dir / 'CBSD68'} does not exist")
    for images in load_sets(["CBSD68"], data_dir, task_of(config_of("denoise", 15, 50))):
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
    for images in load_sets(["Classic5"], data_dir, task_of(config_of("jpeg", *expected))):
        row = score_set(images)[-1]
        assert (round(row["psnr"], 2), round(row["psnrb"], 2)) == expected[images.level]


@pytest.mark.parametrize(("task", "channels"), [("denoise", 3), ("jpeg", 1)])
def test_samples_are_scored_at_every_level(task: str, channels: int) -> None:
    whole = task_of(config_of(task))
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


def test_a_restoration_is_held_against_its_input(tmp_path: Path) -> None:
    save(tmp_path / "Set/a.png", colour_picture(40, 48))
    for task, field in (("denoise", "noise"), ("jpeg", "jpeg")):
        images = load_set("Set", tmp_path, task_of(config_of(task)))
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
