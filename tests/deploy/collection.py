"""Image files of many kinds, made from arrays, with the pixels that must be read from them.

Independent of how the package reads: PNG and TIFF are put together here from the formats' own
rules, what Pillow or tifffile write is compared with the array that they were given.
"""

import io
import itertools
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile
from PIL import Image, ImageCms

H, W = 13, 21
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@dataclass(frozen=True)
class Case:
    """A file, and what is in it.

    Attributes:
        name: of the file.
        data: its bytes.
        pixels: what must be read, ``[H, W, C]``; None where it must be refused.
        alpha: its opacity, where it has one.
        within: how far a pixel may be off, in 0..255, on average.
        says: words of a note, or of the refusal.
    """

    name: str
    data: bytes
    pixels: np.ndarray | None = None
    alpha: np.ndarray | None = None
    within: float = 0.0
    says: str = ""


def smooth(channels: int, high: int = 255) -> np.ndarray:
    """``[H, W, channels]`` in 0..high that no two channels, rows or columns have in common."""
    y, x = np.mgrid[:H, :W] / max(H, W)
    planes = [np.clip((x * (i + 1) + y * (4 - i)) / 5 + 0.05 * i, 0, 1) for i in range(channels)]
    return np.round(np.stack(planes, -1) * high).astype(np.uint8 if high < 256 else np.uint16)


def collection() -> list[Case]:
    """All cases."""
    return [*_png(), *_png_beside(), *_jpeg(), *_tiff(), *_tiff_refused(), *_others()]


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """Rows of samples of a few bits each as rows of bytes, ``[H, bytes]``."""
    rows = values.reshape(len(values), -1, 1).astype(">u2").view(np.uint8)
    return np.packbits(np.unpackbits(rows, axis=-1)[..., -bits:].reshape(len(values), -1), axis=-1)


# PNG


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


def _png() -> Iterator[Case]:
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


def _png_beside() -> Iterator[Case]:
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


# JPEG


