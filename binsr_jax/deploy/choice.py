"""Chooses the packaged network for a picture if the user names none."""

from collections.abc import Sequence
from pathlib import Path

from binsr_jax.data.formats.jpeg import luma_table
from binsr_jax.files import open_regular
from binsr_jax.pretrained import NETWORKS, Packaged, find

# Below this JPEG quality, the network for photographs is better than the one for clean pictures
# (docs/models/x2-photo.md).
PHOTO_BELOW = 95

# From these JPEG qualities on, a part of the change by the network for JPEG artifacts is better
# than all of it (docs/models/dejpeg.md).
GENTLE = {95: 0.5, 98: 0.25}

# The sum of libjpeg's luma table at quality 50.
_SUM_AT_50 = 3688


def jpeg_quality(file: Path) -> int | None:
    """The quality with which a JPEG file was written, from its luma table; None for other files.

    It is within 1 of the true quality from about 25 on. Below that it is too high, because entries
    of the table are clipped.
    """
    try:
        with open_regular(file) as source:
            total = sum(luma_table(source))
    except (OSError, ValueError):  # the decoder will report the error
        return None
    if not total:
        return None
    percent = 100 * total / _SUM_AT_50
    quality = 5000 / percent if percent > 100 else (200 - percent) / 2
    return max(1, min(100, round(quality)))


def by_default(files: Sequence[Path], scale: int) -> tuple[dict[str, list[Path]], str]:
    """The networks for enlarging these pictures, and a sentence about the choice.

    Returns:
        The pictures of each network, by its name, and the sentence, which is empty if all pictures
        are clean.

    Raises:
        UserError: No network in this version has this scale.
    """
    clean = find("upscale", scale, "clean")
    photo = _photo(scale)
    lossy = [file for file in files if (q := jpeg_quality(file)) is not None and q < PHOTO_BELOW]
    if not lossy:
        return {clean.name: list(files)}, ""
    about = f"JPEG files below quality {PHOTO_BELOW}: {len(lossy)} of {len(files)}"
    if photo is None or not photo.there:
        missing = "this version of binsr-jax has no network for photographs of this scale"
        return {clean.name: list(files)}, f"{about}, enlarged by {clean.name}, as {missing}."
    groups = {photo.name: lossy}
    rest = [file for file in files if file not in set(lossy)]
    if rest:
        groups[clean.name] = rest
    sentence = f"{about}, enlarged by {photo.name} (--model clean takes {clean.name} for all)."
    return groups, sentence


def gently(files: Sequence[Path]) -> tuple[dict[float, list[Path]], str]:
    """The strengths for removing JPEG artifacts from these pictures, and a sentence about them.

    Returns:
        The pictures of each strength, and the sentence, which is empty if all have strength 1.
    """
    groups: dict[float, list[Path]] = {}
    for file in files:
        quality = jpeg_quality(file) or 0
        strength = min((best for least, best in GENTLE.items() if quality >= least), default=1.0)
        groups.setdefault(strength, []).append(file)
    good = len(files) - len(groups.get(1.0, []))
    if not good:
        return groups, ""
    about = f"JPEG files of quality {min(GENTLE)} or more: {good} of {len(files)}"
    used = " or ".join(str(strength) for strength in GENTLE.values() if strength in groups)
    return groups, f"{about}, changed with strength {used} (--strength 1 applies all of it)."


def for_video(scale: int) -> str:
    """The name of the network for videos: the one for photographs, since most videos are lossy.

    Raises:
        UserError: No network in this version has this scale.
    """
    photo = _photo(scale)
    return photo.name if photo and photo.there else find("upscale", scale, "clean").name


def _photo(scale: int) -> Packaged | None:
    return next(
        (n for n in NETWORKS.values() if (n.kind, n.scale) == ("photo", scale)),
        None,
    )
