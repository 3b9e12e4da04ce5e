"""Reads a PNG file before its pixels are decoded: checks it, and drops unneeded parts.

A decoder that reads every chunk would refuse a picture because of unneeded text. It would also
accept a picture whose compressed data are damaged or truncated.
"""

import io
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from binsr_jax.data.formats.ifd import EXIF_MARK

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_ADAM7 = (
    (0, 8, 0, 8),
    (0, 8, 4, 8),
    (4, 8, 0, 4),
    (0, 4, 2, 4),
    (2, 4, 0, 2),
    (0, 2, 1, 2),
    (1, 2, 0, 1),
)  # first row and step, first column and step
_XMP, _RAW_EXIF = b"XML:com.adobe.xmp", b"Raw profile type exif"
_MOST_PROFILE = 2**23
_MOST_TEXT = 2**20
_PIECE = 2**16
_MOST_CHUNKS = 1000  # plus one per KiB of the file: encoders write chunks of 8 KiB
_INCH = 0.0254
_HEADER = len(SIGNATURE) + 25  # bytes until after the header's chunk


@dataclass
class Png:
    """A PNG file for the decoder, and its metadata.

    Attributes:
        stream: The file with only its header, palette, transparency and pixels.
        size: Width and height.
        bits: Bits per sample.
        colour: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha.
        key: The grey value or colour that is transparent, if there is one.
        profile: The ICC profile, or None.
        exif: The EXIF, or None.
        xmp: The XMP; may be empty.
        dpi: Dots per inch, horizontally and vertically, or None.
        animated: Whether there are more frames.
        notes: The parts that were left out.
    """

    stream: io.BytesIO = field(default_factory=io.BytesIO)
    size: tuple[int, int] = (0, 0)
    bits: int = 8
    colour: int = 0
    key: tuple[int, ...] = ()
    profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes = b""
    dpi: tuple[float, float] | None = None
    animated: bool = False
    notes: list[str] = field(default_factory=list)


def read(file: BinaryIO, most_pixels: int, *, pixels: bool = True) -> Png:
    """Reads a PNG file; with ``pixels=False`` only up to its pixels, for its size.

    Raises:
        ValueError: It is damaged or truncated.
    """
    needed: list[tuple[bytes, memoryview]] = []
    png = Png()
    beside: set[bytes] = {b""}  # kinds of chunks that are not needed
    data: list[memoryview] = []
    header: tuple[int, ...] = ()
    for name, content, whole in _chunks(memoryview(file.read())):
        if name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT") and not whole:
            raise ValueError("its bytes are damaged")
        if not header:
            if name != b"IHDR" or len(content) != 13:
                raise ValueError("it has no header")
            header = struct.unpack(">IIBBBBB", content)
            needed.append((name, content))
        elif name == b"IDAT":
            if not pixels:
                break
            data.append(content)
        elif name in (b"PLTE", b"tRNS") and not data:
            needed.append((name, content))
        elif whole and (kind := _kind(name, content)) not in beside:
            beside.add(kind)  # only the first of each kind is read, since each takes time
            _note(png, kind, bytes(content[: 2**24]))
    if not header:
        raise ValueError("it is truncated")
    width, height, bits, colour, *_, interlaced = header
    if colour not in _CHANNELS or bits not in (1, 2, 4, 8, 16) or not width or not height:
        raise ValueError("its header is damaged")
    names = [name for name, _ in needed]
    if colour == 3 and b"PLTE" not in names:
        raise ValueError("it has no palette")
    if pixels and width * height <= most_pixels:
        _require_pixels(data, _bytes_of(width, height, bits * _CHANNELS[colour], bool(interlaced)))
    parts = [SIGNATURE, *(_chunk(*chunk) for chunk in needed)]
    parts += [*_merged(data), _chunk(b"IEND", b"")]
    if b"tRNS" in names and colour in (0, 2):
        content = needed[names.index(b"tRNS")][1]
        size = 2 * _CHANNELS[colour]
        if len(content) >= size:
            png.key = struct.unpack(f">{size // 2}H", content[:size])
    png.stream, png.size = io.BytesIO(b"".join(parts)), (width, height)
    png.bits, png.colour = bits, colour
    return png


def with_metadata(
    data: memoryview, profile: bytes | None, exif: bytes, dpi: tuple[float, float] | None
) -> Iterator[bytes | memoryview]:
    """The parts of a PNG file, with a profile, EXIF and dots per inch before its pixels."""
    yield data[:_HEADER]
    if profile is not None:
        yield _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile))
    if dpi is not None:
        across, down = (round(value / _INCH) for value in dpi)
        yield _chunk(b"pHYs", struct.pack(">IIB", across, down, 1))
    if exif:
        yield _chunk(b"eXIf", exif.removeprefix(EXIF_MARK))
    yield data[_HEADER:]


