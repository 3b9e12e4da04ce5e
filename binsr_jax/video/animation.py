"""Restores animated GIF, WebP and PNG frame by frame; keeps times, loops and transparency."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import Image

from binsr_jax.deploy.listing import Job
from binsr_jax.deploy.picture_files import picture_size
from binsr_jax.errors import UserError
from binsr_jax.files import open_regular, replacing
from binsr_jax.memory import available_memory
from binsr_jax.video.progress import Progress

# The formats that are read and written, by the endings of their files.
FORMATS = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG", ".apng": "PNG"}
_HALF = 128  # in a GIF, pixels of this opacity or more are opaque
_COPIES = 2  # of each frame in memory, 4 bytes per pixel: Pillow holds all frames when it writes


@dataclass(frozen=True)
class _Animation:
    """The properties of an animation as a whole.

    Attributes:
        count: The number of frames.
        durations: The duration of each frame in milliseconds.
        plays: How often the animation is shown; 0 means for ever.
        clear: Whether some frame has transparent pixels.
        hidden: Whether the first frame of a PNG is only for programs that show no animations.
        profile: Its ICC profile, or None.
    """

    count: int
    durations: list[float]
    plays: int
    clear: bool
    hidden: bool
    profile: bytes | None


def is_animation(file: Path) -> bool:
    """Whether a file is a GIF, a WebP or a PNG, by its first bytes.

    Raises:
        UserError: It cannot be read.
    """
    try:
        with open_regular(file) as source:
            head = source.read(12)
    except OSError as error:
        raise UserError(f"Cannot read {file} ({error.strerror}).") from error
    return head[:4] in (b"GIF8", b"\x89PNG") or (head[:4], head[8:]) == (b"RIFF", b"WEBP")


def restore_animation(
    job: Job,
    restore: Callable[[np.ndarray], np.ndarray],
    scale: int,
    most_pixels: int,
    quality: int = 95,
) -> None:
    """Restores an animated picture.

    Args:
        job: The two files; the output's ending is a key of ``FORMATS``.
        restore: Restores a frame: uint8 ``[H, W, C]`` to ``[scale H, scale W, C]``; C is 3, or 4
            with transparency.
        scale: The upscaling factor.
        most_pixels: Larger pictures are refused.
        quality: The quality of WebP, 1 to 100.

    Raises:
        UserError: The input is broken or has one frame only, or the output cannot be written.
    """
    form = FORMATS.get(job.target.suffix.lower())
    if form is None:
        raise UserError(
            f"The output {job.target} of an animated picture ends in one of {', '.join(FORMATS)}."
        )
    width, height = picture_size(job.source, most_pixels)
    try:
        about = _read(job.source)
    except Exception as error:  # decoders raise many types on broken data
        raise UserError(f"Cannot read the image {job.source} ({error}).") from error
    if about.count == 1:
        raise UserError(f"{job.source} does not move: binsr upscale is for pictures.")
    needed = about.count * width * height * scale**2 * 4 * _COPIES
    available = available_memory()
    if available is not None and needed > available:
        raise UserError(
            f"{job.source}: its {about.count} frames would take {needed / 2**30:.2g} GiB of "
            f"memory, but only {available / 2**30:.2g} GiB are available; make a video of it."
        )
    with Progress(job.source.name, about.count) as progress:
        frames = list(_restored(job.source, about, restore, form, progress))
    try:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(job.target) as output:
            options = _options(about, form, quality)
            frames[0].save(cast(BinaryIO, output), form, append_images=frames[1:], **options)
    except MemoryError:
        raise
    except Exception as error:  # so do encoders at the limits of a format
        raise UserError(f"Cannot write {job.target} ({error}).") from error


def _read(file: Path) -> _Animation:
    """The properties of an animation; decodes every frame once."""
    durations, clear = [], False
    with open_regular(file) as source, Image.open(source, formats=("GIF", "WEBP", "PNG")) as image:
        count: int = getattr(image, "n_frames", 1)
        hidden = bool(image.info.get("default_image"))
        for number in range(count):
            image.seek(number)
            frame = image.convert("RGBA")
            if not (hidden and number == 0):
                durations.append(float(image.info.get("duration", 0)))
            clear = clear or bool(np.asarray(frame)[..., 3].min() < 255)
        return _Animation(
            count=count,
            durations=durations,
            plays=_plays(image.info.get("loop"), str(image.format)),
            clear=clear,
            hidden=hidden,
            profile=image.info.get("icc_profile"),
        )


def _frames(file: Path, about: _Animation) -> Iterator[Image.Image]:
    """The frames as a viewer shows them, composed with the frames before."""
    with open_regular(file) as source, Image.open(source, formats=("GIF", "WEBP", "PNG")) as image:
        for number in range(about.count):
            image.seek(number)
            yield image.convert("RGBA" if about.clear else "RGB")


def _restored(
    file: Path,
    about: _Animation,
    restore: Callable[[np.ndarray], np.ndarray],
    form: str,
    progress: Progress,
) -> Iterator[Image.Image]:
    """The frames of the output; a frame that equals the one before is not computed again."""
    before: np.ndarray | None = None
    result: Image.Image | None = None
    for frame in _frames(file, about):
        pixels = np.asarray(frame)
        if result is None or before is None or not np.array_equal(before, pixels):
            large = restore(pixels)
            if form == "GIF" and about.clear:
                large[..., 3] = np.where(large[..., 3] < _HALF, 0, 255)
            result = Image.fromarray(large)
        before = pixels
        progress.step()
        yield result


def _options(about: _Animation, form: str, quality: int) -> dict[str, Any]:
    """The options with which Pillow writes an animation."""
    options: dict[str, Any] = {"save_all": True, "duration": about.durations}
    loops = _loops(about.plays, form)
    if loops is not None:
        options["loop"] = loops
    if about.profile and form != "GIF":
        options["icc_profile"] = about.profile
    if form == "GIF":
        # Frames are complete: the previous frame must not show through transparent pixels.
        options["disposal"] = 2 if about.clear else 1
        options["optimize"] = False
        options["duration"] = [round(duration) for duration in about.durations]
    elif form == "WEBP":
        options |= {"quality": quality, "method": 4, "minimize_size": False}
        options["duration"] = [round(duration) for duration in about.durations]
        if about.clear:
            # Complete frames: libwebp would cut off transparent borders, and then write no alpha.
            options |= {"kmin": 1, "kmax": 1}
    elif about.hidden:
        options["default_image"] = True
    return options


def _plays(loop: int | None, form: str) -> int:
    """How often an animation is shown, from the number in its file; 0 means for ever."""
    if form == "GIF":  # which counts the repetitions
        return 1 if loop is None else 0 if loop == 0 else loop + 1
    return 0 if loop is None else loop


def _loops(plays: int, form: str) -> int | None:
    """The number that a format stores for so many plays; None stores nothing."""
    if form == "GIF":
        return None if plays == 1 else max(0, plays - 1)
    return plays
