"""TIFF files, put together from the format's own rules or written by tifffile."""

import io
import itertools
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import tifffile
from cases import Case, H, W, packed, saved, smooth, turned
from PIL import Image


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


def tiff_cases() -> Iterator[Case]:
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
        data = saved(rgb, "TIFF", compression=compression)
        within = 4 if compression == "jpeg" else 0
        yield Case(f"{compression}.tif", data, rgb, within=within)
    bits = (smooth(1) > 100) * np.uint8(255)
    for compression in ("group3", "group4", "tiff_ccitt"):
        bilevel = Image.fromarray(bits[..., 0]).convert("1")
        yield Case(f"{compression}.tif", saved(bilevel, "TIFF", compression=compression), bits)
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
        yield Case(f"orientation{orientation}.tif", data, turned(rgb, orientation))
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
        yield Case(f"orientation{orientation}_16.tif", data, turned(rgb, orientation))
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


def tiff_cases_refused() -> Iterator[Case]:
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
