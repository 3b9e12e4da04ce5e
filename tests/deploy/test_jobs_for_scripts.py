"""``--json``, which scripts read, and ``--watch``, which waits for images in folders."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from taps import TapsEngine, photo

from binsr_jax.commands import main
from binsr_jax.commands import pictures as command
from binsr_jax.deploy.arrivals import arrivals
from binsr_jax.deploy.upscaler import Upscaler
from binsr_jax.errors import UserError

Run = Callable[..., int]


@pytest.fixture
def between_looks(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what happens between the looks of ``--watch``; after that comes Ctrl-C."""

    def set_them(*happenings: Callable[[], object]) -> None:
        left = iter(happenings)

        def pause() -> None:
            happening = next(left, None)
            if happening is None:
                raise KeyboardInterrupt
            happening()

        monkeypatch.setattr(command, "_pause", pause)

    return set_them


def png(file: Path, seed: int = 1) -> bytes:
    Image.fromarray(photo(5, 6, seed=seed)).save(file, "PNG")
    return file.read_bytes()


def rows(capsys) -> tuple[list[dict[str, Any]], str]:
    """The rows on standard output, and the text on standard error."""
    streams = capsys.readouterr()
    return [json.loads(line) for line in streams.out.splitlines()], streams.err


def test_each_image_is_one_line_of_json(run, folder, capsys) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(photo(5, 6)).save(folder / "a.png", exif=exif)
    (folder / "b.png").write_bytes(b"no image")
    png(folder / "c.png")
    (folder / "c_x2.png").write_bytes(b"there already")
    assert run(folder, "--json") == 1
    found, messages = rows(capsys)
    by_name = {Path(row["input"]).name: row for row in found}
    assert len(found) == 3
    a, b, c = (by_name[name] for name in ("a.png", "b.png", "c.png"))
    assert a.pop("seconds") >= 0
    assert a == {
        "input": str(folder / "a.png"),
        "output": str(folder / "a_x2.png"),
        "state": "done",
        "model": "model.binsr",
        "size": [5, 6],
        "output_size": [10, 12],
        "notes": [],
        "error": None,
    }
    with Image.open(a["output"]) as image:
        assert [*image.size] == a["output_size"]
    assert (b["state"], b["size"], b["seconds"]) == ("failed", None, None)
    assert "b.png" in b["error"]
    assert (c["state"], c["error"]) == ("skipped", None)
    for words in ("1 enlarged, 1 skipped", "1 failed", "1 left out", "error: ", "a.png -> "):
        assert words in messages


def test_a_name_that_is_no_text_comes_back_from_json(run, folder, capsys) -> None:
    file = folder / os.fsdecode(b"\xff\n\xe2\x80\xae.png")
    png(file)
    assert run(folder, "--json") == 0
    (row,) = rows(capsys)[0]
    assert os.fsencode(row["input"]) == os.fsencode(file)
    assert Path(row["output"]).exists()


def test_a_mistake_prints_no_json(run, folder, capsys) -> None:
    assert run(folder / "missing.png", "--json") == 1
    assert rows(capsys)[0] == []


@pytest.mark.parametrize("name", ["denoise", "dejpeg", "restore"])
def test_the_commands_that_keep_the_size_print_the_same(name, folder, capsys, monkeypatch) -> None:
    monkeypatch.setattr(command, "keep_compiled_programs", lambda: None)
    engine = TapsEngine(scale=1)
    monkeypatch.setattr(command, "load", lambda model, memory: Upscaler(engine, memory))
    png(folder / "a.png")
    assert main([name, "-m", "mine.binsr", str(folder), "--json"]) == 0
    (row,) = rows(capsys)[0]
    assert (row["model"], row["size"], row["output_size"]) == ("mine.binsr", [6, 5], [6, 5])


def test_images_are_done_when_they_arrive_and_are_complete(
    run, folder, between_looks, capsys
) -> None:
    out, whole = folder.parent / "out", png(folder / "a.png")
    written = []

    def start_b() -> None:
        written.append((out / "a_x2.png").exists())
        (folder / "b.png").write_bytes(whole[:50])

    def finish_b() -> None:
        written.append((out / "b_x2.png").exists())
        with open(folder / "b.png", "ab") as file:
            file.write(whole[50:])

    between_looks(lambda: None, start_b, finish_b, lambda: None)
    assert run(folder, "--watch", "-o", out, "--json") == 0
    assert written == [True, False]
    found, messages = rows(capsys)
    assert [(Path(row["input"]).name, row["state"]) for row in found] == [
        ("a.png", "done"),
        ("b.png", "done"),
    ]
    expected = Upscaler(TapsEngine()).upscale(photo(5, 6))
    for row in found:
        with Image.open(row["output"]) as image:
            np.testing.assert_array_equal(np.asarray(image), expected)
    assert "2 enlarged." in messages
    assert "Traceback" not in messages


def test_an_image_whose_writer_stopped_is_done_when_the_rest_has_come(
    run, folder, between_looks, capsys
) -> None:
    whole = png(folder / "a.png")
    (folder / "a.png").write_bytes(whole[:50])
    between_looks(
        lambda: None,
        lambda: None,
        lambda: (folder / "a.png").write_bytes(whole),
        lambda: None,
    )
    assert run(folder, "--watch", "-o", folder.parent / "out") == 0
    streams = capsys.readouterr()
    assert streams.err.count("a.png") == 1
    assert "1 enlarged, 1 failed." in streams.out
    assert (folder.parent / "out" / "a_x2.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{in}", "--watch"], "another one for the outputs"),
        (["--watch", "-o", "{out}"], "a folder to watch"),
        (["{in}", "--watch", "-o", "{in}"], "is watched"),
        (["{in}/a.png", "--watch", "-o", "{out}"], "is not one"),
        (["{in}", "--watch", "-o", "{in}/a.png"], "Cannot make the folder"),
    ],
)
def test_what_cannot_be_watched_is_a_sentence(run, folder, capsys, arguments, words) -> None:
    png(folder / "a.png")
    places = {"in": str(folder), "out": str(folder.parent / "out")}
    assert run(*(argument.format(**places) for argument in arguments)) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_wrong_model_is_reported_before_an_image_arrives(folder, capsys) -> None:
    assert main(["upscale", "-m", "none", str(folder), "--watch", "-o", f"{folder}/out"]) == 1
    assert "'none'" in capsys.readouterr().err


def test_a_folder_that_has_gone_ends_the_waiting(tmp_path) -> None:
    (tmp_path / "in").mkdir()
    waiting: Iterator[list[Path]] = arrivals([tmp_path / "in"], (tmp_path / "in").rmdir)
    with pytest.raises(UserError, match="Cannot read the folder"):
        next(waiting)
