import contextlib
import io
import os
import socket
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from binsr_jax.data import images
from binsr_jax.data.images import read_image, read_pixels, read_rgb
from binsr_jax.errors import UserError
from binsr_jax.image_files import list_images


def png(array, mode=None, **options):
    file = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(file, "PNG", **options)
    return file.getvalue()


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)


def test_rgb_is_unchanged(tmp_path, rgb):
    path = tmp_path / "a.png"
    path.write_bytes(png(rgb))
    np.testing.assert_array_equal(read_rgb(path), rgb)
    np.testing.assert_array_equal(read_rgb(io.BytesIO(png(rgb)), "a"), rgb)


def test_grey_goes_into_three_channels(rgb):
    grey = rgb[..., 0]
    image = read_rgb(io.BytesIO(png(grey)))
    np.testing.assert_array_equal(image, np.stack([grey] * 3, -1))


def test_grey_of_colours_in_full_range(rgb):
    data = png(rgb)
    grey = read_image(io.BytesIO(data), 1, full_range=True)[..., 0]
    np.testing.assert_allclose(grey, rgb @ [0.299, 0.587, 0.114], atol=0.51)
    luma = read_image(io.BytesIO(data), 1)[..., 0]
    np.testing.assert_allclose(luma, 16 + grey * (219 / 255), atol=1.01)
    own = read_image(io.BytesIO(png(rgb[..., 0])), 1, full_range=True)
    np.testing.assert_array_equal(own[..., 0], rgb[..., 0])


def test_one_pixel():
    image = read_rgb(io.BytesIO(png(np.full((1, 1), 9, np.uint8))))
    np.testing.assert_array_equal(image, np.full((1, 1, 3), 9))


def test_transparency_is_dropped(rgb):
    rgba = np.concatenate([rgb, np.zeros((7, 5, 1), np.uint8)], -1)
    np.testing.assert_array_equal(read_rgb(io.BytesIO(png(rgba))), rgb)


def test_palette_is_looked_up():
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    image = colours[np.random.default_rng(1).integers(0, 3, (6, 4))]
    data = png(image, "P")
    assert Image.open(io.BytesIO(data)).mode == "P"
    np.testing.assert_array_equal(read_rgb(io.BytesIO(data)), image)


def test_bilevel(rgb):
    bits = rgb[..., 0] > 127
    image = read_rgb(io.BytesIO(png(bits)))
    np.testing.assert_array_equal(image, np.repeat(bits[..., None] * np.uint8(255), 3, -1))


