"""Benchmark sets of every layout, and files that cannot be scored."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from set_pictures import colour_picture, config_of, save, sr_task

from binsr_jax import config as config_lib
from binsr_jax.errors import UserError
from binsr_jax.evaluation import report
from binsr_jax.evaluation.benchmark import score_set
from binsr_jax.evaluation.sets import load_set
from binsr_jax.tasks import task_of


def test_images_of_one_stem_keep_their_suffix(tmp_path: Path) -> None:
    for file in ("a.png", "a.bmp", "b.png"):
        save(tmp_path / "Set" / file, colour_picture(20, 20))
    names = [example.name for example in load_set("Set", tmp_path, sr_task())]
    assert names == ["a.bmp", "a.png", "b"]


def test_the_usual_layout_with_lr_files(tmp_path: Path) -> None:
    for seed, name in enumerate(["one", "two"]):
        hq = colour_picture(33, 48, seed)
        save(tmp_path / f"Pairs/HR/{name}.png", hq)
        # Nearest neighbours in place of bicubic show that the files are what is used.
        save(tmp_path / f"Pairs/LR_bicubic/X2/{name}x2.png", hq[:32:2, ::2])
    pairs = load_set("Pairs", tmp_path, sr_task(2))
    assert pairs.protocol == "Y, border 2, LR files"
    for seed, example in enumerate(pairs):
        np.testing.assert_array_equal(example.hq, colour_picture(33, 48, seed)[:32])
        np.testing.assert_array_equal(example.lq, example.hq[::2, ::2])
    # No such files for another scale: they are made.
    assert load_set("Pairs", tmp_path, sr_task(3)).protocol == "Y, border 3, bicubic LR"


def test_lr_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    save(tmp_path / "Pairs/HR/one.png", colour_picture(32, 48))
    save(tmp_path / "Pairs/LR_bicubic/X2/onex2.png", colour_picture(16, 23))
    with pytest.raises(UserError, match=r"onex2.png is 23x16 .*one.png \(48x32\) reduced 2"):
        score_set(load_set("Pairs", tmp_path, sr_task()))
    save(tmp_path / "Pairs/HR/two.png", colour_picture(32, 48))
    with pytest.raises(UserError, match=r"two.png has no LR image twox2.png in .*X2"):
        load_set("Pairs", tmp_path, sr_task())


def test_data_folder_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "Tiny/a.png", colour_picture(20, 20))
    monkeypatch.setenv("BINSR_DATA", str(tmp_path))
    assert len(load_set("Tiny", "", sr_task())) == 1
    monkeypatch.delenv("BINSR_DATA")
    with pytest.raises(UserError, match=r"Tiny.*--data-dir.*BINSR_DATA"):
        load_set("Tiny", "", sr_task())


def test_missing_sets_are_named_with_the_layouts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder .*nowhere"):
        load_set("Set5", tmp_path / "nowhere", sr_task())
    with pytest.raises(UserError, match=r"no benchmark set Set5 .* Set5/\*.png.*X3/\*x3.png"):
        load_set("Set5", tmp_path, sr_task(3))
    (tmp_path / "Set5").mkdir()
    with pytest.raises(UserError, match=r"Set5 has no images .* Set5/\*.png"):
        load_set("Set5", tmp_path, sr_task())


def test_broken_images_are_named(tmp_path: Path) -> None:
    save(tmp_path / "Set/whole.png", colour_picture(40, 40))
    whole = (tmp_path / "Set/whole.png").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not an image"):
        (tmp_path / "Set/broken.png").write_bytes(content)
        with pytest.raises(UserError, match=r"broken.png"):
            score_set(load_set("Set", tmp_path, sr_task()))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (50, 4), (5, 5)])
def test_images_smaller_than_the_border_are_named(tmp_path: Path, height: int, width: int) -> None:
    save(tmp_path / "Set/small.png", colour_picture(height, width))
    with pytest.raises(UserError, match=rf"small.png is {width}x{height} pixels, too small"):
        score_set(load_set("Set", tmp_path, sr_task()))


def test_a_fingerprint_is_of_the_pixels_alone(tmp_path: Path) -> None:
    for folder, suffix in (("one", "png"), ("two", "tif")):
        save(tmp_path / folder / f"Set/a.{suffix}", colour_picture(40, 44))
        save(tmp_path / folder / f"Set/b.{suffix}", colour_picture(40, 44, 1))
    found = [load_set("Set", tmp_path / name, sr_task()) for name in ("one", "two")]
    assert found[0].fingerprint() == found[1].fingerprint()
    assert score_set(found[0])[-1]["fingerprint"] == found[1].fingerprint()
    save(tmp_path / "two/Set/b.tif", colour_picture(40, 44, 2))
    assert found[0].fingerprint() != found[1].fingerprint()


def test_lr_files_of_images_that_differ_in_their_ending(tmp_path: Path) -> None:
    hq = colour_picture(32, 48)
    for name in ("HR/one.png", "HR/one.bmp"):
        save(tmp_path / "Pairs" / name, hq)
    save(tmp_path / "Pairs/LR_bicubic/X2/onex2.png", hq[::2, ::2])
    with pytest.raises(UserError, match=r"one.bmp and one.png.*onex2.png: remove all but one"):
        load_set("Pairs", tmp_path, sr_task())
    save(tmp_path / "Pairs/LR_bicubic/X2/onex2.bmp", hq[::2, 1::2])
    first, second = load_set("Pairs", tmp_path, sr_task())
    np.testing.assert_array_equal(first.lq, hq[::2, 1::2])
    np.testing.assert_array_equal(second.lq, hq[::2, ::2])


def test_names_that_are_long_or_no_utf8_do_not_stop_the_others(tmp_path: Path) -> None:
    names = ["x" * 245, "caf\udce9", "b"]
    for name in names:
        save(tmp_path / f"Set/{name}.png", colour_picture(24, 24))
    rows = score_set(load_set("Set", tmp_path, sr_task()), None, tmp_path / "images")
    report.append_rows(tmp_path / "results.jsonl", rows)
    assert [row.get("image") for row in rows] == ["b", r"caf\xe9", "x" * 245, None]
    assert len(list((tmp_path / "images/Set").iterdir())) == 6


def test_centres_of_images(tmp_path: Path) -> None:
    image = colour_picture(41, 52)
    save(tmp_path / "Set/a.png", image)
    for config in (config_of("denoise"), config_lib.default()):
        images = load_set("Set@20", tmp_path, task_of(config))
        assert images.name.startswith("Set@20")
        assert images.protocol.endswith("centre 20x20")
        (example,) = images
        np.testing.assert_array_equal(example.hq, image[10:30, 16:36])
    with pytest.raises(UserError, match=r"a.png is 52x41 .* centre of 42x42.*@42"):
        list(load_set("Set@42", tmp_path, sr_task()))
    for name in ("Set@", "Set@x", "Set@0", "Set@-5"):
        with pytest.raises(UserError, match=r"as in Kodak24@500"):
            load_set(name, tmp_path, sr_task())


def test_kodak_centres_are_the_published_ones(data_dir: Path) -> None:
    if not (data_dir / "Kodak24").is_dir():
        pytest.skip(f"{data_dir / 'Kodak24'} does not exist")
    images = load_set("Kodak24@500", data_dir, task_of(config_of("denoise", 25)))
    assert images.name == "Kodak24@500-25"
    example = next(iter(images))
    whole = np.asarray(Image.open(images.files[0]).convert("RGB"))
    top, left = (whole.shape[0] - 500) // 2, (whole.shape[1] - 500) // 2
    np.testing.assert_array_equal(example.hq, whole[top : top + 500, left : left + 500])


def test_missing_sets_of_scale_1_have_no_lr_layout(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"CBSD68 in .*: it must be a folder of images CBSD68/\*"):
        load_set("CBSD68", tmp_path, task_of(config_of("denoise")))
