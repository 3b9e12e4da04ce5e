"""Measures when the steps of binsr_jax.enhance help and when they harm, and draws the pictures.

    python benchmarks/enhance.py --images docs/images

The packaged held-out photographs are halved, degraded as the row says, and enlarged by the packaged
network. The score is the mean PSNR on RGB against the originals. It takes some minutes on two
cores.
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import binsr_jax
from binsr_jax.ops.image import imresize_uint8

PHOTOGRAPHS = Path(binsr_jax.__file__).parent / "data" / "samples" / "valid"

Picture = np.ndarray  # uint8 [H, W, 3]


def clean(small: Picture) -> Picture:
    """As it is."""
    return small


def noisy(small: Picture) -> Picture:
    """With Gaussian noise of deviation 10."""
    noise = np.random.default_rng(0).normal(0, 10, small.shape)
    return np.clip(np.rint(small + noise), 0, 255).astype(np.uint8)


def specks(small: Picture) -> Picture:
    """With 2% of its pixels black or white."""
    rng = np.random.default_rng(0)
    draws = rng.random((*small.shape[:2], 1))
    return np.where(draws < 0.01, 0, np.where(draws > 0.99, 255, small)).astype(np.uint8)


def faint(small: Picture) -> Picture:
    """With its contrast reduced to a half, as behind haze."""
    return np.rint(small * 0.5 + 90).astype(np.uint8)


def compressed(small: Picture) -> Picture:
    """After JPEG of quality 40."""
    file = io.BytesIO()
    Image.fromarray(small).save(file, "JPEG", quality=40)
    return np.asarray(Image.open(file).convert("RGB"))


# What is made of an input, and what is tried on it: steps before, steps after.
ROWS: tuple[tuple[Callable[[Picture], Picture], str, str], ...] = (
    (specks, "", ""),
    (specks, "median=1", ""),
    (specks, "nlm=1", ""),
    (noisy, "", ""),
    (noisy, "median=1", ""),
    (noisy, "nlm=0.5", ""),
    (noisy, "nlm=1", ""),
    (noisy, "", "unsharp=0.5"),
    (compressed, "", ""),
    (compressed, "nlm=1", ""),
    (faint, "", ""),
    (faint, "normalise=1", ""),
    (faint, "clahe=0.3", ""),
    (faint, "normalise=1", "colour=1"),
    (clean, "", ""),
    (clean, "median=1", ""),
    (clean, "nlm=1", ""),
    (clean, "clahe=0.3", ""),
    (clean, "normalise=1", ""),
    (clean, "", "unsharp=0.3"),
    (clean, "", "unsharp=1"),
    (clean, "", "edges=0.3"),
    (clean, "", "colour=1"),
    (clean, "", "saturation=0.2"),
)
# The pictures: a photograph, what is made of it, and the steps that are compared.
PICTURES = {
    "enhance-before": (
        ("sign", specks, "", ""),
        ("sign", specks, "median=1", ""),
        ("skyline", noisy, "", ""),
        ("skyline", noisy, "nlm=1", ""),
        ("colosseum", faint, "", ""),
        ("colosseum", faint, "normalise=1", ""),
    ),
    "enhance-after": (
        ("osprey", clean, "", ""),
        ("osprey", clean, "", "unsharp=0.5"),
        ("osprey", clean, "", "edges=0.5"),
        ("osprey", noisy, "", ""),
        ("osprey", noisy, "", "unsharp=1"),
        ("osprey", clean, "", "saturation=0.4"),
    ),
}


def psnr(a: Picture, b: Picture) -> float:
    """In dB, of RGB."""
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def original(file: Path) -> Picture:
    """A photograph with even sides."""
    pixels = np.asarray(Image.open(file).convert("RGB"))
    return pixels[: len(pixels) // 2 * 2, : pixels.shape[1] // 2 * 2]


def drawn(parts: list[tuple[str, Picture]], side: int = 150) -> Image.Image:
    """Crops side by side with their captions, three in a row."""
    rows = -(-len(parts) // 3)
    sheet = Image.new("RGB", (3 * (side + 4) - 4, rows * (side + 18)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (caption, pixels) in enumerate(parts):
        left, top = i % 3 * (side + 4), i // 3 * (side + 18)
        y, x = ((length - side) // 2 for length in pixels.shape[:2])
        sheet.paste(Image.fromarray(pixels[y : y + side, x : x + side]), (left, top))
        pen.text((left + 2, top + side + 3), caption, "black")
    return sheet


def main() -> None:
    """Prints the table, and writes the pictures if a folder for them is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, metavar="DIR", help="where the pictures go")
    args = parser.parse_args()
    model = binsr_jax.load()
    photographs = {file.stem: original(file) for file in sorted(PHOTOGRAPHS.glob("*.png"))}

    def result(name: str, worsened: Callable[[Picture], Picture], pre: str, post: str) -> Picture:
        return model.upscale(worsened(imresize_uint8(photographs[name], 0.5)), pre=pre, post=post)

    print("| input | `--pre` | `--post` | PSNR | change |\n|---|---|---|---:|---:|")
    base = 0.0
    for worsened, pre, post in ROWS:
        scores = [
            psnr(result(name, worsened, pre, post), photographs[name]) for name in photographs
        ]
        score = float(np.mean(scores))
        base = base if pre or post else score
        change = f"{score - base:+.2f}" if pre or post else ""
        print(f"| {worsened.__name__} | {pre} | {post} | {score:.2f} dB | {change} |", flush=True)
    if args.images is not None:
        for file, shown in PICTURES.items():
            parts = [
                (f"{worsened.__name__}  {pre}{post}", result(name, worsened, pre, post))
                for name, worsened, pre, post in shown
            ]
            sheet = drawn(parts).quantize(128)
            sheet.save(args.images / f"{file}.png", optimize=True)


if __name__ == "__main__":
    main()
