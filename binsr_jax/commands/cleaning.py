"""What ``binsr denoise`` and ``binsr dejpeg`` share: they keep the size of an image."""

import argparse
from pathlib import Path

from binsr_jax.commands import pictures
from binsr_jax.errors import UserError
from binsr_jax.pretrained import NETWORKS, SUFFIXES, find


def add_arguments(parser: argparse.ArgumentParser, task: str) -> None:
    """Declares the flags of the command for a task."""
    pictures.add_arguments(parser, SUFFIXES[task])
    pictures.add_strength(parser, None if task == "dejpeg" else 1.0)
    help_ = "a name, or a model file (default: the packaged network)"
    parser.add_argument("-m", "--model", metavar="MODEL", help=help_)


def run(args: argparse.Namespace, task: str) -> int:
    """Restores the named images, and returns the exit status.

    Raises:
        UserError: The packaged network is for another task; see also ``pictures.run``.
    """
    model = args.model or find(task).name
    packaged = NETWORKS.get(model)
    if packaged is not None and packaged.task != task:
        raise UserError(
            f"The network {model} is for {packaged.about}: use binsr {packaged.task}, or another "
            "network."
        )

    def choose(files: list[Path], memory: int | None) -> list[pictures.Group]:
        strengths = {1.0 if args.strength is None else args.strength: files}
        if args.strength is None and packaged is not None:
            from binsr_jax.deploy.choice import gently

            strengths, sentence = gently(files)
            if sentence:
                print(sentence)
        otherwise = "enlarge with binsr upscale"
        return [
            pictures.Group(model, pictures.load_one(model, 1, memory, otherwise, strength), part)
            for strength, part in strengths.items()
        ]

    return pictures.run(args, choose, SUFFIXES[task])