def _jpeg() -> Iterator[Case]:
    grey, rgb = smooth(1), smooth(3)
    ways: dict[str, dict[str, Any]] = {
        "baseline": {},
        "progressive": {"progressive": True},
        "subsampled": {"subsampling": 2},
        "restarts": {"restart_marker_blocks": 1},
        "optimised": {"optimize": True},
    }
    for name, options in ways.items():
        for kind, values in (("grey", grey), ("rgb", rgb)):
            data = _saved(values, "JPEG", quality=95, **options)
            yield Case(f"{name}_{kind}.jpg", data, values, within=4)
    kept = _saved(rgb, "JPEG", quality=95, keep_rgb=True)
    yield Case("no_ycc.jpg", kept, rgb, within=4)
    cmyk = Image.fromarray(rgb).convert("CMYK")
    data = _saved(cmyk, "JPEG", quality=98)
    yield Case("cmyk.jpg", data, np.asarray(cmyk.convert("RGB")), within=5, says="CMYK")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned = _turned(rgb, orientation)
        yield Case(f"orientation{orientation}.jpg", _saved(rgb, "JPEG", quality=95, exif=exif),
                   turned, within=4)  # fmt: skip
    whole = _saved(rgb, "JPEG", quality=95)
    turned = b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHIiI", 0x0112, 9, 1, 6, 0)  # a long
    signed = whole[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(turned)) + turned + whole[2:]
    yield Case("orientation_signed.jpg", signed, _turned(rgb, 6), within=4)
    frame = whole.index(b"\xff\xc0")
    for name, junk in (("between", b"junk"), ("stuffed", b"\xff\0\0")):
        data = whole[:frame] + junk + whole[frame:]
        yield Case(f"{name}_segments.jpg", data, rgb, within=4)
    yield Case("broken_exif.jpg", whole[:2] + b"\xff\xe1\0\x10Exif\0\0II*\0\xff\xff\xff\x7f"
               + whole[2:], rgb, within=4, says="EXIF cannot be read")  # fmt: skip
    yield Case("twelve_bits.jpg", whole[: frame + 4] + b"\x0c" + whole[frame + 5 :], says="12 bits")
    yield Case("huge.jpg", _sized(whole, frame, 65_500, 65_500), says="--max-megapixels")
    yield Case("large_claim.jpg", _sized(whole, frame, 980, 980), says="claims more")
    progressive = _saved(rgb, "JPEG", quality=95, progressive=True)
    scan = progressive.rindex(b"\xff\xda")
    scans = progressive[:-2] + progressive[scan:-2] * 300 + b"\xff\xd9"
    yield Case("many_scans.jpg", scans, says="scans")
    comments = b"\xff\xfe\0\2" * 100_000
    yield Case("comments.jpg", whole[:2] + comments + whole[2:], says="segments")
    yield Case("padding.jpg", whole[:2] + b"\xff" * 100_000 + whole[2:], says="truncated")
    many = struct.pack("<H", 5000) + struct.pack("<HHII", 0x9999, 1, 65_000, 8) * 5000
    exif = b"Exif\0\0II*\0\x08\0\0\0" + many
    overlapping = b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif
    yield Case("overlapping.jpg", whole[:2] + overlapping + whole[2:], rgb, within=4,
               says="EXIF cannot be read")  # fmt: skip
    yield Case("cut.jpg", whole[: len(whole) * 2 // 3], says="")
    yield Case("header_only.jpg", whole[:frame], says="")


def _sized(data: bytes, frame: int, height: int, width: int) -> bytes:
    return data[: frame + 5] + struct.pack(">HH", height, width) + data[frame + 9 :]


def _turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """How an image is shown whose EXIF has this orientation (EXIF 2.3, tag 274)."""
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
        8: lambda x: np.rot90(x),
    }
    return turns[orientation](image)


# TIFF


def tiff(
    values: np.ndarray | bytes,
    bits: int,
    photometric: int,
    order: str = "<",
    **tags: Any,
) -> bytes:
    """A TIFF of samples ``[H, W, C]`` in one strip, with tags by number such as ``t262=[1]``."""
    channels = values.shape[-1] if isinstance(values, np.ndarray) else 1
    if isinstance(values, bytes):
        strip = values
    elif bits == 16:
        strip = values.astype(f"{order}u2").tobytes()
    else:
        strip = packed(values, bits).tobytes()
    entries: dict[int, list[int]] = {
        256: [W], 257: [H], 258: [bits] * channels, 259: [1], 262: [photometric],
        273: [8], 277: [channels], 278: [H], 279: [len(strip)],
    }  # fmt: skip
    entries |= {int(name[1:]): value for name, value in tags.items()}
    entries = {tag: value for tag, value in entries.items() if value}
    return _directory_after(strip, entries, order)


def _directory_after(strip: bytes, entries: dict[int, list[int]], order: str) -> bytes:
    place = 8 + len(strip) + len(strip) % 2
    beyond = place + 6 + 12 * len(entries)
    rows, outside = b"", b""
    for tag, value in sorted(entries.items()):
        kind, letter = (
            (4, "I") if tag in (273, 279, 324, 325, 330) or max(value) > 65_535 else (3, "H")
        )
        content = struct.pack(f"{order}{len(value)}{letter}", *value)
        inside = content.ljust(4, b"\0")
        if len(content) > 4:
            inside = struct.pack(f"{order}I", beyond + len(outside))
            outside += content + b"\0" * (len(content) % 2)
        rows += struct.pack(f"{order}HHI", tag, kind, len(value)) + inside
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, place)
    body = strip + b"\0" * (len(strip) % 2)
    return head + body + struct.pack(f"{order}H", len(entries)) + rows + bytes(4) + outside


