"""Files of all kinds, good, odd and damaged: read as what they are, or refused in a sentence."""

import dataclasses
import io
import os
import struct
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from cases import Case
from collection import collection
from PIL import Image
from taps import TapsEngine

from binsr_jax.data.images import read_image, read_pixels
from binsr_jax.deploy.picture_files import picture_of, picture_size, read_picture
from binsr_jax.deploy.pictures import Picture
from binsr_jax.deploy.upscaler import Upscaler
from binsr_jax.errors import UserError

MOST = 1_000_000
CASES = collection()


def require(case: Case, picture: Picture) -> None:
    assert case.pixels is not None, "it had to be refused"
    assert picture.pixels.dtype == case.pixels.dtype
    assert picture.pixels.shape == case.pixels.shape
    seen = np.full(case.pixels.shape[:2], True) if case.alpha is None else case.alpha > 0
    off = np.abs(picture.pixels.astype(float) - case.pixels)[seen]
    assert off.mean() <= case.within
    assert off.max() <= 20 * case.within
    assert (picture.alpha is None) == (case.alpha is None)
    if picture.alpha is not None and case.alpha is not None:
        assert picture.alpha.dtype == case.alpha.dtype
        assert np.abs(picture.alpha.astype(int) - case.alpha).max() <= case.within
    assert case.says in "; ".join(picture.notes)
    assert case.says or not picture.notes


def test_names_tell_cases_apart() -> None:
    assert len({case.name for case in CASES}) == len(CASES) > 150


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_file_is_read_right_or_refused(tmp_path: Path, case: Case) -> None:
    file = tmp_path / case.name
    file.write_bytes(case.data)
    started = time.monotonic()
    if case.pixels is None:
        with pytest.raises(UserError) as caught:
            read_picture(file, MOST)
        assert case.says in str(caught.value)
        assert str(file) in str(caught.value)
    else:
        height, width = case.pixels.shape[:2]
        require(case, read_picture(file, MOST))
        assert picture_size(file, MOST) == (width, height)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_benchmarks_and_training_read_the_same(case: Case) -> None:
    """They drop transparency, and keep the high byte of 16 bits."""
    if case.pixels is None:
        with pytest.raises(UserError, match=case.name):
            read_image(io.BytesIO(case.data), 3, case.name)
        return
    pixels = read_image(io.BytesIO(case.data), 3, case.name).astype(float)
    expected = case.pixels.astype(float)
    if case.pixels.dtype == np.uint16:
        expected //= 256
    assert pixels.shape == (*expected.shape[:2], 3)
    assert np.abs(pixels - expected).mean() <= case.within


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_image_of_pillow_is_taken_as_its_file(case: Case) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(case.data))
        except Exception:
            return  # Pillow's own refusal is what its user sees
    if case.pixels is None:
        if image.format in ("PNG", "TIFF"):
            with pytest.raises(UserError):
                picture_of(image)
        return
    picture = picture_of(image)
    height, width, channels = case.pixels.shape
    if case.pixels.dtype == np.uint16 and (channels > 1 or case.alpha is not None):
        eight = np.rint(case.pixels / 257).astype(np.uint8)
        alpha = None if case.alpha is None else np.rint(case.alpha / 257).astype(np.uint8)
        says = "become 8, all that a Pillow image holds"
        case = dataclasses.replace(case, pixels=eight, alpha=alpha, says=says)
        assert says in "; ".join(picture.notes)
    require(case, dataclasses.replace(picture, notes=(case.says,) if case.says else ()))
    large = Upscaler(TapsEngine()).upscale(image)
    assert np.asarray(large).shape[:2] == (2 * height, 2 * width)


def mutated(data: bytes, generator: np.random.Generator) -> bytes:
    """A file with a few bytes changed, cut off, moved, doubled, or with fields of extremes."""
    hurt = bytearray(data)
    for _ in range(generator.integers(1, 4)):
        place, length = (int(generator.integers(max(1, len(hurt)))) for _ in range(2))
        match generator.integers(7):
            case 0 | 1:
                hurt[place : place + 1] = bytes([generator.integers(256)])
            case 2:
                hurt[place : place + 4] = bytes([generator.choice([0, 1, 127, 255])]) * 4
            case 3:
                del hurt[place:]
            case 4:
                del hurt[place : place + length % 64]
            case 5:
                hurt[place:place] = hurt[length : length + 64]
            case 6:  # near the start, where headers are
                hurt[place % 64 : place % 64 + 1] = bytes([generator.integers(256)])
    return bytes(hurt)


def test_mutations_end_in_pixels_or_in_a_sentence(tmp_path: Path) -> None:
    number = int(os.environ.get("BINSR_MUTATIONS", "200"))
    generator = np.random.default_rng(2024)
    file, upscaler, read = tmp_path / "a", Upscaler(TapsEngine()), 0
    small = [case for case in CASES if len(case.data) < 100_000]
    for i in range(number):
        case = small[generator.integers(len(small))]
        file.write_bytes(mutated(case.data, generator))
        started = time.monotonic()
        try:
            picture = read_picture(file, 100_000)
            read += 1
            if picture.pixels.size < 10_000:
                work = upscaler.plan(*picture.pixels.shape[:2])
                assert list(upscaler.run(picture.pixels, work))
        except UserError:
            pass
        assert time.monotonic() - started < 5, f"mutation {i} of {case.name}"
    assert 0.1 * number < read < 0.9 * number  # both ways are tried


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_a_file_of_holes_is_refused_before_it_is_read(tmp_path: Path, form: str) -> None:
    file = tmp_path / "a"
    Image.new("RGB", (8, 8)).save(file, form)
    os.truncate(file, 2**34)
    for read in (lambda: read_picture(file, MOST), lambda: picture_size(file, MOST)):
        with pytest.raises(UserError, match=r"its file has 17\.2 GB"):
            read()
    with pytest.raises(UserError, match=r"its file has 17\.2 GB"):
        read_pixels(file)


def _with_entry(data: bytes, tag: int, kind: int, numbers: tuple[int, ...]) -> bytes:
    """A little-endian TIFF whose first directory has other numbers for a tag."""
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    changed = bytearray(data)
    for place in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, place) == (tag,):
            values = struct.pack(f"<{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
            held = values.ljust(4, b"\0") if len(values) <= 4 else struct.pack("<I", len(data))
            struct.pack_into("<HHI4s", changed, place, tag, kind, len(numbers), held)
            return bytes(changed) + values
    raise AssertionError(f"there is no tag {tag}")


@pytest.mark.parametrize(
    ("tag", "numbers", "sentence"),
    [
        (258, (8, 8, 8, 1), "not supported (RGB of 8, 8, 8, 1 bits)"),
        (258, (8, 8), "its directory is damaged"),
    ],
)
def test_a_damaged_directory_is_not_called_a_kind_that_is_supported(
    tmp_path: Path, tag: int, numbers: tuple[int, ...], sentence: str
) -> None:
    made = io.BytesIO()
    Image.new("RGB", (8, 8)).save(made, "TIFF")
    kind = 3 if max(numbers) < 2**16 else 4
    (tmp_path / "a.tif").write_bytes(_with_entry(made.getvalue(), tag, kind, numbers))
    with pytest.raises(UserError) as refusal:
        read_picture(tmp_path / "a.tif", 10**6)
    assert sentence in str(refusal.value)
