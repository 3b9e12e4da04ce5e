"""JPEG files before their pixels are decoded: which kinds are read, and how much work they are."""

from typing import BinaryIO

from binsr_jax.errors import UserError

_MOST_SCANS = 200  # an encoder makes about ten, and each is work over the whole picture
_MOST_PIXELS = 1024  # of a byte: 16 blocks of chroma that is reduced four times each way
_ARITHMETIC = range(0xC9, 0xD0)
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length


def check(file: BinaryIO, most_pixels: int) -> None:
    """Looks at a JPEG's header, and at the number of its scans.

    Raises:
        ValueError: it is cut off before its pixels, or claims more than it holds.
        UserError: it is of a kind that is not supported.
    """
    data = file.read()
    place, frame = 2, None
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            place += 1
            continue
        marker = data[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        if marker in _ALONE or marker == 0:
            place += 2
            continue
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = marker, data[place + 4 : place + 2 + length]
        if marker in (0xDA, 0xD9):
            break
        place += 2 + max(2, length)
    if frame is None or len(frame[1]) < 6:
        raise ValueError("it is cut off")
    marker, content = frame
    if content[0] != 8:
        raise UserError(
            f"it is a JPEG of {content[0]} bits a channel, a kind that is not supported: "
            "convert it to 8 bits"
        )
    if data.count(b"\xff\xda", place) > _MOST_SCANS:
        raise ValueError(f"it has more than {_MOST_SCANS} scans, which may be an attack")
    pixels = int.from_bytes(content[1:3], "big") * int.from_bytes(content[3:5], "big")
    left = len(data) - place
    if marker not in _ARITHMETIC and pixels <= most_pixels and pixels > _MOST_PIXELS * left + 2**16:
        raise ValueError("it claims more pixels than it holds")
