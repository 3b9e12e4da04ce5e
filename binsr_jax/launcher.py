"""Starts the absl programs, training and evaluation; and what all programs set up alike."""

import difflib
import logging as python_logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging

from binsr_jax.config import default, flat_fields, list_value
from binsr_jax.errors import UserError
from binsr_jax.files import printable
from binsr_jax.ops import native

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", tuple: "a list"}
# Of lists; the defaults, which are examples of all other fields, are empty or of one element.
_EXAMPLES = {
    "config.data.sources": "folder:DIR=3,samples=1",
    "config.data.sigma": "0,75",
    "config.data.quality": "0,50",
    "config.train.milestones": "200000,400000",
    "config.eval.sets": "Set5,B100",
    "config.eval.levels": "15,50",
}


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Parses the flags and calls ``main``; a user's mistake becomes one sentence and status 1.

    Args:
        main: Gets the arguments that are no flags, and returns the exit status; None is 0.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        try:
            _check_config_file(argv)
            rest = flags.FLAGS(_with_lists(argv))
        except UserError as error:
            raise _exit(str(error)) from None
        except Exception as error:  # a recipe is Python: it can raise anything
            raise _exit(_flag_mistake(argv, error)) from None
        if len(rest) > 1:
            raise _exit(f"Unexpected argument {rest[1]!r}: options are written --name=value.")
        return rest

    def guarded(argv: Sequence[str]) -> int | None:
        try:
            check_kernel()
            return main(argv)
        except UserError as error:
            raise _exit(str(error)) from None
        except KeyboardInterrupt:
            raise _exit("Interrupted.") from None

    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(_is_worth_a_line)
    keep_compiled_programs()
    app.run(guarded, flags_parser=parse)


def keep_compiled_programs() -> None:
    """Keeps compiled programs in ``~/.cache/binsr-jax/jax``, so that the next start is quick.

    JAX's own variable JAX_COMPILATION_CACHE_DIR names another folder.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = Path.home() / ".cache" / "binsr-jax" / "jax"
        jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # Also the draws of the first parameters, of which each takes less than JAX's own second.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def check_kernel() -> None:
    """Looks at the environment variable BINSR_KERNEL (``binsr_jax.ops.native``), if it is set.

    Raises:
        UserError: it names no form that this machine can run.
    """
    if os.environ.get("BINSR_KERNEL"):
        try:
            native.chosen_form()
        except ValueError as error:
            raise UserError(f"The environment variable {error}.") from error


def _exit(sentence: str) -> SystemExit:
    """One sentence on standard error, and the exception that ends the program with status 1."""
    print(printable("error: " + " ".join(sentence.split())), file=sys.stderr)
    return SystemExit(1)


def _is_worth_a_line(record: python_logging.LogRecord) -> bool:
    """Keeps this package's lines and others' warnings.

    Orbax writes dozens of lines a checkpoint. What fails in its threads it logs with a traceback,
    also through asyncio, and raises it as well: that becomes a sentence.
    """
    # Names come from elsewhere, and the terminal is not theirs to steer.
    record.msg, record.args = printable(record.getMessage()), ()
    ours = record.pathname.startswith(str(Path(__file__).parent))
    noise = "orbax" in record.pathname or record.name == "asyncio"
    return ours or (record.levelno >= python_logging.WARNING and not noise)


def _check_config_file(argv: Sequence[str]) -> None:
    """Says that a config file is missing before ml_collections does in five lines."""
    for i, argument in enumerate(argv):
        match = re.fullmatch(r"--?config(?:=(.*))?", argument)
        if match is None:
            continue
        value = match[1] if match[1] is not None else "".join(argv[i + 1 : i + 2])
        path = Path(value.split(":", 1)[0])
        if path.suffix != ".py" or not path.is_file():
            recipes = [str(file) for file in path.parent.glob("*.py")]
            hint = _did_you_mean(str(path), recipes, "name a recipe such as configs/NAME.py.")
            raise UserError(f"There is no config file {str(path)!r}: {hint}")


def _with_lists(argv: Sequence[str]) -> list[str]:
    """The arguments, with those for lists as the Python tuples that ml_collections takes.

    It takes ``Set5,B100`` as one text. A flag that is given again adds to the list.

    Raises:
        UserError: a list has an element that its field cannot have.
    """
    lists = {n for n, value in flat_fields(default(), "config.").items() if type(value) is tuple}
    given = iter(argv)
    written = []
    for argument in given:
        match = re.fullmatch(r"--?(config\.[^=]*)(?:=(.*))?", argument, re.DOTALL)
        if match is None or match[1] not in lists:
            written.append(argument)
            continue
        name, text = match[1], match[2] if match[2] is not None else next(given, "")
        value = list_value(name.removeprefix("config."), text)
        if value is None:
            raise UserError(_wrong_value(name, text, ()))
        written.append(f"--{name}={value!r}")
    return written


def _wrong_value(name: str, text: str, known: Any) -> str:
    """The sentence for a value that a field of the config cannot have; ``known``: its default."""
    kind = _KINDS.get(type(known), "a text")
    return f"{name} cannot be {text!r}: it is {kind}, such as {_EXAMPLES.get(name, repr(known))}."


def _flag_mistake(argv: Sequence[str], error: Exception) -> str:
    """The sentence for a wrong flag, a wrong field or value of the config, or a broken recipe."""
    text = str(error)
    missing = re.findall(r"Flag (--\w+) must have a value other than None", text)
    if missing:
        return f"Missing {' and '.join(missing)}: --help lists all flags."
    fields = flat_fields(default(), "config.")
    for argument in argv:
        match = re.fullmatch(r"--?(?:no)?(config\.[^=]*)(?:=(.*))?", argument, re.DOTALL)
        if match is None:
            continue
        name, value = match.groups()
        if name not in fields:
            hint = _did_you_mean(name, list(fields), "binsr_jax/config.py lists those it has.")
            return f"The config has no field {name}: {hint}"
        if f"--{name}={value}:" in text:  # of a flag that is repeated, the value that failed
            return _wrong_value(name, value, fields[name])
    if "get_config() takes 0 positional arguments" in text:
        return "This recipe has no variants: leave out the colon after its file name, and the rest."
    if isinstance(error, flags.Error) and "parsing config file" not in text:
        return text
    where = [
        f"line {frame.lineno} of {frame.filename}"
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename and frame.filename != __file__
    ]
    return f"The recipe fails at {where[-1] if where else 'its start'}: {text.splitlines()[-1]}"


def _did_you_mean(word: str, words: Sequence[str], otherwise: str) -> str:
    close = difflib.get_close_matches(word, words, n=1)
    return f"did you mean {close[0]}?" if close else otherwise
