"""Reads a JPEG file before its pixels are decoded: checks it, and drops unneeded parts."""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from binsr_jax.errors import UserError

_MOST_SEGMENTS = 5000  # a profile and EXIF take up to some hundreds
_MOST_HEADER = 2**22  # bytes before the pixels in which the tables are looked for
_MOST_SCANS = 200  # an encoder makes about ten, and each one processes the whole picture
_MOST_PIXELS = 1024  # most pixels per byte: 16 chroma blocks, reduced four times in each direction
_ARITHMETIC = range(0xC9, 0xD0)
_ALONE = {0x00, 0x01, *range(0xD0, 0xD8)}  # markers without a length
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_PROFILE, _JFIF, _ADOBE = b"ICC_PROFILE\0", b"JFIF\0", b"Adobe"


@dataclass
class Jpeg:
    """A JPEG for the decoder, and its metadata.

    Attributes:
        stream: The file with only what the pixels need.
        profile: The ICC profile, or None.
        exif: The EXIF, or None.
        xmp: The XMP; may be empty.
        dpi: Dots per inch, horizontally and vertically, or None.
    """

    stream: BinaryIO = field(default_factory=io.BytesIO)
    profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None


def read(file: BinaryIO, most_pixels: int) -> Jpeg:
    """Reads a JPEG file.

    Raises:
        ValueError: It is truncated before its pixels, or claims more than it holds.
        UserError: It is of an unsupported kind.
    """
    data = file.read()
    jpeg, parts, profile = Jpeg(), [data[:2]], {}
    frame, scan = None, len(data)
    for marker, place, content in _segments(data):
        if marker == 0xDA:
            scan = place
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = marker, content
        if marker == 0xE1 and content.startswith(_EXIF):
            # Only the first: EXIF that continues in another segment is too long to keep.
            jpeg.exif = jpeg.exif or content[len(_EXIF) :]
        elif marker == 0xE1 and content.startswith(_XMP):
            jpeg.xmp = jpeg.xmp or content[len(_XMP) :]
        elif marker == 0xE2 and content.startswith(_PROFILE) and len(content) > 14:
            profile.setdefault(content[12], content[14:])
        elif marker == 0xE0 and content.startswith(_JFIF) and len(content) >= 12:
            jpeg.dpi = _dpi(content)
        # Pillow needs JFIF and Adobe segments to know the colour space.
        keeps = (marker == 0xE0 and content.startswith(_JFIF)) or (
            marker == 0xEE and content.startswith(_ADOBE)
        )
        if keeps or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            parts.append(
                b"\xff" + bytes([marker]) + (len(content) + 2).to_bytes(2, "big") + content
            )
    if frame is None or len(frame[1]) < 6:
        raise ValueError("it is truncated")
    _check(*frame, data, scan, most_pixels)
    if profile:
        jpeg.profile = b"".join(profile[number] for number in sorted(profile))
    jpeg.stream = io.BytesIO(b"".join((*parts, memoryview(data)[scan:])))
    return jpeg


def luma_table(file: BinaryIO) -> tuple[int, ...]:
    """The first quantisation table of a JPEG file; empty for other files.

    Raises:
        ValueError: It has too many segments.
    """
    data, table = file.read(_MOST_HEADER), ()
    for marker, _, content in _segments(data) if data.startswith(b"\xff\xd8") else ():
        while marker == 0xDB and content:
            wide, number = divmod(content[0], 16)  # whether its values have 16 bits
            values = content[1 : 65 + 64 * min(wide, 1)]
            if number == 0:
                table = struct.unpack(">64H", values) if len(values) == 128 else tuple(values)
            content = content[1 + len(values) :]
    return table


def _segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Marker, position and content of each segment up to the first scan, which has no content."""
    place = 2
    for _ in range(_MOST_SEGMENTS):
        # Bytes between segments are passed over, as libjpeg does.
        place = start = data.find(b"\xff", place)
        if start < 0:
            return
        while data[place : place + 1] == b"\xff":  # any number of fill bytes may precede a marker
            place += 1
        if place - start > _MOST_SEGMENTS or place >= len(data):
            return
        marker = data[place]
        place += 1
        if marker == 0xDA:
            yield marker, place - 2, b""
            return
        if marker in _ALONE:
            continue
        if marker in (0xD8, 0xD9) or place + 2 > len(data):
            return
        length = int.from_bytes(data[place : place + 2], "big")
        yield marker, place - 2, data[place + 2 : place + length]
        place += max(2, length)
    raise ValueError(f"it has more than {_MOST_SEGMENTS} segments before its pixels")


def _check(marker: int, frame: bytes, data: bytes, scan: int, most_pixels: int) -> None:
    if frame[0] != 8:
        raise UserError(
            f"it is a JPEG of {frame[0]} bits a channel, a kind that is not supported: "
            "convert it to 8 bits"
        )
    if data.count(b"\xff\xda", scan) > _MOST_SCANS:
        raise ValueError(f"it has more than {_MOST_SCANS} scans, which may be an attack")
    pixels = int.from_bytes(frame[1:3], "big") * int.from_bytes(frame[3:5], "big")
    most = _MOST_PIXELS * (len(data) - scan) + 2**16
    if marker not in _ARITHMETIC and most < pixels <= most_pixels:
        raise ValueError("it claims more pixels than it holds")


def _dpi(jfif: bytes) -> tuple[float, float] | None:
    factor = {1: 1.0, 2: 2.54}.get(jfif[7])  # dots per inch, or per centimetre
    across, down = int.from_bytes(jfif[8:10], "big"), int.from_bytes(jfif[10:12], "big")
    return (factor * across, factor * down) if factor else None
