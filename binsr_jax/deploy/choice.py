"""Which packaged network a picture is enlarged with, where the user names none."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from binsr_jax.pretrained import NETWORKS, Packaged, find

# Below this quality of JPEG the network for photographs is better than that for clean pictures.
PHOTO_BELOW = 95

# The luma table of libjpeg at quality 50 adds up to this.
_SUM_AT_50 = 3688


def jpeg_quality(file: Path) -> int | None:
    """The quality that a JPEG file was written with, by its luma table; None of other files.

    It is within 1 from about 25 on, and too high below, where entries of the table are cut off.
    """
    try:
        with Image.open(file, formats=["JPEG"]) as image:
            tables = getattr(image, "quantization", {})
            total = sum(tables[0]) if tables.get(0) else 0
    except Exception:  # whatever is wrong with it is said where it is read
        return None
    if not total:
        return None
    percent = 100 * total / _SUM_AT_50
    quality = 5000 / percent if percent > 100 else (200 - percent) / 2
    return max(1, min(100, round(quality)))


def by_default(files: Sequence[Path], scale: int) -> tuple[dict[str, list[Path]], str]:
    """The networks that pictures are enlarged with, and a sentence about it.

    Returns:
        The pictures of each network, by its name, and the sentence; or no sentence where all are
        clean.

    Raises:
        UserError: no network of this version enlarges so many times.
    """
    clean = find("upscale", scale, "clean")
    photo = _photo(scale)
    lossy = [file for file in files if (q := jpeg_quality(file)) is not None and q < PHOTO_BELOW]
    if not lossy:
        return {clean.name: list(files)}, ""
    about = f"JPEG of a quality under {PHOTO_BELOW}"
    if photo is None or not photo.there:
        name = f"{clean.name} (a network for photographs is not in this version of binsr-jax)"
        return {clean.name: list(files)}, f"{len(lossy)} of {len(files)} {about}: with {name}."
    groups = {photo.name: lossy}
    rest = [file for file in files if file not in set(lossy)]
    if rest:
        groups[clean.name] = rest
    sentence = f"{len(lossy)} of {len(files)} {about}: with {photo.name}; --model clean overrides."
    return groups, sentence


def _photo(scale: int) -> Packaged | None:
    return next(
        (n for n in NETWORKS.values() if (n.kind, n.scale) == ("photo", scale)),
        None,
    )
