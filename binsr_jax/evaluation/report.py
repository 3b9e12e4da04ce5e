"""Scores as text, as JSON lines and as pictures."""

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from binsr_jax.data.degradations import DEGRADATIONS
from binsr_jax.errors import UserError
from binsr_jax.evaluation.metrics import psnr, ssim
from binsr_jax.files import replace_bytes
from binsr_jax.json_lines import Row, encoded, json_line
from binsr_jax.ops.image import rgb_to_y
from binsr_jax.tasks import Task

# The heading and the format of each score, in the order of the columns.
_COLUMNS = {
    "psnr": ("PSNR", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "psnrb": ("PSNR-B", ".2f"),
    "lpips": ("LPIPS", ".4f"),
}

_USUAL_BICUBIC = 33.67  # dB on Set5 x2


def _is_bicubic_on_set5(row: Row) -> bool:
    """Whether a row is bicubic on Set5 x2, for which the BBCU paper prints another number."""
    return (row["task"], row["set"], row.get("method")) == ("SR x2", "Set5", "bicubic") and abs(
        row["psnr"] - _USUAL_BICUBIC
    ) < 0.01


def _is_of(task: str, name: str) -> Callable[[Row], bool]:
    """Whether a row has this task and this set, at any level and with any centre crop."""
    sets = re.compile(rf"{name}(@\d+)?(-\d+)?")
    return lambda row: row["task"].startswith(task) and sets.fullmatch(row["set"]) is not None


# Notes about published numbers of another protocol: the rows that need the note, and its text.
_NOTES: tuple[tuple[Callable[[Row], bool], str], ...] = (
    (
        _is_bicubic_on_set5,
        "The bicubic row of the BBCU paper (33.97 dB on Set5 x2) follows another protocol; the "
        f"usual protocol, used here, gives {_USUAL_BICUBIC}.",
    ),
    (
        _is_of("JPEG", "Classic5"),
        "Classic5: the BBCU repository reads these grey images as RGB and converts them to luma, "
        "which adds 0.2 to 0.4 dB; here their own values are scored.",
    ),
    (
        _is_of("Colour denoising", "Kodak24"),
        "Kodak24: some papers score the whole images (Kodak24), others the 500x500 pixels in the "
        "middle of each (Kodak24@500).",
    ),
)


def input_row(row: Row) -> Row | None:
    """The row of the input itself, made from a set row that holds the input's scores.

    Such scores have names like bicubic_psnr, noise_psnr and jpeg_ssim.
    """
    for name, degradation in DEGRADATIONS.items():
        scores = {score: row.get(f"{name}_{score}") for score in _COLUMNS}
        if scores["psnr"] is not None:
            fields = ("set", "task", "protocol", "images", "fingerprint")
            about = {key: row[key] for key in fields if key in row}
            scores = {score: value for score, value in scores.items() if value is not None}
            return {"method": degradation.title, **about, **scores}
    return None


def table(rows: Sequence[Row]) -> str:
    """A Markdown table of set rows (see ``benchmark.score_set``).

    A row that also holds the input's scores gives two lines: the input's line comes first, since it
    is the baseline. If a set has a perfectly restored image, its mean PSNR is infinite and printed
    as "inf".
    """
    rows = [line for row in rows for line in (input_row(row), row) if line is not None]
    with_method = any("method" in row for row in rows)
    scores = [score for score in _COLUMNS if any(score in row for row in rows)]
    header = ["Set", *(["Method"] if with_method else []), "Images"]
    lines = [[*header, *(_COLUMNS[score][0] for score in scores), "Protocol"]]
    for row in rows:
        method = [row.get("method", "")] if with_method else []
        cells = [f"{row[s]:{_COLUMNS[s][1]}}" if s in row else "" for s in scores]
        protocol = f"{row['task']}: {row['protocol']}"
        lines.append([row["set"], *method, str(row["images"]), *cells, protocol])

    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    # Numbers are right-aligned: all columns between the names and the protocol.
    numbers = range(len(header) - 1, len(widths) - 1)
    lines.insert(
        1, ["-" * (width - 1) + (":" if i in numbers else "-") for i, width in enumerate(widths)]
    )
    return "\n".join(
        "| "
        + " | ".join(
            cell.rjust(width) if i in numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in lines
    )


def notes(rows: Sequence[Row]) -> list[str]:
    """Notes on comparing these set rows with published numbers."""
    return [text for concerns, text in _NOTES if any(map(concerns, rows))]


def append_rows(path: Path, rows: Sequence[Row]) -> None:
    """Appends rows to a file of JSON lines in one write, so that no line is ever cut.

    Raises:
        UserError: The file or its folder cannot be written.
    """
    lines = "".join(map(json_line, rows))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab", buffering=0) as file:
            file.write(encoded(lines))
    except OSError as error:
        raise UserError(
            f"Cannot write the results to {path} ({error.strerror}); name another folder."
        ) from error


def save_png(path: Path, image: np.ndarray) -> None:
    """Writes a uint8 image ``[H, W, 3 or 1]`` as PNG; it is never half written.

    Raises:
        UserError: The file or its folder cannot be written.
    """
    encoded = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(encoded, "PNG")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_bytes(path, encoded.getvalue())
    except OSError as error:
        raise UserError(
            f"Cannot write the picture {path} ({error.strerror}); name another folder."
        ) from error


# Sizes in the comparison picture, in pixels.
_TILE = 336  # the largest side of a detail, and the height of the whole image
_MARGIN = 28
_GAP = 16
_PAPER = (255, 255, 255)
_INK = (28, 30, 34)
_FAINT = (118, 122, 130)
_GAIN = (20, 128, 74)
_FRAME = (255, 122, 0)


def comparison(
    title: str, original: np.ndarray, restorations: Mapping[str, np.ndarray], task: Task
) -> np.ndarray:
    """A picture to judge by eye: the image, and a detail of each restoration and of the original.

    The detail is where the squared errors of the first and the last restoration differ most; with a
    single restoration, where its error is largest. It is enlarged by an integer factor without
    smoothing. Below each detail are its PSNR and SSIM over the whole image and its gain over the
    first restoration.

    Args:
        title: The text above the picture.
        original: uint8 ``[H, W, 3]``, or ``[H, W, 1]`` for grey.
        restorations: Name -> uint8 image of the same shape; the others are compared with the first.
        task: The task whose protocol gives the scores.

    Returns:
        uint8 ``[height, width, 3]``.
    """
    scores = {
        name: [score(image, original, task.border, task.luma) for score in (psnr, ssim)]
        for name, image in restorations.items()
    }
    grey = original.shape[-1] < task.channels
    protocol = f"grey as it is, border {task.border}" if grey else task.protocol
    if original.shape[-1] == 1:
        original = original.repeat(3, axis=-1)
        restorations = {name: image.repeat(3, axis=-1) for name, image in restorations.items()}
    # A quarter of the image fills a tile, unless its pixels would be too small or too large.
    zoom = min(max(4 * _TILE // min(original.shape[:2]), 3), 14)
    side = _TILE // zoom
    top, left = _detail(original, list(restorations.values()), side)
    rows, columns = slice(top, top + side), slice(left, left + side)

    whole = Image.fromarray(original)
    shrink = min(1.5 * _TILE / whole.width, side * zoom / whole.height)
    size = (max(1, round(whole.width * shrink)), max(1, round(whole.height * shrink)))
    whole = whole.resize(size, Image.Resampling.LANCZOS)
    frame = [round(edge * shrink) for edge in (left, top, left + side, top + side)]
    draw = ImageDraw.Draw(whole)
    # A white line on both sides of the frame keeps it visible on any image.
    draw.rectangle([frame[0] - 1, frame[1] - 1, frame[2] + 1, frame[3] + 1], None, _PAPER, 4)
    draw.rectangle(frame, None, _FRAME, 2)

    tiles = [_Tile(whole, "Image", f"{original.shape[1]} x {original.shape[0]} pixels")]
    baseline = next(iter(scores.values()))[0]
    for name, image in restorations.items():
        ratio, similarity = scores[name]
        numbers = f"{ratio:.2f} dB   SSIM {similarity:.4f}"
        first = len(tiles) == 1 or math.isinf(baseline)
        gain = None if first else ratio - baseline
        tiles.append(_Tile(_enlarge(image[rows, columns], zoom), name, numbers, gain))
    detail = _enlarge(original[rows, columns], zoom)
    tiles.append(_Tile(detail, "Original", f"{task.name}: {protocol}"))
    return _sheet(title, tiles)


@dataclass(frozen=True)
class _Tile:
    picture: Image.Image
    name: str
    numbers: str
    gain: float | None = None


def _detail(original: np.ndarray, restorations: list[np.ndarray], side: int) -> tuple[int, int]:
    """Top and left of the square in which the restorations' squared errors differ most."""
    errors = [np.square(rgb_to_y(image) - rgb_to_y(original)) for image in restorations]
    difference = errors[0] - errors[-1] if len(errors) > 1 else errors[0]
    sums = np.pad(difference, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    high, wide = (min(side, size) for size in original.shape[:2])
    boxes = sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide]
    top, left = np.unravel_index(np.argmax(np.abs(boxes)), boxes.shape)
    return int(top), int(left)


def _enlarge(detail: np.ndarray, factor: int) -> Image.Image:
    return Image.fromarray(detail.repeat(factor, axis=0).repeat(factor, axis=1))


def _sheet(title: str, tiles: Sequence[_Tile]) -> np.ndarray:
    """Tiles side by side under a title, each above its name, its gain and its scores."""
    heading, name_font, text_font = (ImageFont.load_default(size) for size in (26, 21, 17))
    tile_top = _MARGIN + 48
    widths = [max(tile.picture.width, 210) for tile in tiles]  # room for the numbers
    height = tile_top + max(tile.picture.height for tile in tiles) + 64 + _MARGIN
    sheet = Image.new("RGB", (2 * _MARGIN + sum(widths) + _GAP * (len(tiles) - 1), height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN - 6), title, _INK, heading)
    x, text_top = _MARGIN, height - _MARGIN - 52
    for width, tile in zip(widths, tiles, strict=True):
        sheet.paste(tile.picture, (x, tile_top))
        draw.text((x, text_top), tile.name, _INK, name_font)
        if tile.gain is not None:
            indent = draw.textlength(tile.name + "  ", name_font)
            colour = _GAIN if tile.gain > 0 else _INK
            draw.text((x + indent, text_top), f"{tile.gain:+.2f} dB", colour, name_font)
        draw.text((x, text_top + 29), tile.numbers, _FAINT, text_font)
        x += width + _GAP
    return np.array(sheet)
