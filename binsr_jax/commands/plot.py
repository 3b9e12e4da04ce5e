"""Plot the loss and the validation scores of runs from their logs.

binsr plot runs/quickstart runs/wide -o curves.png
"""

import argparse
from pathlib import Path

from binsr_jax.files import expanded, printable
from binsr_jax.studies.figures import curves, save


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``binsr plot``."""
    parser.add_argument("workdirs", type=Path, nargs="+", metavar="DIR", help="a work dir")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="a png, svg or pdf file"
    )


def run(args: argparse.Namespace) -> None:
    """Runs ``binsr plot``."""
    output = expanded(args.output)
    save(curves([expanded(workdir) for workdir in args.workdirs]), output)
    print(printable(f"Wrote {output}."))
