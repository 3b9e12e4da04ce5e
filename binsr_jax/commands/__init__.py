"""The console script ``binsr``: one module a subcommand.

A subcommand ``NAME`` is a line in ``COMMANDS`` and a module ``binsr_jax/commands/NAME.py``, with _
for -, that has

    add_arguments(parser: argparse.ArgumentParser) -> None
    run(args: argparse.Namespace) -> int | None        the exit status; None is 0

whose docstring is the description that ``binsr NAME --help`` prints. Only the module that is asked
for is imported, so that ``binsr --help`` does not wait for JAX.
"""

import argparse
import importlib
import io
import logging
import os
import sys
from collections.abc import Sequence

from binsr_jax import __version__
from binsr_jax.errors import UserError
from binsr_jax.files import printable

COMMANDS: dict[str, str] = {
    "upscale": "enlarge images with a packed model",
    "restore": "remove noise or JPEG artifacts from images with a packed model",
    "import-torch": "make a work dir of official PyTorch weights",
    "pack": "make a model file of a trained network",
    "unpack": "make a work dir of a model file, to train it further",
    "info": "say what a model file is",
    "cost": "count a network's parameters, operations and bytes",
    "configs": "list recipes with their costs and published scores",
    "runs": "list training runs and how far they are",
    "plot": "plot the curves of training runs",
    "study": "train many small networks and compare them",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``binsr`` and returns its exit status.

    A user's mistake is one sentence on standard error and status 1; a wrong flag is status 2.

    Args:
        argv: The arguments after the program's name; those of this process by default.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name may be no text of this encoding
            stream.reconfigure(errors="backslashreplace")
    parser = argparse.ArgumentParser("binsr", description="1-bit image restoration.")
    parser.add_argument("--version", action="version", version=f"binsr-jax {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    module = None
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if argv[:1] == [name]:
            module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
            subparser.description = module.__doc__
            module.add_arguments(subparser)
    args = parser.parse_args(argv)
    assert module is not None  # the parser has ended the program if there is no such command
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)  # Orbax tells much that is no user's concern
    try:
        return module.run(args) or 0
    except UserError as error:
        print(printable("error: " + " ".join(str(error).split())), file=sys.stderr)
    except KeyboardInterrupt:
        print("error: Interrupted.", file=sys.stderr)
    except BrokenPipeError:  # who reads a long table, such as head, has seen enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        log.setLevel(level)
    return 1
