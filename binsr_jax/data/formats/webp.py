"""Looks at the head of a WebP file before its pixels are decoded."""

_ALWAYS = 2**24  # up to this number of pixels, a file may have any number of bytes
_MOST_PIXELS = 4096  # beyond it, at most so many pixels per byte: those of an empty picture


def require_pixels(head: bytes, length: int) -> None:
    """Checks what a WebP file claims.

    A picture of one colour takes less than a bit for any number of pixels, so that a file of 50
    bytes could take a gigabyte of memory.

    Args:
        head: The first 30 bytes of the file, or more; they hold the size.
        length: The size of the file, in bytes.

    Raises:
        ValueError: It claims more pixels than it holds.
    """
    match head[12:16]:
        case b"VP8X":  # one less than the size, in 24 bits
            sides = [1 + int.from_bytes(head[i : i + 3], "little") for i in (24, 27)]
        case b"VP8L":  # one less than the size, in 14 bits
            bits = int.from_bytes(head[21:25], "little")
            sides = [1 + (bits >> shift) % 2**14 for shift in (0, 14)]
        case b"VP8 ":  # the size in 14 bits, and 2 bits beside it
            sides = [int.from_bytes(head[i : i + 2], "little") % 2**14 for i in (26, 28)]
        case _:
            return
    if sides[0] * sides[1] > _ALWAYS + _MOST_PIXELS * length:
        raise ValueError("it claims more pixels than it holds")
