"""``binsr upscale``: image files of all kinds, good and broken, into files."""

import io
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from taps import TapsEngine, photo

from binsr_jax.commands import main
from binsr_jax.commands import pictures as command
from binsr_jax.deploy import jobs as jobs_module
from binsr_jax.deploy import picture_files
from binsr_jax.deploy import upscaler as upscaler_module
from binsr_jax.deploy.upscaler import Upscaler
from binsr_jax.ops.native import choose

Run = Callable[..., int]
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def files_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.rglob("*") if file.is_file())


def enlarged(image: np.ndarray, **options) -> np.ndarray:
    return Upscaler(TapsEngine()).upscale(image, **options)


def as_array(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


def save(file: Path, image: np.ndarray | Image.Image, **options) -> None:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(file, **options)


@pytest.mark.parametrize("name", ["restore", "upscale"])
def test_models_that_do_not_enlarge_restore_at_the_same_size(
    monkeypatch, folder, capsys, name
) -> None:
    monkeypatch.setattr(command, "keep_compiled_programs", lambda: None)
    engine = TapsEngine(1, channels=1)
    monkeypatch.setattr(command, "load", lambda model, memory: Upscaler(engine, memory))
    for channels in (1, 3, 4):
        save(folder / f"{channels}.png", photo(13, 9, channels).squeeze())
    for _ in range(2):  # what is restored is not restored again
        assert main([name, "-m", "model.binsr", "-i", str(folder)]) == 0
    assert files_in(folder) == sorted(f"{n}{end}.png" for n in "134" for end in ("", "_restored"))
    for channels in (1, 3, 4):
        expected = Upscaler(engine).upscale(as_array(folder / f"{channels}.png"))
        np.testing.assert_array_equal(as_array(folder / f"{channels}_restored.png"), expected)
    assert "3 restored." in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["png", "tiff", "tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_lossless_files_hold_what_the_upscaler_gives(run, folder, ending, channels):
    image = photo(13, 9, channels)
    image = image[..., 0] if channels == 1 else image
    save(folder / f"a.{ending}", image)
    assert run("-i", folder / f"a.{ending}", "-s", 2) == 0
    assert files_in(folder) == sorted([f"a.{ending}", f"a_x2.{ending}"])
    np.testing.assert_array_equal(as_array(folder / f"a_x2.{ending}"), enlarged(image))


@pytest.mark.parametrize("ending", ["jpg", "jpeg", "webp", "JPG"])
def test_lossy_files_hold_nearly_that(run, folder, ending):
    image = np.asarray(Image.fromarray(photo(4, 5)).resize((60, 40), Image.Resampling.BICUBIC))
    save(folder / f"a.{ending}", image, quality=100)
    assert run("-i", folder, "-o", folder / "out") == 0
    result = folder / "out" / f"a_x2.{ending}"
    with Image.open(result) as written:
        assert written.format == ("WEBP" if ending == "webp" else "JPEG")
    expected = enlarged(as_array(folder / f"a.{ending}"))
    assert np.abs(as_array(result).astype(float) - expected).mean() < 4


@pytest.mark.parametrize("form", ["png", "jpg", "webp", "tiff"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (7, 5)])
def test_every_mode_goes_into_every_format(run, folder, mode, form, size):
    if mode == "I;16":
        image = Image.fromarray(photo(size[1], size[0], 1, np.uint16)[..., 0])
    else:
        image = photo(size[1], size[0], 4 if "A" in mode else 3)
        image = Image.fromarray(image).convert(mode)
    image.save(folder / "a.tif")
    assert run("-i", folder / "a.tif", "-f", form) == 0
    with Image.open(folder / f"a_x2.{form}") as result:
        assert result.size == (2 * size[0], 2 * size[1])
        grey = mode in ("1", "L", "LA", "I;16")
        if form == "webp":  # has no grey: its three channels are equal
            channels = np.asarray(result.convert("RGB")).astype(int)
            assert not grey or np.ptp(channels, axis=-1).max() <= 2
        else:
            assert result.getbands()[0] in (("L", "I;16", "I") if grey else ("R",))
        has_alpha = "A" in result.getbands()
        assert has_alpha == (mode in ("LA", "RGBA") and form != "jpg")


def test_grey_of_16_bits_keeps_them_where_the_format_can(run, folder, capsys):
    image = photo(6, 7, 1, np.uint16)[..., 0]
    save(folder / "a.png", image)
    for form in ("png", "tiff", "jpg"):
        assert run("-i", folder / "a.png", "-f", form) == 0
    for form in ("png", "tiff"):
        np.testing.assert_array_equal(as_array(folder / f"a_x2.{form}"), enlarged(image))
    assert as_array(folder / "a_x2.jpg").dtype == np.uint8
    assert "16 bits become 8" in capsys.readouterr().out


def test_transparency_is_laid_on_white_where_the_format_has_none(run, folder, capsys):
    image = np.zeros((8, 8, 4), np.uint8)  # black, and wholly transparent
    save(folder / "a.png", image)
    assert run("-i", folder, "-f", "jpg") == 0
    assert "white" in capsys.readouterr().out
    expected = enlarged(np.full((8, 8, 3), 255, np.uint8))
    assert np.abs(as_array(folder / "a_x2.jpg").astype(int) - expected).max() < 12


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_and_the_other_exif_kept(run, folder, ending, orientation):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "a maker"
    exif[0x8769] = {0x9003: "2020:01:02 03:04:05", 0xA002: 60}
    exif[0x8825] = {1: "N"}
    # Large blocks, that also a lossy file holds.
    image = np.kron(photo(3, 4), np.ones((16, 16, 1), np.uint8)) // 2 + 60
    save(folder / f"a.{ending}", image, exif=exif.tobytes(), icc_profile=SRGB)
    assert run("-i", folder) == 0
    turned = {
        1: image,
        2: image[:, ::-1],
        3: image[::-1, ::-1],
        4: image[::-1],
        5: image.transpose(1, 0, 2),
        6: np.rot90(image, -1),
        7: np.rot90(image, 2).transpose(1, 0, 2),
        8: np.rot90(image),
    }[orientation]
    with Image.open(folder / f"a_x2.{ending}") as result:
        kept = result.getexif()
        assert kept.get(0x0112, 1) == 1
        assert kept[0x010F] == "a maker"
        assert dict(kept.get_ifd(0x8769)) == {0x9003: "2020:01:02 03:04:05"}
        assert dict(kept.get_ifd(0x8825)) == {1: "N"}
        assert result.info["icc_profile"] == SRGB
        array = np.asarray(result).astype(int)
    assert np.abs(array - enlarged(np.ascontiguousarray(turned))).mean() < 4


def test_broken_exif_is_left_out(run, folder):
    save(folder / "a.jpg", photo(5, 6), exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    save(folder / "b.png", photo(5, 6), exif=b"no exif at all")
    assert run("-i", folder) == 0
    assert as_array(folder / "a_x2.jpg").shape == (10, 12, 3)


def test_cmyk_becomes_rgb_and_it_is_said(run, folder, capsys):
    cmyk = Image.fromarray(photo(6, 5)).convert("CMYK")
    cmyk.save(folder / "plain.tif")
    cmyk.save(folder / "broken.tif", icc_profile=b"no profile")
    assert run("-i", folder, "-f", "png") == 0
    assert capsys.readouterr().out.count("CMYK becomes RGB without a profile") == 2
    expected = enlarged(np.asarray(cmyk.convert("RGB")))
    np.testing.assert_array_equal(as_array(folder / "plain_x2.png"), expected)
    with Image.open(folder / "broken_x2.png") as result:
        assert "icc_profile" not in result.info


@pytest.mark.parametrize("ending", ["png", "webp", "tif", "gif"])
def test_of_animations_the_first_frame_is_taken_and_it_is_said(run, folder, capsys, ending):
    frames = [Image.fromarray(photo(6, 5, seed=seed)) for seed in (1, 2, 3)]
    # Without loss, for WebP; the other formats know no such option.
    frames[0].save(folder / f"a.{ending}", save_all=True, append_images=frames[1:], lossless=True)
    assert run("-i", folder / f"a.{ending}") == 0
    assert "only its first frame" in capsys.readouterr().out
    with Image.open(folder / f"a.{ending}") as image:
        expected = enlarged(np.asarray(image.convert("RGB")))
    result = folder / f"a_x2.{'png' if ending == 'gif' else ending}"
    assert np.abs(as_array(result).astype(int) - expected).mean() < (
        20 if ending == "webp" else 1e-9
    )


def test_broken_files_are_named_and_the_others_done(run, folder, capsys):
    save(folder / "good.png", photo(20, 20))
    whole = (folder / "good.png").read_bytes()
    jpeg = io.BytesIO()
    Image.fromarray(photo(30, 30)).save(jpeg, "JPEG")
    broken = {
        "cut.png": whole[: len(whole) // 2],
        "cut.jpg": jpeg.getvalue()[:-200],
        "empty.png": b"",
        "text.jpg": b"hello",
        "header.webp": b"RIFF\x10\0\0\0WEBPVP8 ",
        "zzz.tif": b"II*\0\x08\0\0\0\xff\xff",
    }
    for name, data in broken.items():
        (folder / name).write_bytes(data)
    save(folder / "last.png", photo(5, 5))
    (folder / "notes.txt").write_text("no image, and not looked at")
    assert run("-i", folder, "-o", folder / "out") == 1
    assert files_in(folder / "out") == ["good_x2.png", "last_x2.png"]
    output = capsys.readouterr()
    assert "2 enlarged, 6 failed." in output.out
    lines = output.err.splitlines()
    assert len(lines) == len(broken)
    for name in broken:
        assert sum(str(folder / name) in line for line in lines) == 1
    assert "Traceback" not in output.err


def test_fuzzed_files_end_in_a_sentence(run, folder):
    generator = np.random.default_rng(0)
    for form in ("png", "jpg", "webp", "tif"):
        save(folder / f"a.{form}", photo(12, 12))
        data = np.frombuffer((folder / f"a.{form}").read_bytes(), np.uint8)
        for i in range(15):
            hurt = data.copy()
            where = generator.integers(len(hurt), size=5)
            hurt[where] = generator.integers(256, size=5)
            (folder / f"{form}{i}.{form}").write_bytes(hurt.tobytes())
    assert run("-i", folder, "-o", folder / "out", "--max-megapixels", 0.01) in (0, 1)
    assert not [name for name in files_in(folder / "out") if name.startswith(".")]


def test_a_decompression_bomb_is_refused(run, folder, capsys, monkeypatch):
    save(folder / "a.png", photo(40, 50))
    assert run("-i", folder, "--max-megapixels", 0.0019) == 1
    error = capsys.readouterr().err
    assert "--max-megapixels" in error
    assert str(folder / "a.png") in error
    assert run("-i", folder, "--max-megapixels", 0.002) == 0
    # 100 megapixels are more than Pillow's own limit, and allowed.
    save(folder / "large.png", Image.new("1", (12_000, 9_000)))
    limit = Image.MAX_IMAGE_PIXELS
    size = picture_files.picture_size(folder / "large.png", jobs_module.Options().most_pixels)
    assert size == (12_000, 9_000)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_an_output_beyond_the_memory_is_refused_before_decoding(run, folder, capsys, monkeypatch):
    save(folder / "a.png", photo(40, 50))
    monkeypatch.setattr(upscaler_module, "available_memory", lambda: 40 * 40 * 50)
    monkeypatch.setattr(jobs_module, "read_picture", None)
    assert run("-i", folder, "--memory", 1) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "a.png: Enlarging 50x40 pixels 2 times takes 1 GiB" in line


def test_an_output_beyond_the_format_is_refused_before_work(run, folder, capsys):
    save(folder / "long.png", np.zeros((1, 8200), np.uint8))
    assert run("-i", folder, "-f", "webp") == 1
    assert "16383" in capsys.readouterr().err
    assert files_in(folder) == ["long.png"]


def test_outputs_that_are_there_are_left_unless_told(run, folder, capsys):
    save(folder / "a.png", photo(6, 6))
    save(folder / "b.png", photo(6, 6))
    (folder / "a_x2.png").write_bytes(b"mine")
    assert run("-i", folder) == 0
    assert (folder / "a_x2.png").read_bytes() == b"mine"
    assert "1 enlarged, 1 skipped" in capsys.readouterr().out
    # Again, over outputs that now lie among the inputs: they are not enlarged again.
    assert run("-i", folder) == 0
    assert files_in(folder) == ["a.png", "a_x2.png", "b.png", "b_x2.png"]
    assert run("-i", folder, "--overwrite") == 0
    np.testing.assert_array_equal(
        as_array(folder / "a_x2.png"), enlarged(as_array(folder / "a.png"))
    )
    assert files_in(folder) == ["a.png", "a_x2.png", "b.png", "b_x2.png"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["while working", "while writing"])
def test_an_interrupted_run_leaves_no_half_files_and_goes_on(
    run, folder, capsys, monkeypatch, number, moment
):
    for name in "abc":
        save(folder / f"{name}.png", photo(8, 8))
    calls = []

    def interrupt_second(function):
        def interrupting(*args, **kwargs):
            calls.append(1)
            if len(calls) == 2:
                if moment == "while writing":
                    args[1].write(b"half a file")
                os.kill(os.getpid(), number)
            return function(*args, **kwargs)

        return interrupting

    with monkeypatch.context() as patch:
        if moment == "while working":
            patch.setattr(TapsEngine, "run", interrupt_second(TapsEngine.run))
        else:
            patch.setattr(Image.Image, "save", interrupt_second(Image.Image.save))
        assert run("-i", folder, "-o", folder / "out") == 1
    assert capsys.readouterr().err.strip() == "error: Interrupted."
    assert files_in(folder / "out") == ["a_x2.png"]
    assert run("-i", folder, "-o", folder / "out") == 0
    assert files_in(folder / "out") == ["a_x2.png", "b_x2.png", "c_x2.png"]
    assert "2 enlarged, 1 skipped" in capsys.readouterr().out


def test_an_output_that_cannot_be_written_is_a_sentence(run, folder, capsys):
    save(folder / "a.png", photo(4, 4))
    (folder / "out").mkdir()
    (folder / "out" / "a_x2.png").mkdir()
    assert run("-i", folder, "-o", folder / "out") == 1
    assert "Cannot write" in capsys.readouterr().err
    assert files_in(folder / "out") == []


def test_tiles_and_the_ensemble(run, folder):
    image = photo(40, 50)
    save(folder / "a.png", image)
    assert run("-i", folder, "-t", 9, "-x", "-o", folder / "out.png") == 0
    np.testing.assert_array_equal(as_array(folder / "out.png"), enlarged(image, ensemble=True))


def test_several_inputs_and_patterns_each_once(run, folder):
    (folder / "deep" / "er").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "deep/c.png", "deep/er/d.png"):
        save(folder / name, photo(4, 4))
    out = folder.parent / "out"
    inputs = [folder / "a.png", folder, f"{folder}/**/*.png", folder / "b.jpg"]
    assert run("-i", *inputs, "-o", out, "--suffix", "") == 0
    assert files_in(out) == ["a.png", "b.jpg", "c.png", "d.png"]
    assert run("-i", f"{folder}/*.jpg", "-o", out, "--suffix=-large") == 0
    assert "b-large.jpg" in files_in(out)


MISTAKES = {
    "no file": (["-i", "{in}/none.png"], "none.png"),
    "no match": (["-i", "{in}/*.webp"], "*.webp"),
    "empty folder": (["-i", "{in}/empty"], "no images in the folder"),
    "wrong scale": (["-i", "{in}", "-s", "3"], "does not enlarge 3 times"),
    "onto itself": (["-i", "{in}/a.png", "--suffix", ""], "replaced by its output"),
    "one file for two": (["-i", "{in}", "-o", "{in}/c.png"], "name a folder"),
    "two formats": (["-i", "{in}/a.png", "-o", "{in}/c.png", "-f", "jpg"], "leave out -f"),
    "unknown format": (["-i", "{in}/a.png", "-o", "{in}/c.bmp"], ".webp"),
    "suffix with a folder": (["-i", "{in}/a.png", "--suffix", "/x"], "-o"),
    "too little memory": (["-i", "{in}/large.bmp", "--memory", "1e-6"], "--memory"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_sentence(run, folder, capsys, mistake):
    (folder / "empty").mkdir()
    for name in ("a.png", "a.jpg", "large.bmp"):
        save(folder / name, photo(60, 60) if name == "large.bmp" else photo(4, 4))
    arguments, words = MISTAKES[mistake]
    before = files_in(folder)
    assert run(*(argument.replace("{in}", str(folder)) for argument in arguments)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert files_in(folder) == before


def test_a_kernel_that_there_is_not_is_one_sentence(run, folder, capsys, monkeypatch):
    save(folder / "a.png", photo(4, 4))
    monkeypatch.setenv("BINSR_KERNEL", "fast")
    choose.chosen_form.cache_clear()
    assert run(folder / "a.png") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: The environment variable BINSR_KERNEL is 'fast': choose from ")


def test_restoring_asks_for_a_model(folder, capsys):
    save(folder / "a.png", photo(4, 4))
    assert main(["restore", str(folder / "a.png")]) == 1
    assert "with -m" in capsys.readouterr().err


def test_restoring_refuses_a_model_that_enlarges(monkeypatch, folder, capsys):
    monkeypatch.setattr(command, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr(command, "load", lambda model, memory: Upscaler(TapsEngine(2), memory))
    save(folder / "a.png", photo(4, 4))
    assert main(["restore", "-m", "model.binsr", str(folder / "a.png")]) == 1
    error = capsys.readouterr().err
    assert "model.binsr enlarges 2 times, and does not keep the size" in error
    assert "binsr upscale" in error


def test_without_an_image_it_says_what_is_missing(run, capsys):
    assert run() == 1
    assert "No image is named" in capsys.readouterr().err


def test_images_are_named_with_and_without_the_flag(run, folder):
    for name in "ab":
        save(folder / f"{name}.png", photo(4, 4))
    assert run(folder / "a.png", "-i", folder / "b.png") == 0
    assert files_in(folder) == ["a.png", "a_x2.png", "b.png", "b_x2.png"]


@pytest.mark.parametrize(
    "arguments", [["-t", "-1"], ["-f", "gif"], ["--quality", "101"], ["--memory", "0"], ["-t", "x"]]
)
def test_wrong_flags_are_status_2(run, folder, arguments):
    with pytest.raises(SystemExit) as end:
        run("-i", folder, *arguments)
    assert end.value.code == 2


def test_progress_on_a_terminal(run, folder, capsys, monkeypatch):
    for name in "ab":
        save(folder / f"{name}.png", photo(30, 30))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert run("-i", folder, "-t", 8) == 0
    bar = capsys.readouterr().err
    assert "MP/s" in bar
    assert "left" in bar
