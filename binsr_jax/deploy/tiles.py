"""Which pieces a large image is worked in.

A pixel of the output depends on the input within the network's receptive field only. So a piece
that is cut ``radius`` pixels beyond what is kept of it gives what the whole image gives; and one
that reaches the image's border ends there, so that the network pads it as it pads the whole image.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

# Where an image is cut, tiles are made a multiple of this wide and high, so that images of similar
# sizes share compiled programs.
_MULTIPLE = 32


@dataclass(frozen=True)
class Tile:
    """One piece: the network is given ``seen``, and what it makes of ``kept`` is used.

    Both are (rows, columns) of the input, in pixels of the whole image; ``kept`` lies in ``seen``.
    """

    seen: tuple[slice, slice]
    kept: tuple[slice, slice]


def plan(
    height: int, width: int, radius: int, *, side: int = 0, pixels: int = 0, stride: int = 1
) -> list[Tile]:
    """Covers an image with tiles that are all of one shape.

    They are spread evenly, each at least ``2 radius`` over the next: a tile is moved inward rather
    than cut short, since every other shape would have to be compiled.

    Args:
        height: of the image.
        width: of the image.
        radius: how far the network looks.
        side: the most that is kept of a tile, in height and width. With 0 the shape is chosen so
            that the fewest pixels are worked twice.
        pixels: the most that a tile has when its shape is chosen.
        stride: every tile starts at a multiple of it. The last ones of an image whose sides are no
            multiples of it are as much shorter.

    Returns:
        Tiles from the top left to the bottom right; each pixel of the image is kept by one.

    Raises:
        ValueError: there is no image, or ``pixels`` is less than ``least_pixels(radius)``.
    """
    if height < 1 or width < 1:
        raise ValueError(f"an image of {height}x{width} pixels cannot be cut into tiles")
    if stride > 1:
        tiles = plan(
            -(-height // stride),
            -(-width // stride),
            -(-radius // stride),
            side=-(-side // stride),
            pixels=max(pixels // stride**2, least_pixels(-(-radius // stride))),
        )
        return [_finer(tile, stride, height, width) for tile in tiles]
    sides = (side, side) if side else _best_sides(height, width, radius, pixels)
    rows, columns = (
        _spans(length, kept, radius) for length, kept in zip((height, width), sides, strict=True)
    )
    return [
        Tile((seen_rows, seen_columns), (kept_rows, kept_columns))
        for seen_rows, kept_rows in rows
        for seen_columns, kept_columns in columns
    ]


def _finer(tile: Tile, stride: int, height: int, width: int) -> Tile:
    """A tile of an image whose pixels are ``stride`` times smaller."""

    def finer(rows: slice, columns: slice) -> tuple[slice, slice]:
        return (
            slice(stride * rows.start, min(stride * rows.stop, height)),
            slice(stride * columns.start, min(stride * columns.stop, width)),
        )

    return Tile(finer(*tile.seen), finer(*tile.kept))


def least_pixels(radius: int) -> int:
    """The pixels of the smallest tile of which something is kept wherever it is cut."""
    return (2 * radius + 1) ** 2


def _counted(length: int, kept: int, radius: int) -> tuple[int, int]:
    """How many tiles of which at most ``kept`` is kept lie along a length, and how long each is."""
    count = max(1, math.ceil((length - 2 * radius) / kept))
    if count == 1:
        return 1, length
    even = math.ceil((length - 2 * radius) / count) + 2 * radius
    return count, min(math.ceil(even / _MULTIPLE) * _MULTIPLE, kept + 2 * radius, length)


def _spans(length: int, kept: int, radius: int) -> list[tuple[slice, slice]]:
    """The (seen, kept) parts of a length; each cut lies in the middle of an overlap."""
    count, size = _counted(length, kept, radius)
    starts = [i * (length - size) // max(count - 1, 1) for i in range(count)]
    cuts = [0, *((after + before + size) // 2 for before, after in pairwise(starts)), length]
    return [
        (slice(start, start + size), slice(*ends))
        for start, ends in zip(starts, pairwise(cuts), strict=True)
    ]


def _best_sides(height: int, width: int, radius: int, pixels: int) -> tuple[int, int]:
    """How much of a tile to keep in height and width, for the fewest pixels worked in all."""
    if height * width <= pixels:
        return height, width
    if pixels < least_pixels(radius):
        raise ValueError(f"a tile of {pixels} pixels keeps nothing at a radius of {radius}")
    best = (math.inf, math.inf), (1, 1)
    for count in range(1, height + 1):
        kept_rows = max(1, math.ceil((height - 2 * radius) / count))
        rows, tile_height = _counted(height, kept_rows, radius)
        kept_columns = pixels // tile_height - 2 * radius
        if kept_columns < 1:
            continue
        columns, tile_width = _counted(width, kept_columns, radius)
        cost = rows * tile_height * columns * tile_width, rows * columns
        best = min(best, (cost, (kept_rows, kept_columns)))
        if kept_rows == 1:
            break
    return best[1]
