"""Splits a large image into tiles.

An output pixel depends only on the input within the network's receptive field. So a tile with a
halo of ``radius`` pixels around its kept part gives the same result as the whole image. A tile at
the image's border ends there, so that the network pads it in the same way.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

# If an image is cut, tile sides are multiples of this, so that images of similar sizes share
# compiled programs.
_MULTIPLE = 32


@dataclass(frozen=True)
class Tile:
    """One tile: the network processes ``seen``, and its output for ``kept`` is used.

    Both are (rows, columns) of the input, in pixels of the whole image; ``kept`` lies in ``seen``.
    """

    seen: tuple[slice, slice]
    kept: tuple[slice, slice]


def plan(
    height: int, width: int, radius: int, *, side: int = 0, pixels: int = 0, stride: int = 1
) -> list[Tile]:
    """Covers an image with tiles of one shape.

    They are spread evenly, and neighbours overlap by at least ``2 radius``. A tile at the border is
    moved inward rather than shortened, since every other shape would have to be compiled.

    Args:
        height: Height of the image.
        width: Width of the image.
        radius: Radius of the network's receptive field.
        side: Largest height and width of the kept part. With 0 the shape is chosen so that the
            fewest pixels are computed twice.
        pixels: Most pixels of a tile, if the shape is chosen.
        stride: Every tile starts at a multiple of it. If it does not divide the image's sides, the
            last tiles are shorter by the rest.

    Returns:
        Tiles from the top left to the bottom right; each pixel of the image is kept by exactly one.

    Raises:
        ValueError: The image is empty, or ``pixels`` is less than ``least_pixels(radius)``.
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
    """The pixels of the smallest tile with a kept part, wherever it is cut."""
    return (2 * radius + 1) ** 2


def _counted(length: int, kept: int, radius: int) -> tuple[int, int]:
    """The number of tiles along a length, if each keeps at most ``kept``, and their length."""
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
    """Height and width of the kept part for which the fewest pixels are computed in total."""
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
