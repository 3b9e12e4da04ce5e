"""Restore images in several steps, or with one model file of your own.

--steps names the steps in their order: dejpeg, denoise, upscale (2 times, or -s times), names of
binsr models, or model files. All steps run on a tile before the next tile starts, and nothing is
rounded or written in between. -m FILE is the same as --steps FILE, for a model that keeps the size.
--strength 0.5 applies half of the change of the steps that keep the size.

Outputs are named photo_restored.png, or photo_x2.png if a step enlarges. Everything else is as in
binsr upscale.

    binsr restore photo.jpg --steps dejpeg,upscale
    binsr restore 'album/**/*.jpg' -o clean/ -f png -m mine.binsr
"""

import argparse
from pathlib import Path

from binsr_jax.commands import pictures
from binsr_jax.errors import UserError
from binsr_jax.pretrained import find


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of ``binsr restore``."""
    pictures.add_arguments(parser, "_restored, or _x and the scale")
    pictures.add_strength(parser)
    add = parser.add_argument
    add("--steps", metavar="STEP,...", help="dejpeg, denoise, upscale, names, or model files")
    add("-m", "--model", metavar="MODEL", help="one model file, or a name, instead of --steps")
    add("-s", "--scale", type=pictures.whole(1), help="scale of the step upscale (default: 2)")


def run(args: argparse.Namespace) -> int:
    """Runs ``binsr restore``."""
    if bool(args.steps) == bool(args.model):
        raise UserError(
            "Say what to do with --steps, such as dejpeg,denoise,upscale, or name a model file "
            "with -m."
        )
    if args.model:
        return _with_one_model(args)
    models = networks_of(args.steps, args.scale)

    def choose(files: list[Path], memory: int | None) -> list[pictures.Group]:
        from binsr_jax.deploy.steps import load_steps

        upscaler = load_steps(models, strength=args.strength, memory=memory)
        return [pictures.Group(",".join(models), upscaler, files)]

    return pictures.run(args, choose)


def networks_of(steps: str, scale: int | None) -> list[str]:
    """The names or the files of the networks that ``--steps`` stands for.

    Args:
        steps: its text.
        scale: The scale of the step upscale; 2 by default.

    Raises:
        UserError: It names no step, or a scale is given without the step upscale.
    """
    names = [name.strip() for name in steps.split(",") if name.strip()]
    if not names:
        raise UserError("--steps names no step: choose from dejpeg, denoise and upscale.")
    if scale and "upscale" not in names:
        raise UserError("-s goes with the step upscale: leave it out, or add the step.")
    return [_model(name, scale or 2) for name in names]


def _model(step: str, scale: int) -> str:
    """The name or the file of a step's network."""
    if step == "upscale":
        return find("upscale", scale, "clean").name
    return find(step).name if step in ("dejpeg", "denoise") else step


def _with_one_model(args: argparse.Namespace) -> int:
    if args.scale not in (None, 1):
        raise UserError("binsr restore keeps the size of images with -m: leave out -s.")

    def choose(files: list[Path], memory: int | None) -> list[pictures.Group]:
        otherwise = "enlarge with binsr upscale"
        upscaler = pictures.load_one(args.model, 1, memory, otherwise, args.strength)
        return [pictures.Group(args.model, upscaler, files)]

    return pictures.run(args, choose)
