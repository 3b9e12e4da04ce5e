"""List the networks in the package, and those that a later version may add.

Scores are PSNR in dB by the protocols in docs/models.md. --time also measures the time for a
million pixels of the input on this machine (column s/MP).

    binsr models
    binsr models --time
"""

import argparse
import dataclasses

from binsr_jax.deploy.cards import Card, cards, seconds_per_megapixel, times
from binsr_jax.files import printable_lines
from binsr_jax.pretrained import NETWORKS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags of ``binsr models``."""
    help_ = "measure the time of each network on this machine, in a minute"
    parser.add_argument("--time", action="store_true", help=help_)


def run(args: argparse.Namespace) -> None:
    """Runs ``binsr models``."""
    found = cards()
    machine = times()[0]
    if args.time:
        machine = "this machine"
        found = [dataclasses.replace(c, seconds=seconds_per_megapixel(c.name)) for c in found]
    print(printable_lines(table(found)))
    if any(card.seconds is not None for card in found):
        print(printable_lines(f"\nTimes: seconds per megapixel of the input on {machine}."))
    absent = [f"{n.name} (for {n.about})" for n in NETWORKS.values() if not n.there]
    if absent:
        print(f"\nNot in this version: {', '.join(absent)}.")


def table(found: list[Card]) -> str:
    """A Markdown table of the networks."""
    timed = any(card.seconds is not None for card in found)
    rows: list[tuple[str, ...]] = [
        ("name", "task", "for", "size", *(["s/MP"] * timed), "PSNR", "terms of the weights")
    ]
    rows += [
        (
            card.name,
            card.task,
            card.about,
            f"{card.size / 1000:.0f} KB",
            *(["" if card.seconds is None else f"{card.seconds:.2f}"] * timed),
            ", ".join(
                f"{name.removesuffix('/psnr')} {score:.2f}"
                for name, score in card.scores.items()
                if name.endswith("/psnr")
            ),
            card.terms or "not stated",
        )
        for card in found
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    rows.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    )