def test_16_bit_grey_keeps_its_high_byte():
    values = np.array([[0, 255, 256, 65535], [1000, 30000, 50000, 511]], np.uint16)
    image = read_rgb(io.BytesIO(png(values)))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.repeat((values // 256)[..., None], 3, -1))


def test_16_bit_colour_keeps_its_high_byte():
    values = np.random.default_rng(2).integers(0, 65536, (3, 4, 3), np.uint16)

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 3, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    np.testing.assert_array_equal(read_rgb(io.BytesIO(data)), values // 256)


@pytest.mark.parametrize("kept", [0, 10, 40, 0.5, 0.9])
def test_truncated_file_is_named(tmp_path, kept):
    data = png(np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8))
    path = tmp_path / "broken.png"
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(UserError, match=r"Cannot read the image .*broken\.png \(.+\); replace it"):
        read_rgb(path)


def test_damaged_bytes_are_named(tmp_path, rgb):
    """Damage either does no harm or ends in the one error; no decoder's own exception gets out."""
    data = png(np.tile(rgb, (8, 8, 1)))
    failures = 0
    for start in range(8, len(data) - 8, 7):
        path = tmp_path / "damaged.png"
        path.write_bytes(data[:start] + bytes(8) + data[start + 8 :])
        with contextlib.suppress(UserError):
            failures += 1
            assert read_rgb(path).shape[-1] == 3
            failures -= 1
    assert failures > 0


def test_image_too_large_to_be_trusted(tmp_path, rgb, monkeypatch):
    monkeypatch.setattr(images, "_MOST_PIXELS", 34)  # of 35
    path = tmp_path / "bomb.png"
    path.write_bytes(png(rgb))
    with pytest.raises(UserError, match=r"bomb\.png .*more than 3.4e-05 megapixels"):
        read_rgb(path)


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.png \(No such file or directory\)"):
        read_rgb(tmp_path / "none.png")
    with pytest.raises(UserError, match=r"Cannot read the folder .*none"):
        list_images(tmp_path / "none")


def test_images_are_listed_by_name(tmp_path):
    for name in ["b.png", "a.JPG", "c.txt", ".hidden.png", "d.tiff"]:
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.JPG", "b.png", "d.tiff"]
    assert list_images(tmp_path / "folder") == []


def test_float_pixels_are_refused(tmp_path):
    Image.fromarray(np.full((4, 5), 0.5, np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(UserError, match=r"float.tif .*floats"):
        read_rgb(tmp_path / "float.tif")


def test_grey_of_files_of_every_kind():
    """Grey files as they are, the luma of colour files."""
    grey = np.arange(0, 240, 5, dtype=np.uint8).reshape(6, 8)
    rgb = np.stack([grey, grey[::-1], grey[:, ::-1]], -1)

    def read(image):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return read_image(io.BytesIO(buffer.getvalue()), 1)

    plain = Image.fromarray(grey)
    for image in (plain, Image.merge("LA", [plain, plain])):
        np.testing.assert_array_equal(read(image)[..., 0], grey)
    deep = Image.fromarray(grey.astype(np.uint16) * 256 + 77)
    np.testing.assert_array_equal(read(deep)[..., 0], grey)
    bits = read(Image.fromarray(grey > 100))
    np.testing.assert_array_equal(bits[..., 0], np.where(grey > 100, 255, 0))
    expected = np.rint((rgb @ np.array([65.481, 128.553, 24.966])) / 255 + 16)
    for image in (Image.fromarray(rgb), Image.fromarray(rgb).convert("RGBA")):
        np.testing.assert_array_equal(read(image)[..., 0], expected)
    # Three equal channels are grey too, and not luma in 16 to 235.
    np.testing.assert_array_equal(read(plain.convert("RGB"))[..., 0], grey)


def test_what_is_grey_is_read_in_one_channel(tmp_path):
    """However it is stored: 1 bit, 8, 16, with transparency, a palette, or equal channels."""
    grey = np.arange(0, 240, 5, dtype=np.uint8).reshape(6, 8)
    plain = Image.fromarray(grey)
    palette = Image.fromarray(grey // 5)
    palette.putpalette([value for i in range(256) for value in [min(5 * i, 255)] * 3])
    deep = Image.fromarray(grey.astype(np.uint16) * 256 + 77)
    kinds = {
        "l.png": plain,
        "la.png": Image.merge("LA", [plain, plain]),
        "deep.png": deep,
        "deep.tif": deep,
        "palette.png": palette,
        "palette.gif": palette,
        "rgb.png": plain.convert("RGB"),
        "rgba.webp": plain.convert("RGBA"),
        "rgb.bmp": plain.convert("RGB"),
    }
    for name, image in kinds.items():
        image.save(tmp_path / name, lossless=True)
        np.testing.assert_array_equal(read_pixels(tmp_path / name), grey[..., None], name)
        np.testing.assert_array_equal(read_image(tmp_path / name, 1), grey[..., None], name)
        np.testing.assert_array_equal(read_rgb(tmp_path / name), grey[..., None].repeat(3, -1))
    Image.fromarray(grey > 100).save(tmp_path / "bits.png")
    bits = read_pixels(tmp_path / "bits.png")
    np.testing.assert_array_equal(bits[..., 0], np.where(grey > 100, 255, 0))
    (tmp_path / "deep_alpha.png").write_bytes(_deep_grey_with_alpha(grey))
    np.testing.assert_array_equal(read_pixels(tmp_path / "deep_alpha.png"), grey[..., None])
    # One pixel of another colour makes it a colour image.
    coloured = np.array(plain.convert("RGB"))
    coloured[2, 3, 2] += 1
    Image.fromarray(coloured).save(tmp_path / "coloured.png")
    np.testing.assert_array_equal(read_pixels(tmp_path / "coloured.png"), coloured)


def _deep_grey_with_alpha(grey):
    """A PNG of 16-bit grey with transparency, which Pillow cannot write."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = grey.shape
    values = np.stack([grey.astype(">u2") * 256 + 9, np.full(grey.shape, 40000, ">u2")], -1)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 4, 0, 0, 0)
    chunks = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_values_of_unknown_range_are_refused(tmp_path):
    """32-bit integers were shifted by 8 bits: a picture in 0..255 became black."""
    values = np.arange(48).reshape(6, 8)
    Image.fromarray(values.astype(np.int32)).save(tmp_path / "i32.tif")
    tifffile.imwrite(tmp_path / "i16.tif", values.astype(np.int16))
    for name in ("i32.tif", "i16.tif"):
        with pytest.raises(
            UserError, match=rf"{name} .*not supported \(grey of (32|16) bits of signed"
        ):
            read_pixels(tmp_path / name)


def test_16_bit_kinds_that_pillow_misreads_are_read_right(tmp_path):
    deep = np.arange(72, dtype=np.uint16).reshape(3, 4, 6) * 500
    tifffile.imwrite(tmp_path / "apart.tif", deep, photometric="rgb", planarconfig="separate")
    tifffile.imwrite(tmp_path / "white.tif", deep[0], photometric="miniswhite")
    apart = read_pixels(tmp_path / "apart.tif")
    np.testing.assert_array_equal(apart, deep.transpose(1, 2, 0) >> 8)
    white = read_pixels(tmp_path / "white.tif")
    np.testing.assert_array_equal(white[..., 0], (65_535 - deep[0]) >> 8)


def test_what_is_no_file_neither_blocks_nor_is_listed(tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").mkdir()
    (tmp_path / "d.png").symlink_to("/dev/zero")
    (tmp_path / "e.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "f.png").symlink_to(tmp_path / "f.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "g.png"))
        assert [file.name for file in list_images(tmp_path)] == ["a.png", "e.png", "f.png"]
    for name in "bcdefg":
        with pytest.raises(UserError, match=rf"Cannot read the image .*{name}\.png"):
            read_rgb(tmp_path / f"{name}.png")


def test_grey_16_bit_in_colour():
    deep = Image.fromarray(np.full((2, 3), 700, np.uint16))
    buffer = io.BytesIO()
    deep.save(buffer, "PNG")
    assert (read_image(io.BytesIO(buffer.getvalue()), 3) == 2).all()
