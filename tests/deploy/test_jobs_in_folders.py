"""Folders with names, links, pipes and other programs in them that a batch must live with."""

import os
import resource
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cases import SRGB, smooth
from collection import collection
from PIL import Image
from png_cases import chunk, png
from taps import TapsEngine, photo
from tiff_cases import tiff

from binsr_jax.deploy.upscaler import Upscaler
from binsr_jax.image_files import FORMATS, IMAGE_SUFFIXES

Run = Callable[..., int]


def save(file: Path, seed: int = 1, **options) -> np.ndarray:
    image = photo(5, 6, seed=seed)
    Image.fromarray(image).save(file, **options)
    return image


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def require_enlarged(file: Path, image: np.ndarray) -> None:
    with Image.open(file) as written:
        expected = Upscaler(TapsEngine()).upscale(image)
        np.testing.assert_array_equal(np.asarray(written), expected)


def test_only_regular_files_are_opened(run, folder, capsys) -> None:
    os.mkfifo(folder / "a.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "b.png"))
    (folder / "c.png").symlink_to("/dev/zero")
    (folder / "d.png").symlink_to("nowhere.png")
    (folder / "e.png").symlink_to("e.png")
    (folder / "f.png").mkdir()
    (folder / "g.png").symlink_to("a.png")
    image = save(folder / "z.png")
    for inputs, least, out in ((folder, 2, "one"), (folder / "*.png", 6, "two")):
        assert run(inputs, "-o", folder / out) == 1
        require_enlarged(folder / out / "z_x2.png", image)
        lines = capsys.readouterr().err.splitlines()
        assert least <= len(lines) <= 6  # a.png and g.png are one
        assert all(line.startswith("error: ") for line in lines)
        assert names(folder / out) == ["z_x2.png"]


def test_a_fault_of_ours_does_not_keep_the_others_undone(run, folder, capsys, monkeypatch) -> None:
    save(folder / "a.png")
    image = save(folder / "b.png")
    usual, runs = TapsEngine.run, []

    def fail_once(*args):
        runs.append(args)
        if len(runs) == 1:
            raise KeyError("no such thing")
        return usual(*args)

    monkeypatch.setattr(TapsEngine, "run", fail_once)
    assert run(folder) == 1
    require_enlarged(folder / "b_x2.png", image)
    assert not (folder / "a_x2.png").exists()
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert "a.png: a fault of binsr itself" in line
    assert "KeyError: 'no such thing'" in line


def test_an_output_that_is_no_regular_file_is_not_replaced(run, folder, capsys) -> None:
    save(folder / "a.png")
    os.mkfifo(folder / "a_x2.png")
    assert run(folder / "a.png") == 1
    assert "a_x2.png" in capsys.readouterr().err
    assert (folder / "a_x2.png").is_fifo()


def test_links_that_form_cycles_are_not_followed(run, folder, capsys) -> None:
    (folder / "deep" / ".hidden").mkdir(parents=True)
    for link in ("one", "two", "three"):  # followed, they would give 3^40 folders
        (folder / "deep" / link).symlink_to("..")
    images = {name: save(folder / f"{name}.png") for name in ("a", "deep/b", "deep/.hidden/c")}
    assert run(folder / "**" / "*.png", "-o", folder / "out") == 0
    assert run(folder / "**", "-o", folder / "out") == 0
    assert names(folder / "out") == ["a_x2.png", "b_x2.png"]
    require_enlarged(folder / "out" / "b_x2.png", images["deep/b"])


def test_a_link_to_an_output_does_not_stop_the_others(run, folder, capsys) -> None:
    images = {name: save(folder / f"{name}.png") for name in "ab"}
    (folder / "latest.png").symlink_to("out/a_x2.png")
    for _ in range(2):  # the link dangles, then it does not
        assert run(folder, "-o", folder / "out") == 0
        assert "1 left out" in capsys.readouterr().out
    assert names(folder / "out") == ["a_x2.png", "b_x2.png"]
    require_enlarged(folder / "out" / "a_x2.png", images["a"])


def test_an_image_that_would_be_replaced_does_not_stop_the_others(run, folder, capsys) -> None:
    (folder / "out").mkdir()
    kept, image = save(folder / "out" / "a.png"), save(folder / "b.png")
    (folder / "a.png").symlink_to("out/a.png")
    assert run(folder, "-o", folder / "out", "--suffix", "", "--overwrite") == 1
    assert "a.png would be replaced by its output" in capsys.readouterr().err
    with Image.open(folder / "out" / "a.png") as unchanged:
        np.testing.assert_array_equal(np.asarray(unchanged), kept)
    require_enlarged(folder / "out" / "b.png", image)


def test_folders_without_images_do_not_stop_the_others(run, folder, capsys) -> None:
    image = save(folder / "a.png")
    (folder / "b.png").mkdir()  # which a shell names for *.png
    assert run(folder / "a.png", folder / "b.png") == 1
    require_enlarged(folder / "a_x2.png", image)
    assert "no images in the folder" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_lines_that_cannot_be_printed_do_not_stop_the_images(
    run, folder, capsys, monkeypatch
) -> None:
    images = {name: save(folder / f"{name}.png") for name in "ab"}
    with monkeypatch.context() as patched, open("/dev/full", "w", buffering=1) as full:
        patched.setattr(sys, "stdout", full)
        assert run(folder) == 1
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # where it can be closed
    assert "No space left on device" in capsys.readouterr().err
    for name, image in images.items():
        require_enlarged(folder / f"{name}_x2.png", image)


@pytest.mark.parametrize("length", [236, 248, 252, 255])
def test_long_names_do_not_stop_the_others(run, folder, capsys, length) -> None:
    long = "x" * (length - 4)
    image = save(folder / f"{long}.png")
    save(folder / "z.png")
    fits = length + len("_x2") <= 255
    assert run(folder) == (0 if fits else 1)
    assert (folder / "z_x2.png").is_file()
    if fits:
        require_enlarged(folder / f"{long}_x2.png", image)
    else:
        (line,) = capsys.readouterr().err.splitlines()
        assert "--suffix" in line
    assert not [name for name in names(folder) if name.startswith(".")]


def test_a_name_on_the_command_line_may_be_too_long(run, folder, capsys) -> None:
    assert run(folder / ("x" * 300)) == 1
    assert run(f"~nobody-at-all/{'y' * 5000}") == 1
    assert capsys.readouterr().err.count("There is no file") == 2


def test_names_that_are_no_utf8_and_ones_a_terminal_would_obey(folder) -> None:
    odd = [b"caf\xe9.png", b"\x1b[31mred.png", b"two\nlines.png", "é.png".encode()]
    for name in odd:
        save(Path(os.fsdecode(os.fsencode(folder) + b"/" + name)), format="PNG")
    (folder / os.fsdecode(b"bad\xff.png")).write_bytes(b"no image")
    program = (
        "import sys; sys.path.insert(0, sys.argv[2]); from taps import TapsEngine\n"
        "from binsr_jax.commands import main, pictures\n"
        "from binsr_jax.deploy.upscaler import Upscaler\n"
        "pictures.load = lambda model, memory: Upscaler(TapsEngine(), memory)\n"
        "raise SystemExit(main(['upscale', '-m', 'm', sys.argv[1]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), str(Path(__file__).parent)],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},  # the strictest
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"bad\\xff.png" in done.stderr
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"4 enlarged, 1 failed" in done.stdout
    written = os.listdir(os.fsencode(folder))
    assert all(name.replace(b".png", b"_x2.png") in written for name in odd)


def test_images_of_one_stem_get_names_of_their_own(run, folder, capsys) -> None:
    images = {
        name: save(folder / name, seed=seed)
        for seed, name in enumerate(("photo.bmp", "photo.png", "photo.tiff", "other.bmp"))
    }
    # In whatever order they are named; and again, among their own outputs.
    for _ in range(2):
        assert run(folder) == 0
        assert run(folder / "photo.tiff", folder) == 0
        assert len(names(folder)) == 8
    require_enlarged(folder / "photo_x2.png", images["photo.png"])
    require_enlarged(folder / "photo_bmp_x2.png", images["photo.bmp"])
    require_enlarged(folder / "photo_x2.tiff", images["photo.tiff"])
    require_enlarged(folder / "other_x2.png", images["other.bmp"])
    assert "4 left out, as the outputs of others" in capsys.readouterr().out


def test_images_of_one_name_in_several_folders(run, folder) -> None:
    images = {}
    for seed, place in enumerate("abc"):
        (folder / place).mkdir()
        images[place] = save(folder / place / "1.png", seed=seed)
    out = folder / "out"
    assert run(folder / "b", folder / "a", folder / "c", "-o", out) == 0
    assert names(out) == ["1_x2.png", "b_1_x2.png", "c_1_x2.png"]
    require_enlarged(out / "1_x2.png", images["a"])
    require_enlarged(out / "b_1_x2.png", images["b"])
    (folder / "d" / "c").mkdir(parents=True)
    save(folder / "d" / "c" / "1.png", seed=9)
    assert run(folder / "d" / "c", *(folder / place for place in "abc"), "-o", out) == 0
    assert len(names(out)) == 4


@pytest.mark.parametrize("suffix", [".gif", ".jfif", ".jpe", ".apng", ".GIF", ".bmp"])
def test_all_endings_are_found_in_folders(run, folder, suffix) -> None:
    form = {".gif": "GIF", ".bmp": "BMP", ".apng": "PNG"}.get(suffix.lower(), "JPEG")
    save(folder / f"a{suffix}", format=form)
    assert run(folder) == 0
    assert len(names(folder)) == 2


@pytest.mark.parametrize("ending", ["jxl", "heic", "avif", "gif", "bmp", "jp2", "JXL"])
def test_an_output_of_another_format_is_no_folder(run, folder, capsys, ending) -> None:
    save(folder / "a.png")
    assert run(folder / "a.png", "-o", folder / f"big.{ending}") == 1
    assert f"big.{ending}" in capsys.readouterr().err
    assert names(folder) == ["a.png"]
    assert run(folder / "a.png", "-o", f"{folder}/big.{ending}/") == 0
    assert names(folder / f"big.{ending}") == ["a_x2.png"]


@pytest.mark.parametrize("ending", sorted(FORMATS))
def test_an_output_of_each_format_is_a_file(run, folder, ending) -> None:
    save(folder / "a.png")
    assert run(folder / "a.png", "-o", folder / f"big{ending}") == 0
    with Image.open(folder / f"big{ending}") as written:
        assert written.format == FORMATS[ending]


@pytest.mark.parametrize("arguments", [[""], ["a.png", ""], ["a.png", "-o", ""]])
def test_an_empty_argument_is_a_variable_that_is_not_set(
    run, folder, capsys, monkeypatch, arguments
) -> None:
    save(folder / "a.png")
    monkeypatch.chdir(folder)
    assert run(*arguments) == 1
    assert "not set" in capsys.readouterr().err
    assert names(folder) == ["a.png"]


def test_another_format_does_not_enlarge_the_outputs_of_the_first(run, folder) -> None:
    save(folder / "photo.jpg")
    save(folder / "photo.bmp")
    for form in ("webp", "png", "tiff"):
        assert run(folder, "-f", form) == 0
    assert not [name for name in names(folder) if "_x2_x2" in name]
    assert run(folder / "photo_x2.png") == 0  # asked for by its name
    assert (folder / "photo_x2_x2.png").is_file()


@pytest.mark.parametrize("ending", ["jpg", "tif", "png", "bmp"])
def test_dots_an_inch_grow_with_the_picture(run, folder, ending) -> None:
    save(folder / f"scan.{ending}", dpi=(300, 150))
    save(folder / f"none.{ending}")
    for form in ("jpg", "tif", "png"):
        assert run(folder, "-f", form) == 0
        with Image.open(folder / f"scan_x2.{form}") as written:
            np.testing.assert_allclose([float(x) for x in written.info["dpi"]], (600, 300), 1e-3)
        with Image.open(folder / f"none_x2.{form}") as written:
            known = written.info.get("dpi", (1, 1))
            assert ending == "bmp" or tuple(map(float, known)) in ((1, 1), (72, 72))


def _as_tiff(exif: Image.Exif) -> Image.Exif:
    """The same, loaded again, without which Pillow writes no inner directory into a TIFF."""
    loaded = Image.Exif()
    loaded.load(exif.tobytes())
    for tag in (0x8298, 0x013B):
        loaded[tag] = exif[tag]
    return loaded


def test_dots_beyond_what_a_format_holds_are_left_out(run, folder) -> None:
    dots = chunk(b"pHYs", struct.pack(">IIB", 2_000_000, 2_000_000, 1))
    (folder / "a.png").write_bytes(png(smooth(3), 8, 2, dots))
    assert run(folder, "-f", "jpg") == 0
    with Image.open(folder / "a_x2.jpg") as written:
        assert written.info.get("jfif_unit") == 0


def _texts(exif: Image.Exif) -> dict[int, bytes]:
    inner = exif.get_ifd(0x8769)
    values = {tag: exif[tag] for tag in (0x8298, 0x013B)} | {0x9286: inner[0x9286]}
    return {
        tag: value if isinstance(value, bytes) else value.encode("latin-1")
        for tag, value in values.items()
    }


@pytest.mark.parametrize("source", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("form", ["jpg", "png", "webp", "tif"])
def test_exif_keeps_its_bytes(run, folder, source, form) -> None:
    owner, artist = "© 2024 José Müller".encode(), "Çelik".encode("latin-1")
    exif = Image.Exif()
    exif[0x8298], exif[0x013B] = owner, artist
    exif.endian = ">" if source in ("webp", "png") else "<"
    exif[0x8769] = {
        0x829A: 0.125,
        0xA210: 3,
        0x9286: b"ASCII\0\0\0" + "é".encode(),
        0x927C: bytes(range(256)) * 240,
    }
    save(folder / f"a.{source}", exif=exif.tobytes() if source != "tif" else _as_tiff(exif))
    assert run(folder, "-f", form) == 0
    with Image.open(folder / f"a_x2.{form}") as written:
        assert _texts(written.getexif()) == {
            0x8298: owner,
            0x013B: artist,
            0x9286: b"ASCII\0\0\0" + "é".encode(),
        }
        inner = written.getexif().get_ifd(0x8769)
        assert (float(inner[0x829A]), inner[0xA210]) == (0.125, 3)
        if form == "tif":
            assert written.info["compression"] == "tiff_lzw"


def test_exif_too_long_for_a_jpeg_loses_its_longest_values(run, folder) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    exif[0x8769] = {0x927C: bytes(60_000), 0x9286: bytes(50_000)}
    save(folder / "a.png", exif=exif)
    assert run(folder, "-f", "jpg") == 0
    with Image.open(folder / "a_x2.jpg") as written:
        assert written.getexif()[0x010F] == "a maker"


def test_profiles_stay_only_where_they_belong(run, folder, capsys) -> None:
    grey = SRGB[:16] + b"GRAY" + SRGB[20:]  # a profile as far as anybody here looks
    image = Image.fromarray(photo(5, 6))
    image.convert("L").save(folder / "grey.png", icc_profile=grey)
    image.save(folder / "wrong.png", icc_profile=grey)
    image.save(folder / "right.png", icc_profile=SRGB)
    (folder / "broken.png").write_bytes(png(smooth(3), 8, 2, chunk(b"iCCP", b"x\0\0xx")))
    kept = {}
    for form in ("png", "webp"):
        assert run(folder, "-f", form) == 0
        for name in ("grey", "wrong", "right", "broken"):
            with Image.open(folder / f"{name}_x2.{form}") as written:
                kept[name, form] = written.info.get("icc_profile")
    assert {key for key, profile in kept.items() if profile} == {
        ("grey", "png"),
        ("right", "png"),
        ("right", "webp"),
    }
    output = capsys.readouterr().out
    assert output.count("does not belong to such pixels") == 2
    assert "its profile of grey is left out" in output


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
def test_a_full_disk_leaves_no_half_file(run, folder, capsys, ending) -> None:
    Image.fromarray(photo(60, 60)).save(folder / "a.png")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, usual[1]))
    try:
        assert run(folder, "-f", ending, "-o", folder / "out") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert "Cannot write" in capsys.readouterr().err
    assert names(folder / "out") == []
    assert run(folder, "-f", ending, "-o", folder / "out") == 0


def test_two_runs_into_one_folder_both_succeed(run, folder) -> None:
    images = {f"{i}": save(folder / f"{i}.png", seed=i) for i in range(6)}
    statuses = []
    threads = [
        threading.Thread(target=lambda: statuses.append(_status(folder, folder / "out")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [[], []]
    assert names(folder / "out") == [f"{name}_x2.png" for name in sorted(images)]
    for name, image in images.items():
        require_enlarged(folder / "out" / f"{name}_x2.png", image)


def _status(folder: Path, out: Path) -> list[str]:
    from binsr_jax.deploy.jobs import Outcome, run_jobs
    from binsr_jax.deploy.listing import Options, find_images, plan_jobs

    files, _ = find_images([str(folder)])
    jobs = plan_jobs(files, str(out), "_x2", None)
    outcome = Outcome()
    run_jobs(Upscaler(TapsEngine()), jobs, Options(), outcome.add)
    return outcome.failed


def test_a_tiff_of_many_pages_takes_no_longer(run, folder, capsys) -> None:
    page = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 0)]
    out, pages = bytearray(b"II*\0" + struct.pack("<I", 8)), 50_000
    for k in range(pages):
        after = 8 + (k + 1) * 66 if k < pages - 1 else 0
        entries = b"".join(struct.pack("<HHII", *entry) for entry in page)
        out += struct.pack("<H", 5) + entries + struct.pack("<I", after)
    (folder / "a.tif").write_bytes(out)
    (folder / "loop.tif").write_bytes(tiff(smooth(1), 8, 1)[:-4])
    assert run(folder / "a.tif") == 0
    assert "only its first frame is taken" in capsys.readouterr().out


def test_white_over_clear_gets_no_dark_edge(run, folder) -> None:
    alpha = np.zeros((24, 30), np.uint8)
    alpha[6:18, 8:22] = 255
    shape = np.zeros((24, 30, 4), np.uint8)
    shape[alpha > 0] = 255
    Image.fromarray(shape).save(folder / "a.png")
    assert run(folder) == 0
    whole = Upscaler(TapsEngine()).upscale(np.full((24, 30, 3), 255, np.uint8))
    with Image.open(folder / "a_x2.png") as written:
        result = np.asarray(written)
        large = Image.fromarray(alpha).resize((60, 48), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(result[..., 3], np.asarray(large))
    visible = result[..., 3] > 0
    np.testing.assert_array_equal(result[visible][:, :3], whole[visible])


def test_a_folder_of_everything_is_done_as_far_as_it_can_be(run, folder, capsys) -> None:
    good = 0
    for i, case in enumerate(collection()):
        (folder / f"{i}{Path(case.name).suffix}").write_bytes(case.data)
        found = Path(case.name).suffix in IMAGE_SUFFIXES
        good += case.pixels is not None and found
    assert run(folder, "-o", folder / "out", "-f", "png", "--max-megapixels", 1) == 1
    assert len(names(folder / "out")) == good > 100
    assert f"{good} enlarged" in capsys.readouterr().out