def _tiff() -> Iterator[Case]:
    for order in "<>":
        end = "ii" if order == "<" else "mm"
        for bits in (1, 2, 4, 8):
            high = 2**bits - 1
            grey = smooth(1, high)
            large = (grey * (255 // high)).astype(np.uint8)
            yield Case(f"black_{bits}_{end}.tif", tiff(grey, bits, 1, order), large)
            yield Case(f"white_{bits}_{end}.tif", tiff(grey, bits, 0, order), 255 - large)
            for top, factor in ((65_535, 256), (255, 1)):
                colours = [[(i * k % 256) * factor for i in range(high + 1)] for k in (7, 5, 3)]
                rgb = np.array(colours).T[grey[..., 0]] // factor
                name = f"palette_{bits}_{end}_{top}.tif"
                data = tiff(grey, bits, 3, order, t320=list(itertools.chain(*colours)))
                yield Case(name, data, rgb.astype(np.uint8))
        deep = smooth(1, 65_535)
        yield Case(f"black_16_{end}.tif", tiff(deep, 16, 1, order), deep)
        if order == "<":
            yield Case("white_16.tif", tiff(deep, 16, 0), 65_535 - deep)
            twelve = smooth(1, 4095)
            yield Case("black_12.tif", tiff(twelve, 12, 1), twelve * 16 + twelve // 256)
        rgb16, rgba16 = smooth(3, 65_535), smooth(4, 65_535)
        for planes in ("contig", "separate"):
            for values, extra in ((smooth(3), None), (smooth(4), "unassalpha"), (rgb16, None),
                                  (rgba16, "unassalpha")):  # fmt: skip
                for tile in (None, (16, 16)):
                    for compression in (None, "adobe_deflate"):
                        yield _by_tifffile(values, order, planes, extra, tile, compression)
    rgb = smooth(3)
    for compression in ("raw", "tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg"):
        data = _saved(rgb, "TIFF", compression=compression)
        within = 4 if compression == "jpeg" else 0
        yield Case(f"{compression}.tif", data, rgb, within=within)
    bits = (smooth(1) > 100) * np.uint8(255)
    for compression in ("group3", "group4", "tiff_ccitt"):
        bilevel = Image.fromarray(bits[..., 0]).convert("1")
        yield Case(f"{compression}.tif", _saved(bilevel, "TIFF", compression=compression), bits)
    grey_alpha = smooth(2)
    yield Case("grey_alpha.tif", tiff(grey_alpha, 8, 1, t338=[2]), grey_alpha[..., :1],
               grey_alpha[..., 1])  # fmt: skip
    ycc = Image.fromarray(rgb).convert("YCbCr")
    yield Case("ycc.tif", tiff(np.asarray(ycc), 8, 6, t530=[1, 1]), rgb, within=3)
    cmyk = np.asarray(Image.fromarray(rgb).convert("CMYK"))
    yield Case("cmyk.tif", tiff(cmyk, 8, 5), rgb, within=1, says="CMYK")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, rgb, photometric="rgb", bigtiff=True)
    yield Case("big.tif", buffer.getvalue(), rgb)
    pages = io.BytesIO()
    Image.fromarray(rgb).save(pages, "TIFF", save_all=True, append_images=[Image.fromarray(rgb)])
    yield Case("pages.tif", pages.getvalue(), rgb, says="first frame")
    for orientation in range(1, 9):
        data = tiff(rgb, 8, 2, t274=[orientation])
        yield Case(f"orientation{orientation}.tif", data, _turned(rgb, orientation))
    yield from _tiff_deep()
    reversed_bits = np.packbits(np.unpackbits(rgb[..., None], axis=-1)[..., ::-1], axis=-1)
    yield Case("bits_from_below.tif", tiff(reversed_bits[..., 0], 8, 2, t266=[2]), rgb)


def _tiff_deep() -> Iterator[Case]:
    """Several channels of 16 bits, beside those by tifffile above."""
    values = smooth(2, 65_535)
    for order in "<>":
        data = tiff(values, 16, 1, order, t338=[2])
        name = f"grey_alpha_16_{'ii' if order == '<' else 'mm'}.tif"
        yield Case(name, data, values[..., :1], values[..., 1])
    yield Case("white_alpha_16.tif", tiff(values, 16, 0, t338=[2]), 65_535 - values[..., :1],
               values[..., 1])  # fmt: skip
    rgb, rgba = smooth(3, 65_535), smooth(4, 65_535)
    yield Case("rgbx_16.tif", tiff(rgba, 16, 2, t338=[0]), rgb)
    yield Case("rgb_and_one_16.tif", tiff(rgba, 16, 2), rgb, rgba[..., 3])
    yield Case("rgbxa_16.tif", tiff(np.concatenate([rgba, rgba[..., :1]], -1), 16, 2, t338=[0, 2]),
               rgb, rgba[..., 0])  # fmt: skip
    alpha = np.maximum(rgba[..., 3:], 1).astype(np.uint32)
    multiplied = (rgb.astype(np.uint32) * alpha // 65_535).astype(np.uint16)
    own = np.minimum(np.rint(multiplied / (alpha / 65_535)), 65_535).astype(np.uint16)
    data = tiff(np.concatenate([multiplied, alpha.astype(np.uint16)], -1), 16, 2, t338=[1])
    yield Case("multiplied_16.tif", data, own, alpha[..., 0].astype(np.uint16))
    for compression in ("lzw", "adobe_deflate", "zstd"):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, rgb, photometric="rgb", compression=compression, predictor=True,
                         rowsperstrip=5)  # fmt: skip
        yield Case(f"predicted_{compression}_16.tif", buffer.getvalue(), rgb)
    for end, options in (("ii", {"byteorder": "<"}), ("mm", {"byteorder": ">"})):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, rgb, photometric="rgb", bigtiff=True, **options)  # pyright: ignore
        yield Case(f"big_16_{end}.tif", buffer.getvalue(), rgb)
    for orientation in range(1, 9):
        data = tiff(rgb, 16, 2, t274=[orientation])
        yield Case(f"orientation{orientation}_16.tif", data, _turned(rgb, orientation))
    cmyk = np.asarray(Image.fromarray(smooth(3)).convert("CMYK")).astype(np.uint16) * 257
    yield Case("cmyk_16.tif", tiff(cmyk, 16, 5), smooth(3), within=1, says="are read as 8 bits")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, rgb, photometric="rgb", compression="lzw")
    half = bytearray(buffer.getvalue())
    half[len(half) // 2 :] = bytes(len(half) - len(half) // 2)
    yield Case("lzw_damaged_16.tif", bytes(half), says="its pixels are damaged")
    yield Case("cut_16.tif", tiff(rgb, 16, 2)[:-400], says="")
    yield Case("large_claim_16.tif", tiff(rgb, 16, 2, t256=[900], t257=[900], t278=[900]),
               says="claims more")  # fmt: skip
    yield Case("huge_16.tif", tiff(rgb, 16, 2, t256=[2**31], t257=[2**31]), says="")
    data = tiff(rgb, 16, 2, t273=[], t278=[], t279=[], t322=[40_000], t323=[40_000], t324=[8],
                t325=[100])  # fmt: skip
    yield Case("large_tiles_16.tif", data, says="larger than the picture")


def _by_tifffile(
    values: np.ndarray, order: str, planes: str, extra: str | None,
    tile: tuple[int, int] | None, compression: str | None,
) -> Case:  # fmt: skip
    buffer = io.BytesIO()
    given = values if planes == "contig" else np.ascontiguousarray(values.transpose(2, 0, 1))
    options: dict[str, Any] = {"byteorder": order} | ({"extrasamples": [extra]} if extra else {})
    tifffile.imwrite(
        buffer, given, photometric="rgb", planarconfig=planes, tile=tile, compression=compression,
        **options,
    )  # fmt: skip
    name = "_".join(
        (values.dtype.name, "rgba" if extra else "rgb", planes, "tiles" if tile else "strips",
         compression or "raw", "ii" if order == "<" else "mm")
    )  # fmt: skip
    alpha = values[..., 3] if extra else None
    return Case(f"{name}.tif", buffer.getvalue(), values[..., :3], alpha)


def _tiff_refused() -> Iterator[Case]:
    grey, rgb = smooth(1), smooth(3)
    unsupported = {
        "signed_8": tiff(grey, 8, 1, t339=[2]),
        "signed_16": tiff(smooth(1, 65_535), 16, 1, t339=[2]),
        "half": tiff(smooth(1, 65_535), 16, 1, t339=[3]),
        "rgb_12": tiff(smooth(3, 4095), 12, 2),
        "rgb_4": tiff(smooth(3, 15), 4, 2),
        "grey_6": tiff(smooth(1, 63), 6, 1),
        "grey_10": tiff(smooth(1, 1023), 10, 1),
        "mask": tiff(smooth(1, 1), 1, 4),
        "logl": tiff(smooth(1, 65_535), 16, 32844),
        "four_inks": tiff(smooth(4), 8, 5, t332=[2]),
        "two_greys_16": tiff(smooth(2, 65_535), 16, 1, t338=[0]),
        "rgb_and_six_16": tiff(smooth(9, 65_535), 16, 2, t338=[0] * 6),
        "two_bits": tiff(rgb, 8, 2, t258=[8, 8, 16]),
    }
    for name, data in unsupported.items():
        yield Case(f"{name}.tif", data, says="not supported")
    for name, values in (("float_rgb", (rgb / 255).astype(np.float32)),
                         ("int_rgb", rgb.astype(np.uint32)), ("double", rgb / 255)):  # fmt: skip
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, values, photometric="rgb", bigtiff=name == "double")
        yield Case(f"{name}.tif", buffer.getvalue(), says="not supported")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, rgb, photometric="rgb", bigtiff=True, byteorder=">")
    yield Case("big_endian_big.tif", buffer.getvalue(), says="BigTIFF in big-endian order")
    yield Case("lab.tif", tiff(rgb, 8, 8), says="cannot be restored")
    yield Case("grey_float.tif", tiff((grey / 255).astype("<f4").tobytes(), 32, 1, t339=[3]),
               says="not supported")  # fmt: skip
    yield Case("sensor.tif", tiff(grey, 8, 32803), says="raw file")
    yield Case("dng.tif", tiff(rgb, 8, 2, t50706=[1]), says="raw file")
    yield Case("canon.tif", b"II*\0\x10\0\0\0CR\2\0" + bytes(40), says="raw file")
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "TIFF", compression="tiff_lzw")
    half = bytearray(buffer.getvalue())
    half[len(half) // 2 :] = bytes(len(half) - len(half) // 2)
    half[-200:] = buffer.getvalue()[-200:]  # the directory
    yield Case("lzw_damaged.tif", bytes(half), says="its pixels are damaged")
    yield Case("strips_missing.tif", tiff(grey, 8, 1, t278=[4]), says="truncated")
    yield Case(
        "large_claim.tif", tiff(grey, 8, 1, t256=[900], t257=[900], t278=[900]), says="claims more"
    )
    yield Case("huge.tif", tiff(grey, 8, 1, t256=[2**31], t257=[2**31]), says="")
    yield Case("no_width.tif", tiff(grey, 8, 1, t256=[]), says="missing")
    yield Case("tiny_parts.tif", tiff(bytes(40_000), 8, 1, t256=[1], t257=[40_000], t278=[1],
               t273=[8] * 40_000, t279=[1] * 40_000), says="parts of few pixels")  # fmt: skip
    whole = tiff(grey, 8, 1)
    yield Case("no_entries.tif", whole[:4] + struct.pack("<I", 8) + bytes(200), says="damaged")
    yield Case("cut.tif", whole[: len(whole) - 60], says="")
    overlapping = {tag: [0] * 200 for tag in range(40_000, 41_000)}
    data = bytearray(_directory_after(bytes(2), overlapping, "<"))
    for i in range(1000):  # every value is the whole file
        struct.pack_into("<HII", data, 12 + 12 * i + 2, 1, len(data), 0)
    yield Case("overlapping.tif", bytes(data), says="larger than the file")


# The others


def _others() -> Iterator[Case]:
    rgb, rgba = smooth(3), smooth(4)
    indexed = Image.fromarray(rgb).quantize(32)
    plain = np.asarray(indexed.convert("RGB"))
    yield Case("still.gif", _saved(indexed, "GIF"), plain)
    yield Case("interlaced.gif", _saved(indexed, "GIF", interlace=1), plain)
    whole = _saved(indexed, "GIF")
    start = whole.rindex(b",\0\0\0\0")
    comments = b"\x21\xfe\1a\0" * 50_000
    yield Case("comments.gif", whole[:start] + comments + whole[start:], plain)
    blocks = b"\x21\xfe" + b"\1a" * 150_000 + b"\0"
    yield Case("blocks.gif", whole[:start] + blocks + whole[start:], says="too many blocks")
    yield Case("no_screen.gif", whole[:6] + bytes(4) + whole[10:], says="no pixels")
    claim = whole[:6] + struct.pack("<HH", 990, 990) + whole[10:]
    yield Case("large_claim.gif", claim, says="claims more")
    frames = [indexed, Image.fromarray(255 - rgb).quantize(32)]
    yield Case("animated.gif", _saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
               plain, says="first frame")  # fmt: skip
    still = _saved(indexed, "GIF")
    yield Case("huge.gif", still[:6] + b"\xff\xff\xff\xff" + still[10:], says="claims more")
    yield Case("cut.gif", still[: len(still) * 2 // 3], says="")
    opaque = rgba.copy()
    opaque[..., 3] = np.maximum(opaque[..., 3], 1)
    yield Case("alpha.webp", _saved(opaque, "WEBP", lossless=True, exact=True), opaque[..., :3],
               opaque[..., 3])  # fmt: skip
    yield Case("lossy.webp", _saved(rgb, "WEBP", quality=95), rgb, within=6)
    yield Case("animated.webp", _saved(Image.fromarray(rgb), "WEBP", lossless=True, save_all=True,
               append_images=[Image.fromarray(255 - rgb)]), rgb, says="first frame")  # fmt: skip
    webp = _saved(rgb, "WEBP", lossless=True)
    claim = webp[:21] + b"\xff\xff\xff\x0f" + webp[25:]  # 16384 pixels a side
    yield Case("large_claim.webp", claim, says="claims more")
    yield Case("cut.webp", webp[: len(webp) * 2 // 3], says="")
    bits = (smooth(1) > 100) * np.uint8(255)
    yield Case("one.bmp", _saved(Image.fromarray(bits[..., 0]).convert("1"), "BMP"), bits)
    yield Case("grey.bmp", _saved(smooth(1), "BMP"), smooth(1))
    yield Case("colour.bmp", _saved(rgb, "BMP"), rgb)
    bmp = _saved(rgb, "BMP")
    yield Case("cut.bmp", bmp[: len(bmp) * 2 // 3], says="")
    run_lengths = bytearray(bmp[:54])
    struct.pack_into("<iiHHI", run_lengths, 18, 900, 900, 1, 8, 1)
    yield Case("runs_claim.bmp", bytes(run_lengths) + bytes(1030), says="claims more")
    for name, data, says in (
        ("x.heic", b"\0\0\0\x18ftypheic" + bytes(20), "HEIC"),
        ("x.avif", b"\0\0\0\x18ftypavif" + bytes(20), "AVIF"),
        ("x.jxl", b"\xff\x0a" + bytes(20), "JPEG XL"),
        ("x.cr3", b"\0\0\0\x18ftypcrx " + bytes(20), "raw file"),
        ("text.ppm", b"P3\n1 1\n255\n1 2 3\n", "PPM"),
        ("text.png", b"hello", "no PNG"),
        ("empty.png", b"", "no PNG"),
        ("zeros.png", bytes(1000), "no PNG"),
    ):
        yield Case(name, data, says=says)


def _saved(image: np.ndarray | Image.Image, form: str, **options: Any) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()
