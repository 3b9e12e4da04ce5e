"""Enlarge images 2 times, or -s times, with a packaged network or a model file.

Outputs are named like their images with a suffix, such as photo_x2.png. They are written beside the
images, or to the folder that -o names. Existing outputs are skipped, so the same command continues
an interrupted run. If an image cannot be read, the others are still enlarged; an error at the end
names it, and the exit status is 1. If two images would have the same output, the ending or folder
of the second becomes part of the name.

--model names the kind of network. clean is for clean pictures, photo for photographs with noise and
JPEG artifacts, commercial is a photo network whose weights allow commercial use, fast is smaller,
and sharp and drawing imitate a float network that draws sharp edges. It can also be a name from
binsr models, or a file of binsr pack. Without it, JPEG files are enlarged by the photo network and
all other files by the clean one.

Large images are processed in tiles that overlap by the receptive field, with the same result as in
one piece. Memory: about 8 + 8 scale^2 bytes for each pixel of an image, twice that for colours of
16 bits, plus --memory.

    binsr upscale photo.jpg
    binsr upscale -s 4 --model photo photo.jpg
    binsr upscale photos/ 'scans/**/*.tif' -o large/ -f png -m model.binsr
    binsr upscale incoming/ --watch -o large/
"""

import argparse
from pathlib import Path

from binsr_jax.commands import pictures
from binsr_jax.pretrained import KINDS, find


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of ``binsr upscale``."""
    pictures.add_arguments(parser, "_x and the scale")
    add = parser.add_argument
    add(
        "-m",
        "--model",
        metavar="MODEL",
        help=f"{', '.join(KINDS)}, another name of binsr models, or a model file",
    )
    add(
        "-s",
        "--scale",
        type=pictures.whole(1),
        help="how many times larger (default: 2, or the model file's)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs ``binsr upscale``."""

    def choose(files: list[Path], memory: int | None) -> list[pictures.Group]:
        scale = args.scale or 2
        if args.model is None:
            from binsr_jax.deploy.choice import by_default

            groups, sentence = by_default(files, scale)
            if sentence:
                print(sentence)
            return [
                pictures.Group(name, pictures.load(name, memory=memory), part)
                for name, part in groups.items()
            ]
        if args.model in KINDS:
            model = find("upscale", args.scale or 0, args.model).name
            return [pictures.Group(model, pictures.load(model, memory=memory), files)]
        upscaler = pictures.load_one(args.model, args.scale, memory, "leave out -s")
        return [pictures.Group(args.model, upscaler, files)]

    return pictures.run(args, choose)
