"""Files that are written whole or not at all, and opened only where they are files."""

import os
import stat
import threading
from pathlib import Path

import pytest

from binsr_jax import files


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_home_that_is_unknown_stays_a_name(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.expanded("~/a") == tmp_path / "a"
    assert files.expanded(Path("~nobody-at-all/a")) == Path("~nobody-at-all/a")


def test_a_file_appears_whole_and_alone(tmp_path: Path) -> None:
    for text in ("first", "second, ä", ""):
        files.replace_text(tmp_path / "a.txt", text)
        assert (tmp_path / "a.txt").read_bytes() == text.encode()
        assert names(tmp_path) == ["a.txt"]


def test_its_rights_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "usual").write_bytes(b"")
    files.replace_bytes(tmp_path / "a", b"x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, MemoryError])
def test_what_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, error) -> None:
    def write() -> None:
        with files.replacing(tmp_path / "a") as output:
            output.write(b"half of the n")
            raise error

    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(error):
        write()
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_an_encoder_can_go_back_and_finds_no_descriptor(tmp_path: Path) -> None:
    with files.replacing(tmp_path / "a") as output:
        output.write(b"0123456789")
        output.seek(2)
        output.write(b"ab")
        assert output.tell() == 4
        assert output.size == 10
        assert not hasattr(output, "fileno")
    assert (tmp_path / "a").read_bytes() == b"01ab456789"


def test_a_file_that_lost_bytes_is_not_given_its_name(tmp_path: Path) -> None:
    def write() -> None:
        with files.replacing(tmp_path / "a") as output:
            output.write(b"0123456789")
            output.flush()
            (part,) = tmp_path.iterdir()
            os.truncate(part, 4)

    with pytest.raises(OSError, match="bytes were written"):
        write()
    assert names(tmp_path) == []


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    files.replace_bytes(tmp_path / ("x" * longest), b"content")
    assert names(tmp_path) == ["x" * longest]
    with pytest.raises(OSError, match="too long"):
        files.replace_bytes(tmp_path / ("x" * (longest + 1)), b"content")
    assert names(tmp_path) == ["x" * longest]


def test_a_link_under_the_temporary_name_is_not_followed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(files.secrets, "token_hex", lambda length: "guessed")
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / ".guessed.part").symlink_to(tmp_path / "mine")
    with pytest.raises(FileExistsError):
        files.replace_bytes(tmp_path / "a", b"content")
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_a_link_under_the_name_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic links"):
        files.open_lock(tmp_path / "lock")
    assert not (tmp_path / "mine").exists()


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    contents = [bytes([i]) * 100_000 for i in range(8)]

    def write(content: bytes) -> None:
        for _ in range(5):
            files.replace_bytes(tmp_path / "a", content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_bytes() in contents
    assert names(tmp_path) == ["a"]


def test_what_is_no_file_is_neither_opened_nor_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "folder", "link", "/dev/null"):
        with pytest.raises(OSError, match="no regular file"):
            files.open_regular(tmp_path / name)
        with pytest.raises(OSError, match="no regular file"):
            files.replace_bytes(tmp_path / name, b"content")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    with pytest.raises(FileNotFoundError):
        files.open_regular(tmp_path / "none")
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "good").symlink_to(tmp_path / "a")
    with files.open_regular(tmp_path / "good") as file:
        assert file.read() == b"content"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("café.png", "café.png"),
        ("a b\n.png", r"a b\n.png"),
        ("a\x1b[31m.png", r"a\x1b[31m.png"),
        (os.fsdecode(b"caf\xe9.png"), r"caf\xe9.png"),
        ("a\u202eb", r"a\u202eb"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, shown: str) -> None:
    assert files.printable(text) == shown
    shown.encode()


def test_a_text_of_several_lines_keeps_them() -> None:
    assert files.printable_lines("a\x1b\nb\r\n") == "a\\x1b\nb\\r\n"
