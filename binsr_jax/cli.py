"""The command line: how train.py and evaluate.py start, and the console script ``binsr``."""

import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from binsr_jax.errors import UserError


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Parses the flags and calls ``main``; a user's mistake becomes one sentence and exit status 1."""

    def parse(argv: Sequence[str]) -> list[str]:
        try:
            return flags.FLAGS(argv)
        except flags.Error as error:
            raise _exit(str(error)) from None
        except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
            # ml_collections raises these for a wrong config file, key or value, with a fine message inside.
            raise _exit(str(error.args[0] if len(error.args) == 1 else error)) from None

    def guarded(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            raise _exit(f"unexpected argument {argv[1]!r}: options are written --name=value")
        try:
            main(argv)
        except UserError as error:
            raise _exit(str(error)) from None
        except KeyboardInterrupt:
            raise _exit("interrupted") from None

    logging.set_verbosity(logging.INFO)
    app.run(guarded, flags_parser=parse)


def _exit(sentence: str) -> SystemExit:
    """One sentence on standard error, and the exception that ends the program with status 1."""
    print("error: " + " ".join(sentence.split()), file=sys.stderr)
    return SystemExit(1)
