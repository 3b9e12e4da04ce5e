"""PNG files, put together from the format's own rules."""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from cases import SRGB, Case, packed, smooth


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG with its sum."""
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png(
    values: np.ndarray,
    bits: int,
    colour: int,
    *beside: bytes,
    interlaced: bool = False,
    size: tuple[int, int] | None = None,
    raw: bytes | None = None,
) -> bytes:
    """A PNG of samples ``[H, W, C]``, with chunks before its pixels."""
    height, width = size or values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(interlaced))
    parts = [values]
    if interlaced:
        grid = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2),
                (0, 2, 1, 2), (1, 2, 0, 1))  # fmt: skip
        parts = [values[r::dr, c::dc] for r, dr, c, dc in grid]
    rows = b"".join(
        b"\0" + row.tobytes() for part in parts if part.size for row in packed(part, bits)
    )
    pixels = zlib.compress(rows if raw is None else raw)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), *beside, chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    )


def png_cases() -> Iterator[Case]:
    """Every type of colour and number of bits, whole and interlaced, and one colour clear."""
    kinds = [(0, bits) for bits in (1, 2, 4, 8, 16)] + [(3, bits) for bits in (1, 2, 4, 8)]
    kinds += [(colour, bits) for colour in (2, 4, 6) for bits in (8, 16)]
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
    for colour, bits in kinds:
        high = 2**bits - 1
        values = smooth(channels[colour], high)
        palette = np.stack([np.arange(high + 1) * k % 256 for k in (7, 5, 3)], -1).astype(np.uint8)
        beside = [chunk(b"PLTE", palette.tobytes())] if colour == 3 else []
        if colour == 3:
            pixels = palette[values[..., 0]]
        else:
            pixels = values if bits == 16 else (values * (255 // high)).astype(np.uint8)
        alpha = pixels[..., -1] if colour in (4, 6) else None
        opaque = pixels[..., :-1] if colour in (4, 6) else pixels
        for interlaced in (False, True):
            name = f"colour{colour}_{bits}{'_interlaced' if interlaced else ''}.png"
            data = png(values, bits, colour, *beside, interlaced=interlaced)
            yield Case(name, data, opaque, alpha)
        if colour in (0, 2):
            key = values[5, 7]
            clear = chunk(b"tRNS", key.astype(">u2").tobytes())
            alpha = np.where((values == key).all(-1), 0, np.iinfo(pixels.dtype).max)
            yield Case(f"clear{colour}_{bits}.png", png(values, bits, colour, clear), pixels,
                       alpha.astype(pixels.dtype))  # fmt: skip
        if colour == 3:
            opacity = np.arange(high + 1)[::-1].astype(np.uint8) * (255 // high)
            clear = chunk(b"tRNS", opacity.tobytes())
            yield Case(f"clear3_{bits}.png", png(values, bits, 3, *beside, clear), pixels,
                       opacity[values[..., 0]])  # fmt: skip


def png_cases_of_chunks() -> Iterator[Case]:
    """What lies beside the pixels, good and bad, and pixels that are not there."""
    v = smooth(3)
    text = zlib.compress(b"<x>" + b"0123456789abcdef" * 200_000)
    bomb = zlib.compress(bytes(2**26))
    beside = {
        "gamma": chunk(b"gAMA", struct.pack(">I", 100_000)),
        "primaries": chunk(b"cHRM", struct.pack(">8I", *[30_000] * 8)),
        "profile": chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(SRGB)),
        "long_text": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + text),
        "long_comment": chunk(b"zTXt", b"Comment\0\0" + text),
        "many_texts": chunk(b"tEXt", b"Comment\0" + b"a" * 900_000) * 9,
        "text_bomb": chunk(b"zTXt", b"Comment\0\0" + bomb),
        "no_text": chunk(b"zTXt", b"Comment\0\0no deflate"),
        "wrong_sum": chunk(b"tEXt", b"Comment\0a")[:-1] + b"!",
        "unknown": chunk(b"abCd", bytes(300)),
        "dots": chunk(b"pHYs", struct.pack(">IIB", 11_811, 11_811, 1)),
        "many_profiles": chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(SRGB))
        + chunk(b"iCCP", b"a\0\0" + bomb) * 300,
        "broken_exif": chunk(b"eXIf", b"II*\0\xff\xff\xff\x7f"),
    }
    for name, extra in beside.items():
        says = "EXIF cannot be read" if "exif" in name else ""
        yield Case(f"{name}.png", png(v, 8, 2, extra), v, says=says)
    yield Case("profile_bomb.png", png(v, 8, 2, chunk(b"iCCP", b"a\0\0" + bomb)), v, says="profile")
    yield Case("no_profile.png", png(v, 8, 2, chunk(b"iCCP", b"a\0\0" + zlib.compress(b"x" * 200))),
               v, says="profile")  # fmt: skip
    whole = png(v, 8, 2)
    start = whole.index(b"IDAT") - 4
    content = whole[start + 8 : whole.index(b"IEND") - 8]
    head, end = whole[:start], chunk(b"IEND", b"")
    pieces = b"".join(chunk(b"IDAT", content[i : i + 3]) for i in range(0, len(content), 3))
    yield Case("many_pieces.png", head + pieces + end, v)
    empty = head + chunk(b"IDAT", b"") * 20_000 + pieces + end
    yield Case("empty_pieces.png", empty, says="chunks")
    yield Case("no_end.png", whole[:-12], v)
    yield Case("more_after.png", whole + b"more", v)
    yield Case("animated.png", png(v, 8, 2, chunk(b"acTL", struct.pack(">II", 3, 0))), v,
               says="first frame")  # fmt: skip
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 0xFF
    yield Case("damaged.png", head + chunk(b"IDAT", bytes(damaged)) + end, says="damaged")
    yield Case("wrong_pixels_sum.png", head + chunk(b"IDAT", content)[:-1] + b"!" + end,
               says="damaged")  # fmt: skip
    rows = zlib.decompress(content)
    yield Case("few_rows.png", png(v, 8, 2, raw=rows[: len(rows) // 2]), says="truncated")
    yield Case("no_rows.png", png(v, 8, 2, raw=b""), says="truncated")
    yield Case("more_rows.png", png(v, 8, 2, raw=rows + bytes(100)), v)
    yield Case("cut.png", whole[: start + 40], says="truncated")
    yield Case("no_pixels.png", head + end, says="truncated")
    yield Case("huge.png", png(v, 8, 2, size=(2**31 - 1, 2**31 - 1)), says="--max-megapixels")
    yield Case("large_claim.png", png(v, 8, 2, size=(900, 900)), says="truncated")
    yield Case("no_size.png", png(v, 8, 2, size=(0, 5)), says="damaged")
    deep = smooth(3, 65_535)
    bad_filters = b"".join(b"\x09" + row.astype(">u2").tobytes() for row in deep)
    yield Case("bad_filters_16.png", png(deep, 16, 2, raw=bad_filters), says="are damaged")
    yield Case("few_rows_16.png", png(deep, 16, 2, raw=bad_filters[:200]), says="truncated")
    yield Case("huge_16.png", png(deep, 16, 2, size=(2**31 - 1, 2**31 - 1)),
               says="--max-megapixels")  # fmt: skip
    yield Case("large_claim_16.png", png(deep, 16, 2, size=(900, 900)), says="truncated")
    yield Case("no_palette.png", png(smooth(1), 8, 3), says="palette")
    yield Case("three_bits.png", png(smooth(1), 3, 0), says="damaged")
