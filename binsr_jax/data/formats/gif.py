"""Reads a GIF file before its pixels are decoded: reduces it to the first frame."""

import io
from dataclasses import dataclass
from typing import BinaryIO

_MOST_BLOCKS = 100_000  # most blocks before a frame; a file may hold nothing but comments
_CONTROL = 0xF9


@dataclass(frozen=True)
class Gif:
    """The first frame of a GIF as its own file, and whether there are more."""

    stream: BinaryIO
    animated: bool


def read(file: BinaryIO) -> Gif:
    """Reads a GIF file.

    Raises:
        ValueError: It is damaged, or claims more pixels than it holds.
    """
    data = file.read()
    if len(data) < 13:
        raise ValueError("it is truncated")
    place = 13 + _palette(data[10])
    head, control = data[:place], b""
    for _ in range(_MOST_BLOCKS):
        block = data[place : place + 1]
        if block == b"\x21":
            end = _after(data, place + 2)
            if data[place + 1 : place + 2] == bytes([_CONTROL]):
                control = data[place:end]
            place = end
        elif block == b"\x2c":
            start = place + 10 + _palette(data[place + 9]) if place + 9 < len(data) else len(data)
            end = _after(data, start + 1)
            _require_bytes(data, place, end - start)
            frame = data[place:end]
            more = _another(data, end)
            return Gif(io.BytesIO(head + control + frame + b"\x3b"), more)
        else:
            break
    raise ValueError("it has no frame")


def _palette(flags: int) -> int:
    """Bytes of the palette that follows these flags."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _after(data: bytes, place: int) -> int:
    """The end of a sequence of blocks, each preceded by its length, the last one empty."""
    for _ in range(_MOST_BLOCKS + (len(data) - place) // 16):  # encoders fill them with 255 bytes
        if place >= len(data) or not data[place]:
            return place + 1
        place += 1 + data[place]
    raise ValueError("it is cut into too many blocks")


def _another(data: bytes, place: int) -> bool:
    """Whether another frame follows; at most a few blocks are examined."""
    for _ in range(100):
        block = data[place : place + 1]
        if block != b"\x21":
            return block == b"\x2c"
        place = _after(data, place + 2)
    return True


def _require_bytes(data: bytes, place: int, count: int) -> None:
    """Raises ValueError if 9-bit codes could not hold the frame, or it cannot fill the screen."""
    sizes = [data[8:10], data[6:8], data[place + 7 : place + 9], data[place + 5 : place + 7]]
    rows, columns, height, width = (int.from_bytes(size, "little") for size in sizes)
    if not rows or not columns or not height or not width:
        raise ValueError("it has no pixels")
    if max(rows * columns, height * width) > 4096 * count + 2**16:
        raise ValueError("it claims more pixels than it holds")