def _chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview, bool]]:
    """Name and content of each chunk, and whether its checksum is right."""
    place, most = len(SIGNATURE), _MOST_CHUNKS + len(data) // 1024
    for _ in range(most):
        if place + 12 > len(data):
            return
        length, name = struct.unpack_from(">I4s", data, place)
        end = place + 8 + length
        if end + 4 > len(data):
            # A truncated pixel chunk is yielded too; missing pixels are noticed by their number.
            yield name, data[place + 8 :], name == b"IDAT"
            return
        if name == b"IEND":
            return
        (check,) = struct.unpack_from(">I", data, end)
        yield name, data[place + 8 : end], zlib.crc32(data[place + 4 : end]) == check
        place = end + 4
    raise ValueError(f"it is cut into more than {most} chunks")


def _kind(name: bytes, content: memoryview) -> bytes:
    """The kind of a chunk besides the pixels: its name, the keyword of a text, or b""."""
    if name in (b"iCCP", b"eXIf", b"pHYs", b"acTL"):
        return name
    keyword = bytes(content[:80]).partition(b"\0")[0]
    wanted = {b"iTXt": (_XMP,), b"zTXt": (_RAW_EXIF,), b"tEXt": (_RAW_EXIF,)}
    return name + keyword if keyword in wanted.get(name, ()) else b""


def _note(png: Png, name: bytes, content: bytes) -> None:
    """Stores the metadata of a chunk that the decoder does not need."""
    if name == b"iCCP":
        profile = _inflated(content.partition(b"\0")[2][1:], _MOST_PROFILE)
        if profile is None:
            png.notes.append("its colour profile is damaged or too large and is left out")
        else:
            png.profile = profile
    elif name == b"eXIf":
        png.exif = content
    elif name == b"pHYs" and len(content) == 9:
        across, down, unit = struct.unpack(">IIB", content)
        if unit == 1 and across and down:
            png.dpi = (across * _INCH, down * _INCH)
    elif name == b"acTL":
        png.animated = len(content) == 8 and struct.unpack_from(">I", content)[0] > 1
    elif name == b"iTXt" + _XMP:
        packed, _, rest = content[18:20], *content[20:].partition(b"\0")[1:]
        text = rest.partition(b"\0")[2]
        plain = _inflated(text, _MOST_TEXT) if packed[:1] == b"\1" else text[:_MOST_TEXT]
        png.xmp = plain or b""
    elif name in (b"zTXt" + _RAW_EXIF, b"tEXt" + _RAW_EXIF):
        text = (
            content[22:] if name.startswith(b"tEXt") else _inflated(content[23:], _MOST_TEXT) or b""
        )
        try:  # lines with a name and a length, then hexadecimal digits
            png.exif = png.exif or bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode())
        except ValueError:
            png.notes.append("its EXIF cannot be read and is left out")


def _require_pixels(data: Iterable[memoryview], needed: int) -> None:
    """Raises ValueError if the compressed data do not hold ``needed`` bytes, or are damaged."""
    inflate, count = zlib.decompressobj(), 0
    try:
        # In small pieces, since the rest of a piece is copied each time.
        for piece in (part[i : i + _PIECE] for part in data for i in range(0, len(part), _PIECE)):
            rest: bytes | memoryview = piece
            while rest and not inflate.eof and count < needed + _PIECE:
                count += len(inflate.decompress(rest, 16 * _PIECE))
                rest = inflate.unconsumed_tail
        if not inflate.eof and count < needed + _PIECE:
            count += len(inflate.flush())
    except zlib.error as error:
        raise ValueError("its compressed pixels are damaged") from error
    if count < needed:
        raise ValueError("it is truncated")


def _bytes_of(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Bytes of the pixels before compression; each row has one more, for its filter."""
    if not interlaced:
        return height * (1 + (width * bits + 7) // 8)
    total = 0
    for row, down, column, across in _ADAM7:
        rows, columns = -(-(height - row) // down), -(-(width - column) // across)
        if rows > 0 and columns > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def _inflated(data: bytes, most: int) -> bytes | None:
    inflate = zlib.decompressobj()
    try:
        content = inflate.decompress(data, most)
    except zlib.error:
        return None
    return content if inflate.eof else None


def _merged(data: Sequence[memoryview]) -> Iterator[bytes | memoryview]:
    """All pixel chunks merged into one."""
    yield struct.pack(">I4s", sum(map(len, data)), b"IDAT")
    check = zlib.crc32(b"IDAT")
    for piece in data:
        check = zlib.crc32(piece, check)
        yield piece
    yield struct.pack(">I", check)


def _chunk(name: bytes, content: bytes | memoryview) -> bytes:
    head = struct.pack(">I4s", len(content), name)
    return head + bytes(content) + struct.pack(">I", zlib.crc32(content, zlib.crc32(name)))
