"""Starts the absl programs, training and evaluation; and what all programs set up alike."""

import difflib
import logging as python_logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict

from binsr_jax.config import default
from binsr_jax.errors import UserError
from binsr_jax.ops import native

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", tuple: "a tuple"}


def run(main: Callable[[Sequence[str]], int | None]) -> None:
    """Parses the flags and calls ``main``; a user's mistake becomes one sentence and status 1.

    Args:
        main: Gets the arguments that are no flags, and returns the exit status; None is 0.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        try:
            _check_config_file(argv)
            rest = flags.FLAGS(argv)
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
    print("error: " + " ".join(sentence.split()), file=sys.stderr)
    return SystemExit(1)


def _is_worth_a_line(record: python_logging.LogRecord) -> bool:
    """Keeps this package's lines and others' warnings.

    Orbax writes dozens of lines a checkpoint. What fails in its threads it logs with a traceback,
    also through asyncio, and raises it as well: that becomes a sentence.
    """
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


def _flag_mistake(argv: Sequence[str], error: Exception) -> str:
    """The sentence for a wrong flag, a wrong field or value of the config, or a broken recipe."""
    text = str(error)
    missing = re.findall(r"Flag (--\w+) must have a value other than None", text)
    if missing:
        return f"Missing {' and '.join(missing)}: --help lists all flags."
    fields = dict(_fields(default(), "config."))
    for argument in argv:
        match = re.fullmatch(r"--?(?:no)?(config\.[^=]*)(?:=(.*))?", argument, re.DOTALL)
        if match is None:
            continue
        name, value = match.groups()
        if name not in fields:
            hint = _did_you_mean(name, list(fields), "binsr_jax/config.py lists those it has.")
            return f"The config has no field {name}: {hint}"
        if f"--{name}=" in text:
            kind = _KINDS.get(type(fields[name]), "a text")
            return f"{name} cannot be {value!r}: it is {kind}, such as {fields[name]!r}."
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


def _fields(config: ConfigDict, prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _fields(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _did_you_mean(word: str, words: Sequence[str], otherwise: str) -> str:
    close = difflib.get_close_matches(word, words, n=1)
    return f"did you mean {close[0]}?" if close else otherwise
