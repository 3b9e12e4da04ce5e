"""Tables, JSON lines and comparison pictures."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binsr_jax import config as config_lib
from binsr_jax.errors import UserError
from binsr_jax.evaluation import report
from binsr_jax.tasks import task_of

TASK = task_of(config_lib.default())
ROW = {"set": "Set5", "images": 5, "psnr": 33.6734, "ssim": 0.93031, "task": "SR x2"}


def _noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_table_of_bicubic() -> None:
    rows = [
        {**ROW, "protocol": "Y, border 2"},
        {**ROW, "set": "Urban100", "images": 100, "psnr": float("inf"), "protocol": "Y, border 2"},
    ]
    assert report.table(rows).splitlines() == [
        "| Set      | Images |  PSNR |   SSIM | Protocol           |",
        "| -------- | -----: | ----: | -----: | ------------------ |",
        "| Set5     |      5 | 33.67 | 0.9303 | SR x2: Y, border 2 |",
        "| Urban100 |    100 |   inf | 0.9303 | SR x2: Y, border 2 |",
    ]


def test_table_of_a_network_has_its_input_above_it() -> None:
    row = {**ROW, "bicubic_psnr": 30.0, "bicubic_ssim": 0.5, "protocol": "Y, border 2"}
    assert report.table([{**row, "method": "edsr"}]).splitlines() == [
        "| Set  | Method  | Images |  PSNR |   SSIM | Protocol           |",
        "| ---- | ------- | -----: | ----: | -----: | ------------------ |",
        "| Set5 | bicubic |      5 | 30.00 | 0.5000 | SR x2: Y, border 2 |",
        "| Set5 | edsr    |      5 | 33.67 | 0.9303 | SR x2: Y, border 2 |",
    ]


def test_table_of_scores_that_not_all_rows_have() -> None:
    jpeg = {"psnr": 28.0, "ssim": 0.8, "psnrb": 27.5, "method": "dncnn", "task": "JPEG"}
    jpeg |= {"jpeg_psnr": 27.77, "jpeg_ssim": 0.773, "jpeg_psnrb": 25.33}
    rows = [{**ROW, "protocol": "P"}, {**ROW, **jpeg, "set": "LIVE1-10", "protocol": "P"}]
    assert report.table(rows).splitlines()[2:] == [
        "| Set5     |            |      5 | 33.67 | 0.9303 |        | SR x2: P |",
        "| LIVE1-10 | JPEG input |      5 | 27.77 | 0.7730 |  25.33 | JPEG: P  |",
        "| LIVE1-10 | dncnn      |      5 | 28.00 | 0.8000 |  27.50 | JPEG: P  |",
    ]


def test_row_of_the_input() -> None:
    row = {**ROW, "protocol": "P", "method": "dncnn", "step": 5, "time": "now"}
    assert report.input_row(row) is None
    about = {"set": "Set5", "images": 5, "task": "SR x2", "protocol": "P"}
    for field, method in (("noise", "noisy input"), ("bicubic", "bicubic")):
        scores = {f"{field}_psnr": 20.0, f"{field}_ssim": 0.5}
        expected = {**about, "method": method, "psnr": 20.0, "ssim": 0.5}
        assert report.input_row(row | scores) == expected


@pytest.mark.parametrize(
    ("task", "name", "words"),
    [
        ("SR x2", "Set5", "33.97"),
        ("SR x2", "Set14", None),
        ("SR x3", "Set5", None),
        ("SR x2", "Set5-mine", None),
        ("JPEG artifact reduction", "Classic5-mine-10", None),
        ("JPEG artifact reduction", "Classic5-10", "RGB"),
        ("JPEG artifact reduction", "LIVE1-10", None),
        ("Colour denoising", "Kodak24-15", "500x500"),
        ("Colour denoising", "Kodak24@500-50", "500x500"),
        ("Colour denoising", "Kodak240-50", None),
    ],
)
def test_notes_where_published_protocols_differ(task: str, name: str, words: str | None) -> None:
    row = {"task": task, "set": name, "method": "bicubic", "psnr": 33.6734}
    notes = report.notes([row] * 2)
    assert len(notes) == (words is not None)
    assert all(words in note for note in notes if words)


def test_the_note_on_bicubic_stands_under_that_row_alone() -> None:
    row = {"task": "SR x2", "set": "Set5", "method": "bicubic", "psnr": 33.6734}
    assert report.notes([row])
    assert not report.notes([row | {"method": "edsr", "bicubic_psnr": 33.6734}])
    assert not report.notes([row | {"psnr": 31.5}])  # other images under the same name


def test_rows_are_appended_as_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.jsonl"
    report.append_rows(path, [ROW, {**ROW, "set": "Ä", "psnr": float("inf")}])
    report.append_rows(path, [{"image": "a"}])
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        ROW,
        {**ROW, "set": "Ä", "psnr": None},
        {"image": "a"},
    ]


def test_a_name_that_is_no_utf8_is_written(tmp_path: Path) -> None:
    report.append_rows(tmp_path / "results.jsonl", [{"image": "caf\udce9"}])
    (line,) = (tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {"image": "caf\udce9"}


def test_files_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/results.jsonl"):
        report.append_rows(tmp_path / "file" / "results.jsonl", [ROW])
    with pytest.raises(UserError, match=r"file/a.png"):
        report.save_png(tmp_path / "file" / "a.png", _noise(4, 4, 3))


def test_png_holds_the_pixels_and_leaves_nothing_else(tmp_path: Path) -> None:
    for seed in range(2):
        report.save_png(tmp_path / "a.png", _noise(5, 7, 3, seed=seed))
    np.testing.assert_array_equal(Image.open(tmp_path / "a.png"), _noise(5, 7, 3, seed=1))
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_comparison_shows_where_the_restorations_differ_most() -> None:
    original = np.full((128, 160, 3), 100, np.uint8)
    first, last = original.copy(), original.copy()
    first[60:70, 100:110] = 180  # 100 pixels wrong in the first
    last[20:25, 30:35] = 180  # 25 in the last
    first[2:20, 2:60] = last[2:20, 2:60] = 0  # and many in both
    sheet = report.comparison("Test", original, {"Bicubic": first, "Ours": last}, TASK)
    enlarged = np.all(sheet == 180, axis=-1).sum()
    # 128 / 4 = 32 pixels of the image fill a tile, 10 times enlarged.
    assert enlarged == 100 * 10**2


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 300, 3), (200, 2, 3), (24, 24, 3), (700, 40, 3)])
@pytest.mark.parametrize("names", [("Bicubic",), ("Bicubic", "Ours")])
def test_comparison_of_any_size(shape: tuple[int, ...], names: tuple[str, ...]) -> None:
    task = dataclasses.replace(TASK, border=0)
    original = _noise(*shape)
    restorations = {name: _noise(*shape, seed=i + 1) for i, name in enumerate(names)}
    sheet = report.comparison("A title", original, restorations, task)
    assert sheet.dtype == np.uint8
    assert 100 < sheet.shape[0] < 600
    assert 400 < sheet.shape[1] < 2000


def test_comparison_and_png_of_grey_images(tmp_path: Path) -> None:
    original, restored = _noise(64, 80, 1), _noise(64, 80, 1, seed=1)
    task = dataclasses.replace(TASK, channels=1, luma=False, border=0)
    sheet = report.comparison("Grey", original, {"JPEG input": restored}, task)
    in_colour = [image.repeat(3, -1) for image in (original, restored)]
    again = report.comparison("Grey", in_colour[0], {"JPEG input": in_colour[1]}, task)
    np.testing.assert_array_equal(sheet, again)
    report.save_png(tmp_path / "grey.png", original)
    read = Image.open(tmp_path / "grey.png")
    assert read.mode == "L"
    np.testing.assert_array_equal(read, original[..., 0])


def test_comparison_of_perfect_restorations() -> None:
    image = _noise(40, 40, 3)
    sheet = report.comparison("Same", image, {"Bicubic": image, "Ours": image}, TASK)
    assert sheet.shape[2] == 3
