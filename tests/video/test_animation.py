"""Animated GIF, WebP and PNG through a network: times, loops and transparency are kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binsr_jax.deploy.listing import Job
from binsr_jax.errors import UserError
from binsr_jax.video.animation import is_animation, restore_animation

DURATIONS = [50, 120, 70, 300]


def twice(image: np.ndarray) -> np.ndarray:
    return image.repeat(2, axis=0).repeat(2, axis=1)


def frames(clear: bool) -> list[Image.Image]:
    """Four frames of flat colours, in which a square moves; the third is as the second."""
    made = []
    for place in (0, 1, 1, 3):
        pixels = np.zeros((12, 16, 4), np.uint8)
        pixels[...] = (0, 0, 0, 0) if clear else (20, 60, 200, 255)
        pixels[2:7, 3 * place : 3 * place + 5] = (220, 40, 30, 255)
        made.append(Image.fromarray(pixels if clear else pixels[..., :3]))
    return made


def shown(file: Path) -> list[tuple[int, np.ndarray]]:
    """What is seen in each hundredth of a second, as RGBA, and for how many of them."""
    seen: list[tuple[int, np.ndarray]] = []
    with Image.open(file) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            pixels = np.asarray(image.convert("RGBA")).astype(int)
            pixels[pixels[..., 3] == 0] = 0
            duration = round(image.info["duration"] / 10)
            if seen and np.array_equal(seen[-1][1], pixels):
                duration, pixels = seen[-1][0] + duration, seen.pop()[1]
            seen.append((duration, pixels))
    return seen


@pytest.mark.parametrize("clear", [False, True])
@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_times_pixels_and_transparency_are_kept(ending, clear, tmp_path):
    source, target = tmp_path / f"in.{ending}", tmp_path / f"out.{ending}"
    first, *rest = frames(clear)
    options: dict[str, Any] = {"disposal": 2} if clear else {}
    if ending == "webp":
        options = {"lossless": True}
    first.save(source, save_all=True, append_images=rest, duration=DURATIONS, loop=3, **options)
    calls = []

    def counting(image: np.ndarray) -> np.ndarray:
        calls.append(image)
        return twice(image)

    restore_animation(Job(source, target), counting, 2, 10**6, 100)
    before, after = shown(source), shown(target)
    assert (
        [duration for duration, _ in after] == [duration for duration, _ in before] == [5, 19, 30]
    )
    for (_, small), (_, large) in zip(before, after, strict=True):
        np.testing.assert_array_equal(large[..., 3], twice(small)[..., 3])
        # WebP halves chroma, so that only the middles of areas are as they were.
        inside = (slice(8, 10), slice(None, None, 8)) if ending == "webp" else slice(None)
        np.testing.assert_allclose(large[inside], twice(small)[inside], atol=14)
    assert len(calls) == 3
    with Image.open(source) as a, Image.open(target) as b:
        assert a.info["loop"] == b.info["loop"] == 3


def test_a_gif_that_plays_once_does_so_as_webp_too(tmp_path):
    first, *rest = frames(False)
    first.save(tmp_path / "in.gif", save_all=True, append_images=rest, duration=DURATIONS)
    for name, loop in (("out.gif", None), ("out.webp", 1), ("out.png", 1)):
        restore_animation(Job(tmp_path / "in.gif", tmp_path / name), twice, 2, 10**6)
        with Image.open(tmp_path / name) as image:
            assert image.info.get("loop") == loop
    first.save(tmp_path / "n.gif", save_all=True, append_images=rest, duration=DURATIONS, loop=2)
    restore_animation(Job(tmp_path / "n.gif", tmp_path / "n.webp"), twice, 2, 10**6)
    with Image.open(tmp_path / "n.webp") as image:
        assert image.info["loop"] == 3  # twice again


def test_the_hidden_first_frame_of_a_png(tmp_path):
    hidden = Image.new("RGB", (16, 12), "white")
    hidden.save(
        tmp_path / "in.png",
        save_all=True,
        append_images=frames(False),
        duration=DURATIONS,
        default_image=True,
    )
    restore_animation(Job(tmp_path / "in.png", tmp_path / "out.png"), twice, 2, 10**6)
    with Image.open(tmp_path / "in.png") as a, Image.open(tmp_path / "out.png") as b:
        assert a.info["default_image"]
        assert b.info["default_image"]
        assert a.n_frames == b.n_frames  # pyright: ignore[reportAttributeAccessIssue]
        assert np.asarray(b.convert("RGB")).min() == 255
        for number in range(1, 4):
            a.seek(number)
            b.seek(number)
            assert a.info["duration"] == b.info["duration"]
            np.testing.assert_array_equal(
                np.asarray(b.convert("RGB")), twice(np.asarray(a.convert("RGB")))
            )


def test_what_cannot_be_done_is_one_sentence(tmp_path):
    still = tmp_path / "still.png"
    frames(False)[0].save(still)
    first, *rest = frames(False)
    moving = tmp_path / "in.gif"
    first.save(moving, save_all=True, append_images=rest, duration=50)
    broken = tmp_path / "broken.gif"
    broken.write_bytes(moving.read_bytes()[:60])
    assert is_animation(moving)
    assert is_animation(still)
    text = tmp_path / "text.txt"
    text.write_text("no picture")
    assert not is_animation(text)
    for source, target, words in (
        (still, "out.png", "does not move"),
        (moving, "out.mp4", r"ends in one of \.gif"),
        (broken, "out.gif", "Cannot read the image"),
        (moving, "no/\0.gif", "Cannot write"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            restore_animation(Job(source, tmp_path / target), twice, 2, 10**6)
        assert str(caught.value).count("\n") == 0
    with pytest.raises(UserError, match="megapixels"):
        restore_animation(Job(moving, tmp_path / "out.gif"), twice, 2, 100)
    with pytest.raises(UserError, match="No such file"):
        is_animation(tmp_path / "missing.gif")
