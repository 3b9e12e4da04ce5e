"""Colours and opacity of 16 bits go through files without the loss of a bit."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from cases import SRGB
from PIL import Image, ImageCms
from png_cases import chunk, png
from taps import TapsEngine, photo

import binsr_jax
from binsr_jax.commands import main
from binsr_jax.commands import pictures as command
from binsr_jax.deploy import upscaler as upscaler_module
from binsr_jax.deploy.upscaler import Upscaler

COLOUR = {2: 4, 3: 2, 4: 6}  # of a PNG, by the number of channels


class Unchanged(TapsEngine):
    """Gives back what it is given."""

    def __init__(self) -> None:
        super().__init__(scale=1)

    def run(self, image: np.ndarray, pooled: np.ndarray | None = None) -> np.ndarray:
        return image


@pytest.fixture
def restore(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs ``binsr restore`` with a network that changes nothing."""
    monkeypatch.setattr(command, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr(command, "load", lambda model, memory: Upscaler(Unchanged(), memory))
    return lambda *args: main(["restore", "-m", "model.binsr", *map(str, args)])


def write(file: Path, pixels: np.ndarray, **options) -> None:
    """Writes samples by hand or by tifffile."""
    channels = pixels.shape[-1]
    if file.suffix == ".png":
        file.write_bytes(png(pixels, 16, COLOUR[channels]))
        return
    tifffile.imwrite(
        file, pixels, photometric="rgb" if channels > 2 else "minisblack", planarconfig="contig",
        extrasamples=None if channels == 3 else ["unassalpha"], **options,
    )  # fmt: skip


def samples(file: Path) -> np.ndarray:
    """The samples of a file: of a PNG by the rules of its format, of a TIFF by libtiff."""
    data = file.read_bytes()
    if file.suffix != ".png":
        return imagecodecs.tiff_decode(data)
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    channels = {4: 2, 2: 3, 6: 4}[colour]
    assert bits == 16
    rows = zlib.decompress(b"".join(content for name, content in chunks(data) if name == b"IDAT"))
    above, result = [0] * (2 * channels * width), []
    for y in range(height):
        kind, *line = rows[y * (1 + len(above)) : (y + 1) * (1 + len(above))]
        for i in range(len(line)):
            left, corner = (
                (line[i - 2 * channels], above[i - 2 * channels]) if i >= 2 * channels else (0, 0)
            )
            up = above[i]
            nearest = min((left, up, corner), key=lambda value: abs(left + up - corner - value))
            guess = (0, left, up, (left + up) // 2, nearest)[kind]
            line[i] = (line[i] + guess) % 256
        above = line
        result.append(line)
    return np.array(result, np.uint8).view(">u2").astype(np.uint16).reshape(height, width, channels)


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Name and content of each chunk of a PNG."""
    found, place = [], 8
    while place < len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        content = data[place + 8 : place + 8 + length]
        assert data[place : place + 12 + length] == chunk(name, content)
        found.append((name, content))
        place += 12 + length
    return found


@pytest.mark.parametrize("written", ["png", "tif"])
@pytest.mark.parametrize("read", ["png", "tif"])
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_every_bit_comes_back(restore, tmp_path, capsys, channels, read, written) -> None:
    pixels = photo(9, 12, channels, np.uint16)
    if channels != 3:
        pixels[..., -1] = np.maximum(pixels[..., -1], 1)  # of what is clear, colours are not kept
        pixels[0, :4, -1] = [1, 255, 256, 65_535]
    write(tmp_path / f"a.{read}", pixels)
    assert restore(tmp_path / f"a.{read}", "-f", written) == 0
    np.testing.assert_array_equal(samples(tmp_path / f"a_restored.{written}"), pixels)
    assert "bits" not in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_the_upscaler_s_result_is_written(run, folder, ending) -> None:
    pixels = photo(20, 17, 4, np.uint16)
    pixels[3:9, 4:12, 3] = 0
    write(folder / f"a.{ending}", pixels)
    pre, post = "median=0.5,clahe=0.4", "unsharp=0.5,colour=1"
    assert run("-i", folder, "-t", 7) == 0
    named = folder / f"a.{ending}"
    assert run("-i", named, "--suffix", "s", "--pre", pre, "--post", post) == 0
    upscaler = Upscaler(TapsEngine())
    plain = upscaler.upscale(pixels)
    np.testing.assert_array_equal(samples(folder / f"a_x2.{ending}"), plain)
    with_steps = samples(folder / f"as.{ending}")
    np.testing.assert_array_equal(with_steps, upscaler.upscale(pixels, pre=pre, post=post))
    assert (with_steps[..., :3] != plain[..., :3]).any()
    # Between the levels of 8 bits there is something.
    assert len(np.unique(plain[..., :3] % 257)) > 200


def test_a_trained_network_sees_and_gives_16_bits(tmp_path) -> None:
    x, y = np.meshgrid(np.arange(24), np.arange(20))
    pixels = np.stack([9000 + 40 * x, 9000 + 31 * y, 12_000 + 17 * (x + y)], -1).astype(np.uint16)
    write(tmp_path / "a.png", pixels)
    assert main(["denoise", str(tmp_path / "a.png")]) == 0
    expected = binsr_jax.load("denoise").upscale(pixels)
    np.testing.assert_array_equal(samples(tmp_path / "a_denoised.png"), expected)


@pytest.mark.parametrize("ending", ["jpg", "webp"])
def test_other_formats_get_8_bits_and_it_is_said(restore, folder, capsys, ending) -> None:
    small = Image.fromarray(photo(4, 5)).resize((60, 40), Image.Resampling.BICUBIC)
    write(folder / "a.png", np.asarray(small).astype(np.uint16) * 256 + 100)
    clear = np.zeros((8, 8, 4), np.uint16)  # black, and wholly transparent
    write(folder / "clear.tif", clear)
    assert restore(folder, "-f", ending, "--quality", 100) == 0
    form = {"jpg": "JPEG", "webp": "WEBP"}[ending]
    assert capsys.readouterr().out.count(f"its 16 bits become 8, all that {form} holds") == 2
    with Image.open(folder / f"a_restored.{ending}") as image:
        assert np.abs(np.asarray(image).astype(int) - np.asarray(small)).mean() < 4
    with Image.open(folder / f"clear_restored.{ending}") as image:
        if ending == "jpg":
            assert np.asarray(image).min() > 250
        else:
            assert np.asarray(image)[..., 3].max() == 0


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a maker"
    exif[0x8769] = {0x9003: "2020:01:02 03:04:05"}
    return exif.tobytes()


@pytest.mark.parametrize("written", ["png", "tif"])
@pytest.mark.parametrize("read", ["png", "tif"])
def test_what_lies_beside_the_pixels_is_kept(restore, tmp_path, read, written) -> None:
    pixels, file = photo(5, 8, 3, np.uint16), tmp_path / f"a.{read}"
    if read == "png":
        beside = (
            chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(SRGB)),
            chunk(b"pHYs", struct.pack(">IIB", 11_811, 5906, 1)),
            chunk(b"eXIf", _exif().removeprefix(b"Exif\0\0")),
        )
        file.write_bytes(png(pixels, 16, 2, *beside))
    else:
        # A TIFF holds its EXIF itself; tifffile writes no directory into another.
        tags = [(0x0112, "H", 1, 6, True), (0x010F, "s", 0, "a maker", True)]
        write(file, pixels, iccprofile=SRGB, resolution=(300, 150), resolutionunit=2,
              extratags=tags)  # fmt: skip
    assert restore(file, "-f", written) == 0
    result = tmp_path / f"a_restored.{written}"
    np.testing.assert_array_equal(samples(result), np.rot90(pixels, -1))
    with Image.open(result) as image:
        assert image.info["icc_profile"] == SRGB
        assert image.info["dpi"] == pytest.approx((300, 150), abs=0.02)
        kept = image.getexif()
        assert kept.get(0x0112, 1) == 1
        assert kept[0x010F] == "a maker"
        if read == "png":
            assert kept.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_a_profile_of_other_pixels_is_left_out(restore, tmp_path, capsys, ending) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    file = tmp_path / f"a.{ending}"
    if ending == "png":
        file.write_bytes(
            png(photo(3, 4, 3, np.uint16), 16, 2, chunk(b"iCCP", b"a\0\0" + zlib.compress(lab)))
        )
    else:
        write(file, photo(3, 4, 3, np.uint16), iccprofile=lab)
    assert restore(file) == 0
    assert "profile does not belong" in capsys.readouterr().out
    with Image.open(tmp_path / f"a_restored.{ending}") as image:
        assert "icc_profile" not in image.info


def test_a_pillow_image_holds_8_of_them() -> None:
    pixels = photo(5, 4, 4, np.uint16)
    large = Upscaler(TapsEngine()).upscale(Image.open(io.BytesIO(png(pixels, 16, 6))))
    eight = np.rint(pixels / 257).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(large), Upscaler(TapsEngine()).upscale(eight))


def test_twice_the_memory_is_asked_for(run, folder, capsys, monkeypatch) -> None:
    monkeypatch.setattr(upscaler_module, "available_memory", lambda: 60 * 40 * 50 + 2**30)
    write(folder / "deep.png", photo(40, 50, 3, np.uint16))
    Image.fromarray(photo(40, 50)).save(folder / "eight.png")
    assert run("-i", folder, "--memory", 1) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "deep.png: Enlarging 50x40 pixels 2 times takes 1 GiB" in line
