"""TIFF directories in TIFF files and EXIF: reads them within limits, and writes new EXIF."""

import io
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_BIG_SIZES = {16: 8, 17: 8, 18: 8}  # only in BigTIFF
_WHOLE = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 18: "Q"}
# The size in bytes of the numbers that make up a value of each type.
_UNITS = {**_SIZES, 5: 4, 10: 4}
_MARKS = {"<": b"II", ">": b"MM"}
EXIF_MARK = b"Exif\0\0"
_MOST_ENTRIES = 4096
_MOST_PART = 65_000  # bytes of EXIF, in one value and in all: a JPEG segment holds 65,533

_ORIENTATION, _ACROSS, _DOWN, _UNIT = 0x0112, 0x011A, 0x011B, 0x0128
_EXIF, _GPS, _PROFILE = 0x8769, 0x8825, 0x8773
# The EXIF tags that are copied besides those two: description, maker, model, software, date,
# artist, copyright. The rest describes the layout of the old file, or the orientation, which has
# been applied.
_KEPT = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
# Sizes of the old picture, and a directory whose position would change.
_NOT_KEPT = (0xA002, 0xA003, 0xA005)


@dataclass(frozen=True)
class Entry:
    """The position of one value of a directory, and its TIFF type and count."""

    kind: int
    count: int
    offset: int
    size: int


