"""Image files of many kinds, made from arrays, with the pixels that must be read from them.

Independent of how the package reads: PNG and TIFF are put together here from the formats' own
rules, what Pillow or tifffile write is compared with the array that they were given.
"""

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from cases import Case, saved, smooth, turned
from PIL import Image
from png_cases import png_cases, png_cases_of_chunks
from tiff_cases import tiff_cases, tiff_cases_refused


def collection() -> list[Case]:
    """All cases."""
    return [
        *png_cases(),
        *png_cases_of_chunks(),
        *_jpeg(),
        *tiff_cases(),
        *tiff_cases_refused(),
        *_others(),
    ]


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
            data = saved(values, "JPEG", quality=95, **options)
            yield Case(f"{name}_{kind}.jpg", data, values, within=4)
    kept = saved(rgb, "JPEG", quality=95, keep_rgb=True)
    yield Case("no_ycc.jpg", kept, rgb, within=4)
    cmyk = Image.fromarray(rgb).convert("CMYK")
    data = saved(cmyk, "JPEG", quality=98)
    yield Case("cmyk.jpg", data, np.asarray(cmyk.convert("RGB")), within=5, says="CMYK")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        shown = turned(rgb, orientation)
        yield Case(f"orientation{orientation}.jpg", saved(rgb, "JPEG", quality=95, exif=exif),
                   shown, within=4)  # fmt: skip
    whole = saved(rgb, "JPEG", quality=95)
    entry = b"Exif\0\0II*\0\x08\0\0\0\1\0" + struct.pack("<HHIiI", 0x0112, 9, 1, 6, 0)  # a long
    signed = whole[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(entry)) + entry + whole[2:]
    yield Case("orientation_signed.jpg", signed, turned(rgb, 6), within=4)
    frame = whole.index(b"\xff\xc0")
    for name, junk in (("between", b"junk"), ("stuffed", b"\xff\0\0")):
        data = whole[:frame] + junk + whole[frame:]
        yield Case(f"{name}_segments.jpg", data, rgb, within=4)
    yield Case("broken_exif.jpg", whole[:2] + b"\xff\xe1\0\x10Exif\0\0II*\0\xff\xff\xff\x7f"
               + whole[2:], rgb, within=4, says="EXIF cannot be read")  # fmt: skip
    yield Case("twelve_bits.jpg", whole[: frame + 4] + b"\x0c" + whole[frame + 5 :], says="12 bits")
    yield Case("huge.jpg", _sized(whole, frame, 65_500, 65_500), says="--max-megapixels")
    yield Case("large_claim.jpg", _sized(whole, frame, 980, 980), says="claims more")
    progressive = saved(rgb, "JPEG", quality=95, progressive=True)
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


def _others() -> Iterator[Case]:
    rgb, rgba = smooth(3), smooth(4)
    indexed = Image.fromarray(rgb).quantize(32)
    plain = np.asarray(indexed.convert("RGB"))
    yield Case("still.gif", saved(indexed, "GIF"), plain)
    yield Case("interlaced.gif", saved(indexed, "GIF", interlace=1), plain)
    whole = saved(indexed, "GIF")
    start = whole.rindex(b",\0\0\0\0")
    comments = b"\x21\xfe\1a\0" * 50_000
    yield Case("comments.gif", whole[:start] + comments + whole[start:], plain)
    blocks = b"\x21\xfe" + b"\1a" * 150_000 + b"\0"
    yield Case("blocks.gif", whole[:start] + blocks + whole[start:], says="too many blocks")
    yield Case("no_screen.gif", whole[:6] + bytes(4) + whole[10:], says="no pixels")
    claim = whole[:6] + struct.pack("<HH", 990, 990) + whole[10:]
    yield Case("large_claim.gif", claim, says="claims more")
    frames = [indexed, Image.fromarray(255 - rgb).quantize(32)]
    yield Case("animated.gif", saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
               plain, says="first frame")  # fmt: skip
    still = saved(indexed, "GIF")
    yield Case("huge.gif", still[:6] + b"\xff\xff\xff\xff" + still[10:], says="claims more")
    yield Case("cut.gif", still[: len(still) * 2 // 3], says="")
    opaque = rgba.copy()
    opaque[..., 3] = np.maximum(opaque[..., 3], 1)
    yield Case("alpha.webp", saved(opaque, "WEBP", lossless=True, exact=True), opaque[..., :3],
               opaque[..., 3])  # fmt: skip
    yield Case("lossy.webp", saved(rgb, "WEBP", quality=95), rgb, within=6)
    yield Case("animated.webp", saved(Image.fromarray(rgb), "WEBP", lossless=True, save_all=True,
               append_images=[Image.fromarray(255 - rgb)]), rgb, says="first frame")  # fmt: skip
    webp = saved(rgb, "WEBP", lossless=True)
    claim = webp[:21] + b"\xff\xff\xff\x0f" + webp[25:]  # 16384 pixels a side
    yield Case("large_claim.webp", claim, says="claims more")
    yield Case("cut.webp", webp[: len(webp) * 2 // 3], says="")
    bits = (smooth(1) > 100) * np.uint8(255)
    yield Case("one.bmp", saved(Image.fromarray(bits[..., 0]).convert("1"), "BMP"), bits)
    yield Case("grey.bmp", saved(smooth(1), "BMP"), smooth(1))
    yield Case("colour.bmp", saved(rgb, "BMP"), rgb)
    bmp = saved(rgb, "BMP")
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
