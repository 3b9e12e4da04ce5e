"""The console script ``binsr``: one module per subcommand.

A subcommand ``NAME`` has a line in ``COMMANDS`` and a module ``binsr_jax/commands/NAME.py``, with _
instead of -, that defines

    add_arguments(parser: argparse.ArgumentParser) -> None
    run(args: argparse.Namespace) -> int | None        the exit status; None is 0

Its docstring is the description in ``binsr NAME --help``. The modules of train and evaluate are
programs of ``binsr_jax.launcher`` instead, because every field of a config is a flag. Only the
requested module is imported, so that ``binsr --help`` does not wait for JAX. The words of a flag
may be joined with - or _.
"""

import argparse
import contextlib
import importlib
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from binsr_jax import __version__
from binsr_jax.errors import UserError, similar
from binsr_jax.files import printable

COMMANDS: dict[str, str] = {
    "train": "train a network by a recipe",
    "evaluate": "score a network on benchmark sets",
    "upscale": "enlarge images",
    "denoise": "remove noise from images",
    "dejpeg": "remove JPEG artifacts from images",
    "restore": "clean and enlarge images in several steps, or with your own model",
    "demo": "open a page that restores pictures in a browser",
    "serve": "restore pictures over HTTP, for programs",
    "video": "enlarge or clean videos and animated pictures",
    "models": "list the networks that come with the package",
    "faces": "restore the faces in images with DFDNet",
    "import-torch": "make a work dir from official PyTorch weights",
    "pack": "pack a trained network into a model file",
    "prune": "make a smaller network from a trained one",
    "unpack": "make a work dir from a model file, to train it further",
    "export": "write a model as StableHLO, ONNX or C, for other programs",
    "info": "show what is in a model file",
    "cost": "count a network's parameters, operations and bytes",
    "configs": "list recipes with their costs and published scores",
    "runs": "list training runs and their progress",
    "plot": "plot the curves of training runs",
    "study": "train many small networks and compare them",
    "completion": "print a script with which a shell completes commands and flags",
}


PROGRAMS = ("train", "evaluate")


class _Parser(argparse.ArgumentParser):
    """A parser that reports a mistake in one sentence, instead of after the list of all flags."""

    def error(self, message: str) -> NoReturn:
        reason = printable(message.removeprefix("argument ").rstrip("."))
        self.exit(2, f"error: {self.prog}: {reason} ({self.prog} --help explains all flags).\n")

    def refuse_unknown(self, arguments: Sequence[str]) -> None:
        """Reports arguments that no flag has taken, with the name of a similar flag."""
        if not arguments:
            return
        flag = arguments[0].partition("=")[0]
        if not flag.startswith("-"):
            self.error(f"the argument {flag!r} is not expected")
        meant = similar(flag, self._option_string_actions)
        hint = f"; did you mean {meant}?" if meant else ""
        self.error(f"there is no flag {flag}{hint}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``binsr`` and returns its exit status.

    A user's mistake gives one sentence on standard error and status 1; a wrong flag gives status 2.

    Args:
        argv: The arguments after the program's name; by default those of this process.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # the program's parent has closed it
            nowhere = os.open(os.devnull, os.O_WRONLY)
            setattr(sys, name, os.fdopen(nowhere, "w", encoding="utf-8"))
        elif isinstance(stream, io.TextIOWrapper):  # a name may not be encodable
            stream.reconfigure(errors="backslashreplace")
    return _guarded(lambda: _run(argv))


def make_parser(
    names: Sequence[str],
) -> tuple[_Parser, dict[str, _Parser], dict[str, Any]]:
    """Returns the parser of ``binsr``, the parsers of its subcommands, and some of their modules.

    Args:
        names: The subcommands, but none of ``PROGRAMS``, that get their flags from their modules.
    """
    parser = _Parser("binsr", description="1-bit image restoration.")
    parser.add_argument("--version", action="version", version=f"binsr-jax {__version__}")
    adding = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    subparsers, modules = {}, {}
    for name, summary in COMMANDS.items():
        subparser = subparsers[name] = adding.add_parser(
            name, help=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name in names:
            module = modules[name] = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
            subparser.description = module.__doc__
            module.add_arguments(subparser)
    return parser, subparsers, modules


def _run(argv: list[str]) -> int:
    if argv[:1] and argv[0] in PROGRAMS:
        return _launch(argv[0], argv[1:])
    parser, subparsers, modules = make_parser([name for name in COMMANDS if argv[:1] == [name]])
    if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
        meant = similar(argv[0], COMMANDS)
        hint = f"; did you mean {meant}?" if meant else ""
        parser.error(f"there is no command {argv[0]!r}{hint}")
    args, unknown = parser.parse_known_args([_normalised(argument) for argument in argv])
    subparsers[args.command].refuse_unknown(unknown)
    return _run_quietly(modules[args.command], args)


def _launch(name: str, argv: list[str]) -> int:
    from binsr_jax import launcher  # here, since it imports JAX

    program: Any = importlib.import_module(f"{__name__}.{name}")
    return launcher.launch(program, name, argv)


def _run_quietly(module: Any, args: argparse.Namespace) -> int:
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)  # Orbax logs many lines that do not concern a user
    try:
        if os.environ.get("BINSR_KERNEL"):
            from binsr_jax import launcher  # here, since it imports JAX

            launcher.check_kernel()
        return module.run(args) or 0
    finally:
        log.setLevel(level)


def _guarded(call: Callable[[], int]) -> int:
    """The exit status of a call; a user's mistake gives one sentence and status 1.

    So does what the system refuses anywhere, such as a name that is too long, a folder without
    permission, or standard output on a full disk.
    """
    try:
        status = call()
        sys.stdout.flush()
        return status
    except UserError as error:
        print(printable("error: " + " ".join(str(error).split())), file=sys.stderr)
    except KeyboardInterrupt:
        print("error: Interrupted.", file=sys.stderr)
    except BrokenPipeError:  # the reader of a long table, such as head, has stopped reading
        pass
    except OSError as error:
        where = error.filename or "a file or standard output"
        reason = error.strerror or str(error)
        print(printable(f"error: Cannot read or write {where} ({reason})."), file=sys.stderr)
    with contextlib.suppress(OSError):
        _drop_what_cannot_be_printed()
    return 1


def _drop_what_cannot_be_printed() -> None:
    """Sends the rest of standard output nowhere, if it cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:  # the interpreter would try again at its end, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _normalised(argument: str) -> str:
    """A flag with - between its words: ``--no_cost`` becomes ``--no-cost``."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value