class Directories:
    """The directories of a TIFF file or of EXIF, each read on demand.

    Attributes:
        order: ``"<"`` or ``">"``, the byte order.
        big: Whether it is a BigTIFF.
        first: The position of the first directory.
        length: The size of the file, in bytes.

    Raises:
        ValueError: It is neither TIFF nor EXIF.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.length = file.seek(0, os.SEEK_END)
        head = self._read(0, 16).ljust(16, b"\0")
        self.order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
        version = struct.unpack(f"{self.order or '<'}H", head[2:4])[0]
        if not self.order or version not in (42, 43):
            raise ValueError("it is no TIFF")
        self.big = version == 43
        self.first: int = struct.unpack_from(
            self.order + ("Q" if self.big else "I"), head, 8 if self.big else 4
        )[0]

    def read(self, offset: int) -> tuple[dict[int, Entry], int]:
        """The entries of a directory by tag, and the position of the next directory, or 0.

        A value outside of the file is left out.

        Raises:
            ValueError: It is truncated, or its values together are larger than the file.
        """
        number, word, entry = ("Q", "Q", 20) if self.big else ("H", "I", 12)
        head = self._read(offset, struct.calcsize(number))
        count = struct.unpack(self.order + number, head)[0] if len(head) > 1 else 0
        if not 0 < count <= _MOST_ENTRIES:
            raise ValueError("a directory is damaged")
        start, inside = offset + len(head), struct.calcsize(word)
        block = self._read(start, count * entry + inside)
        if len(block) < count * entry:
            raise ValueError("a directory is cut off")
        entries, total = {}, 0
        for i in range(count):
            tag, kind, length = struct.unpack_from(f"{self.order}HH{word}", block, i * entry)
            size = length * (_SIZES | _BIG_SIZES).get(kind, 0)
            place = start + i * entry + 4 + inside
            if size > inside:
                place = struct.unpack_from(self.order + word, block, i * entry + 4 + inside)[0]
            if place + size <= self.length:
                entries.setdefault(tag, Entry(kind, length, place, size))
                total += size
        if total > 2 * self.length + 2**16:  # many values share the same bytes
            raise ValueError("the values of a directory are larger than the file")
        after = block[count * entry :]
        return entries, struct.unpack(self.order + word, after)[0] if len(after) == inside else 0

    def content(self, entry: Entry) -> bytes:
        """The bytes of a value."""
        return self._read(entry.offset, entry.size)

    def numbers(self, entries: Mapping[int, Entry], tag: int, most: int = 64) -> tuple[int, ...]:
        """At most the first ``most`` integers of a value; none if it is missing or negative."""
        entry = entries.get(tag)
        if entry is None or entry.kind not in _WHOLE:
            return ()
        count = min(entry.count, most)
        data = self._read(entry.offset, count * (_SIZES | _BIG_SIZES)[entry.kind])
        values = struct.unpack(f"{self.order}{count}{_WHOLE[entry.kind]}", data)
        return values if min(values, default=0) >= 0 else ()

    def _read(self, offset: int, count: int) -> bytes:
        if offset > self.length:
            return b""
        self._file.seek(offset)
        return self._file.read(min(count, self.length - offset))


def orientation_and_dpi(directories: Directories) -> tuple[int, tuple[float, float] | None]:
    """The orientation of the first picture, 0 if none is given, and its dots per inch.

    Raises:
        ValueError: The directory is damaged.
    """
    entries, _ = directories.read(directories.first)
    (orientation, *_) = (*directories.numbers(entries, _ORIENTATION, 1), 0)
    (unit, *_) = (*directories.numbers(entries, _UNIT, 1), 2)
    values = [directories.content(entries[tag]) for tag in (_ACROSS, _DOWN) if tag in entries]
    if unit not in (2, 3) or [len(value) for value in values] != [8, 8]:
        return orientation, None
    ratios = [struct.unpack(f"{directories.order}II", value) for value in values]
    across, down = (a / b * (2.54 if unit == 3 else 1) if b else 0.0 for a, b in ratios)
    return orientation, (across, down)


def profile_of(directories: Directories) -> bytes | None:
    """The ICC profile of the first picture, or None."""
    entries, _ = directories.read(directories.first)
    entry = entries.get(_PROFILE)
    return None if entry is None else directories.content(entry)


def kept_exif(directories: Directories) -> bytes:
    """A new EXIF with the tags to keep, whose values have the same bytes; or b"".

    Raises:
        ValueError: A directory is damaged.
    """
    main, _ = directories.read(directories.first)
    kept = {0: {tag: main[tag] for tag in _KEPT if tag in main}}
    for pointer in (_EXIF, _GPS):
        for offset in directories.numbers(main, pointer, 1):
            found, _ = directories.read(offset)
            kept[pointer] = {tag: entry for tag, entry in found.items() if tag not in _NOT_KEPT}
    parts = {
        name: _values(directories, {t: e for t, e in entries.items() if e.size <= _MOST_PART})
        for name, entries in kept.items()
    }
    longest_last = sorted(
        (len(part[tag][2]), name, tag) for name, part in parts.items() for tag in part
    )
    while sum(map(_length, parts.values())) > _MOST_PART:
        _, name, tag = longest_last.pop()  # such as a maker's own notes
        del parts[name][tag]
    if not any(parts.values()):
        return b""
    head = struct.pack(directories.order + "2sHI", _MARKS[directories.order], 42, 8)
    return EXIF_MARK + head + _laid_out(directories.order, parts, len(head))


def add_exif(file: BinaryIO, exif: bytes) -> None:
    """Adds EXIF from ``kept_exif`` to a TIFF that is open for reading and writing.

    The picture's directory is rewritten at the end of the file, followed by the unchanged EXIF
    values.
    """
    picture, added = Directories(file), Directories(io.BytesIO(exif.removeprefix(EXIF_MARK)))
    order = picture.order
    entries, _ = added.read(added.first)
    parts = {0: _values(added, {tag: entry for tag, entry in entries.items() if tag in _KEPT})}
    for pointer in (_EXIF, _GPS):
        for offset in added.numbers(entries, pointer, 1):
            parts[pointer] = _values(added, added.read(offset)[0])
    if added.order != order:
        parts = {name: _swapped(part) for name, part in parts.items()}
    parts[0] |= _values(picture, picture.read(picture.first)[0])
    end = picture.length + picture.length % 2
    file.seek(end)
    file.write(_laid_out(order, parts, end))
    file.seek(4)
    file.write(struct.pack(order + "I", end))


_Values = dict[int, tuple[int, int, bytes]]


def _values(directories: Directories, entries: Mapping[int, Entry]) -> _Values:
    """Type, count and bytes of each value with a type that any TIFF can have."""
    return {
        tag: (entry.kind, entry.count, directories.content(entry))
        for tag, entry in entries.items()
        if entry.kind in _SIZES and entry.size
    }


def _swapped(part: _Values) -> _Values:
    """The values in the other byte order."""
    return {
        tag: (kind, count, np.frombuffer(value, f"u{_UNITS[kind]}").byteswap().tobytes())
        for tag, (kind, count, value) in part.items()
    }


def _laid_out(order: str, parts: Mapping[int, _Values], place: int) -> bytes:
    """A main directory, part 0, at a position, followed by the directories that it points to."""
    main = dict(parts[0])
    inner = {tag: part for tag, part in parts.items() if tag and part}
    for tag in inner:
        main[tag] = (4, 1, bytes(4))
    behind = place + _length(main)
    for tag, part in inner.items():
        main[tag] = (4, 1, struct.pack(order + "I", behind))
        behind += _length(part)
    out = b""
    for part in (main, *inner.values()):
        out += _directory(order, part, place + len(out))
    return out


def _length(part: _Values) -> int:
    outside = sum(len(value) + len(value) % 2 for _, _, value in part.values() if len(value) > 4)
    return 6 + 12 * len(part) + outside


def _directory(order: str, part: _Values, place: int) -> bytes:
    entries, outside = b"", b""
    beyond = place + 6 + 12 * len(part)
    for tag, (kind, count, value) in sorted(part.items()):
        inside = value.ljust(4, b"\0")
        if len(value) > 4:
            inside = struct.pack(order + "I", beyond + len(outside))
            outside += value + b"\0" * (len(value) % 2)
        entries += struct.pack(order + "HHI", tag, kind, count) + inside
    return struct.pack(order + "H", len(part)) + entries + bytes(4) + outside
