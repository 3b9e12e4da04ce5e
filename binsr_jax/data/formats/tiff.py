"""Reads a TIFF file before its pixels are decoded: finds its kind, and how to read it.

Pillow misreads some kinds without an error. The directory of the first page distinguishes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from binsr_jax.data.formats.ifd import Directories, Entry
from binsr_jax.errors import UserError

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIPS, _SAMPLES, _ROWS, _PLANES = 273, 277, 278, 284
_STRIP_BYTES, _TILE_BYTES = 279, 325
_COLOURS, _TILE_WIDTH, _TILE_LENGTH, _TILES, _SUB, _INKS = 320, 322, 323, 324, 330, 332
_EXTRA, _FORMAT, _SUBFILE, _DNG = 338, 339, 254, 50706
_MULTIPLIED, _ALPHA = 1, 2  # kinds of extra channels
_MOST_EXTRA = 3
_RAW = {32803, 34892}  # raw sensor samples
_KINDS = {
    0: "grey", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "Lab",
    9: "Lab", 10: "Lab", 32844: "LogL", 32845: "LogLuv",
}  # fmt: skip
_CHANNELS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4}  # by photometric, without transparency and others
# Largest compression ratios: PackBits, LZW of 12-bit codes, deflate.
_RATIOS = {1: 1, 32773: 64, 5: 4096, 8: 1040, 32946: 1040}
_LARGE_TILE = 2**20  # pixels
_MOST_PARTS = 10_000  # most strips or tiles, unless they are large
RAW = (
    "it is a camera's raw file, from which only a thumbnail could be read: develop it with a raw "
    "converter first"
)


@dataclass(frozen=True)
class Channels:
    """Several channels of 16 bits, for which Pillow has no mode.

    Attributes:
        count: How many are stored.
        colours: 1 for grey, 3 for RGB; they come first.
        alpha: Which one is the opacity, or None.
        multiplied: Whether the colours are multiplied by it.
        planes: Whether each is stored on its own.
        inverted: Whether 0 is white.
    """

    count: int
    colours: int
    alpha: int | None = None
    multiplied: bool = False
    planes: bool = False
    inverted: bool = False


@dataclass(frozen=True)
class Layout:
    """The pixel layout of a TIFF, as far as Pillow needs hints or corrections.

    Attributes:
        kind: In words, such as "grey of 16 bits".
        size: Width and height, as stored.
        libtiff: Whether libtiff must decode it, since Pillow's own reader would misread 16-bit
            planes or YCbCr.
        inverted: Whether 0 is white although Pillow reads it as black.
        bits: Bits per sample.
        deep: The channels, if they are several of 16 bits.
        palette: RGB of an 8-bit palette that Pillow would read as 16-bit; or None.
        pages: Whether there are more pages.
        thumbnail: Whether the first page is a reduced picture of another one.
    """

    kind: str
    size: tuple[int, int]
    libtiff: bool = False
    inverted: bool = False
    bits: int = 8
    deep: Channels | None = None
    palette: bytes | None = None
    pages: bool = False
    thumbnail: bool = False


def layout(directories: Directories) -> Layout:
    """Examines the first page of a TIFF.

    Raises:
        ValueError: It is damaged, or claims more than it holds.
        UserError: It is of a kind that cannot be read correctly.
    """
    entries, after = directories.read(directories.first)

    def first(tag: int, default: int = 0) -> int:
        return next(iter(directories.numbers(entries, tag, 1)), default)

    if _DNG in entries or _is_raw(directories, entries, after):
        raise UserError(RAW)
    bits = directories.numbers(entries, _BITS) or (1,)
    samples, planes = first(_SAMPLES, len(bits)), first(_PLANES, 1)
    photometric, compression = first(_PHOTOMETRIC), first(_COMPRESSION, 1)
    formats = set(directories.numbers(entries, _FORMAT)) or {1}
    values = {1: "", 2: " of signed numbers", 3: " of floats"}.get(min(formats), " of numbers")
    alike = str(bits[0]) if len(set(bits)) == 1 else ", ".join(map(str, bits[:8]))
    kind = f"{_KINDS.get(photometric, f'photometric {photometric}')} of {alike} bits{values}"
    deep = None
    if bits[0] == 16 and photometric in (0, 1, 2) and samples > 1:
        deep = _channels(photometric, samples, directories.numbers(entries, _EXTRA), planes == 2)
    if bits[0] != 8 and not deep and samples > _CHANNELS.get(photometric, samples):
        kind += " with more channels"
    if (
        not formats <= {1, 4}
        or len(set(bits)) > 1
        or photometric not in _KINDS
        or (photometric == 5 and first(_INKS, 1) != 1)
        or (planes == 2 and samples == 2 and compression != 1 and not deep)
    ):
        raise UserError(unsupported(kind))
    width, height = first(_WIDTH), first(_LENGTH)
    _require_parts(directories, entries, width, height, samples if planes == 2 else 1)
    row = -(-width * bits[0] * (1 if planes == 2 else samples) // 8)
    if photometric == 6:  # YCbCr with reduced chroma
        row = width
    _require_bytes(directories, entries, compression, row * height)
    return Layout(
        kind,
        (width, height),
        libtiff=compression == 1 and ((planes == 2 and bits[0] == 16) or photometric == 6),
        inverted=photometric == 0 and bits[0] == 16,
        bits=bits[0],
        deep=deep,
        palette=_palette(directories, entries) if photometric == 3 else None,
        pages=after != 0,
        thumbnail=bool(first(_SUBFILE) & 1) and (after != 0 or _SUB in entries),
    )


def _channels(
    photometric: int, samples: int, extra: tuple[int, ...], planes: bool
) -> Channels | None:
    """The channels of RGB, or of grey with its opacity; None if they are others."""
    colours = _CHANNELS[photometric]
    if not colours <= samples <= colours + _MOST_EXTRA:
        return None
    if samples == colours + 1 and not extra:  # it is not said what the other one is
        extra = (_ALPHA,)
    extra = extra[: samples - colours]
    alpha = next((i for i, kind in enumerate(extra) if kind in (_MULTIPLIED, _ALPHA)), None)
    if alpha is None:
        return Channels(samples, colours, planes=planes) if colours == 3 else None
    return Channels(
        samples,
        colours,
        alpha=colours + alpha,
        multiplied=extra[alpha] == _MULTIPLIED,
        planes=planes,
        inverted=photometric == 0,
    )


def unsupported(kind: str) -> str:
    """The error for a kind of TIFF that cannot be read."""
    return (
        f"it is a TIFF of a kind that is not supported ({kind}): convert it to RGB or grey of 8 "
        "bits, or to grey of 16"
    )


def _is_raw(directories: Directories, entries: Mapping[int, Entry], after: int) -> bool:
    """Whether a page or its subpages hold raw sensor samples; at most a few are examined."""
    places = [*directories.numbers(entries, _SUB, 8), after]
    for page in range(len(places) + 3):
        if any(value in _RAW for value in directories.numbers(entries, _PHOTOMETRIC, 1)):
            return True
        if page >= len(places) or not places[page]:
            return False
        try:
            entries, after = directories.read(places[page])
        except ValueError:  # later pages are not needed
            entries, after = {}, 0
        if page == len(places) - 1 and page < 11:
            places.append(after)
    return False


def _require_parts(
    directories: Directories, entries: Mapping[int, Entry], width: int, height: int, planes: int
) -> None:
    """Raises ValueError if strips or tiles are missing, or too many for so few pixels."""
    tiled = _TILES in entries
    place = entries.get(_TILES if tiled else _STRIPS)
    if not width or not height or place is None:
        raise ValueError("its pixels are missing")
    if tiled:
        across, down = (
            next(iter(directories.numbers(entries, tag, 1)), 0)
            for tag in (_TILE_WIDTH, _TILE_LENGTH)
        )
        if not across or not down:
            raise ValueError("its tiles have no size")
        if across * down > max(4 * width * height, _LARGE_TILE):
            raise ValueError("its tiles are larger than the picture")
        count = -(-width // across) * -(-height // down)
    else:
        rows = next(iter(directories.numbers(entries, _ROWS, 1)), height) or height
        count = -(-height // min(rows, height))
    if place.count < planes * count:
        raise ValueError("it is truncated")
    if place.count > max(_MOST_PARTS, 2 * planes * count):
        raise ValueError("it has more parts than belong to it")
    if count > _MOST_PARTS and 64 * count > width * height:
        raise ValueError(f"it is cut into {count} parts of few pixels")


def _require_bytes(
    directories: Directories, entries: Mapping[int, Entry], compression: int, needed: int
) -> None:
    """Raises ValueError if the compressed pixels cannot hold ``needed`` bytes."""
    ratio = _RATIOS.get(compression)
    if ratio is None:
        return
    if needed > ratio * directories.length:
        raise ValueError("it claims more pixels than it holds")
    counts = directories.numbers(entries, _STRIP_BYTES, 2**20)
    counts = counts or directories.numbers(entries, _TILE_BYTES, 2**20)
    if counts and needed > ratio * sum(counts) and len(counts) < 2**20:
        raise ValueError("it claims more pixels than it holds")


def _palette(directories: Directories, entries: Mapping[int, Entry]) -> bytes | None:
    colours = directories.numbers(entries, _COLOURS, 3 * 256)
    if not colours or max(colours) > 255 or not any(colours):
        return None
    third = len(colours) // 3
    return bytes(
        value
        for rgb in zip(*(colours[i * third : (i + 1) * third] for i in range(3)), strict=True)
        for value in rgb
    )
