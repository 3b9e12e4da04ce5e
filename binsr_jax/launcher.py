"""Starts training and evaluation, whose flags are absl's, and the common set-up of all programs."""

import logging as python_logging
import os
import re
import textwrap
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from absl import flags, logging

from binsr_jax.config import FIELDS, default, flat_fields, list_value
from binsr_jax.errors import UserError, similar
from binsr_jax.fields import Field
from binsr_jax.files import printable_lines
from binsr_jax.kept import keep_compiled_programs
from binsr_jax.ops.native import choose
from binsr_jax.recipes import recipe_file

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", tuple: "a list"}
# Examples for lists with an empty default or one element; other fields have their default as one.
_EXAMPLES = {
    "config.data.sources": "folder:DIR=3,samples=1",
    "config.train.milestones": "200000,400000",
    "config.train.perceptual_layers": "conv3_4=0.1,conv5_4=1",
    "config.eval.sets": "Set5,B100",
    "config.eval.levels": "15,50",
}


class Program(Protocol):
    """A subcommand with absl's flags, since it takes fields of a config: train or evaluate.

    ``define_flags`` defines its flags for these arguments (after the program's name), and ``run``
    returns the exit status; None is 0. Its docstring is its description.
    """

    def define_flags(self, argv: Sequence[str]) -> flags.FlagValues: ...
    def run(self, values: flags.FlagValues) -> int | None: ...


def launch(program: Program, name: str, argv: Sequence[str]) -> int:
    """Runs ``binsr NAME ...`` and returns its exit status.

    Args:
        program: The subcommand's module.
        name: Its name.
        argv: Its arguments.

    Raises:
        UserError: A flag, a field or a value of the config, or the recipe is wrong.
    """
    argv = [_normalised(argument) for argument in argv]
    if any(argument in ("-h", "--help", "--helpfull") for argument in argv):
        print(_help(program, name))
        return 0
    argv = _with_lists(_with_recipe_file(argv))
    try:
        values = program.define_flags(argv)
        rest = values([name, *argv])
    except UserError:
        raise
    except Exception as error:  # a recipe is Python: it can raise anything
        raise UserError(_flag_mistake(argv, error)) from error
    if len(rest) > 1:
        raise UserError(f"Unexpected argument {rest[1]!r}: options are written --name=value.")
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # absl's own flags; else it warns of logging before parsing
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(_is_worth_a_line)
    logging.get_absl_handler().setFormatter(_Line())
    keep_compiled_programs()
    check_kernel()
    return program.run(values) or 0


def check_kernel() -> None:
    """Checks the environment variable BINSR_KERNEL (``binsr_jax.ops.native``), if it is set.

    Raises:
        UserError: It names no form that this machine can compile and run.
    """
    if os.environ.get("BINSR_KERNEL"):
        try:
            choose.chosen_form()
        except ValueError as error:
            raise UserError(f"The environment variable {error}.") from error


class _Line(python_logging.Formatter):
    """A line of the log: the time of day, ``warning:`` or ``error:`` if it is one, the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(kind)s%(message)s", "%H:%M:%S")

    def format(self, record: python_logging.LogRecord) -> str:
        calm = record.levelno < python_logging.WARNING
        record.kind = "" if calm else f"{record.levelname.lower()}: "
        return super().format(record)


def _is_worth_a_line(record: python_logging.LogRecord) -> bool:
    """Passes this package's lines and others' warnings.

    Orbax logs dozens of lines per checkpoint. It logs failures in its threads with a traceback,
    also through asyncio, and raises them as well; they are reported as one sentence.
    """
    # Names are untrusted and must not control the terminal.
    record.msg, record.args = printable_lines(record.getMessage()), ()
    ours = record.pathname.startswith(str(Path(__file__).parent))
    # TensorFlow Datasets warns of a missing dataset, which is reported as one sentence too.
    noisy = ("orbax", "tensorflow_datasets")
    noise = record.name == "asyncio" or any(name in record.pathname for name in noisy)
    return ours or (record.levelno >= python_logging.WARNING and not noise)


def _normalised(argument: str) -> str:
    """A flag in absl's spelling: ``--data-dir=X`` becomes ``--data_dir=X``."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def _with_recipe_file(argv: Sequence[str]) -> list[str]:
    """The arguments, with the recipe's name replaced by its file.

    Raises:
        UserError: There is no such recipe.
    """
    replaced = list(argv)
    for i, argument in enumerate(argv):
        match = re.fullmatch(r"(--?config)(?:=(.*))?", argument)
        if match is None or (match[2] is None and i + 1 == len(argv)):
            continue
        recipe, colon, variant = (argv[i + 1] if match[2] is None else match[2]).partition(":")
        spec = f"{recipe_file(recipe)}{colon}{variant}"
        if match[2] is None:
            replaced[i + 1] = spec
        else:
            replaced[i] = f"{match[1]}={spec}"
    return replaced


def _help(program: Program, name: str) -> str:
    """The text that ``binsr NAME --help`` prints."""
    lines = [f"usage: binsr {name} [options]", "", (program.__doc__ or "").strip(), "", "options:"]
    values = program.define_flags([])
    for flag in values:
        text = values[flag].help
        lines.append(f"  --{flag.replace('_', '-'):<16} {text}")
    if "config" in values:
        lines += ["", "fields of the config, with their defaults:"]
        lines += [line for field in FIELDS.items() for line in _field_help(*field)]
    return "\n".join(lines)


def _field_help(name: str, declaration: Field) -> list[str]:
    """The help lines of a field: how to set it, and its meaning."""
    rule = declaration.rule
    choices = rule.choices if rule else ()
    bound = f"; {rule.requirement}" if rule and not choices else ""
    text = declaration.meaning + bound + (f": {', '.join(choices)}" if choices else "")
    indent = " " * 6
    wrapped = textwrap.fill(text, 96, initial_indent=indent, subsequent_indent=indent)
    return [f"  --config.{name}={declaration.default!r}", wrapped]


def _with_lists(argv: Sequence[str]) -> list[str]:
    """The arguments, with lists as Python tuples, which ml_collections expects.

    It would take ``Set5,B100`` as one text. A repeated flag adds to the list.

    Raises:
        UserError: A list has an element that its field does not allow.
    """
    fields = flat_fields(default(), "config.")
    lists = {name: known for name, known in fields.items() if isinstance(known, tuple)}
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
            raise UserError(_wrong_value(name, text, lists[name]))
        written.append(f"--{name}={value!r}")
    return written


def _wrong_value(name: str, text: str, known: Any) -> str:
    """The error for a value that a config field cannot have; ``known`` is the field's default."""
    kind = _KINDS.get(type(known), "a text")
    usual = ",".join(map(str, known)) if isinstance(known, tuple) else repr(known)
    return f"{name} cannot be {text!r}: it is {kind}, such as {_EXAMPLES.get(name, usual)}."


def _flag_mistake(argv: Sequence[str], error: Exception) -> str:
    """The error for a wrong flag, a wrong field or value of the config, or a broken recipe."""
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
            hint = _did_you_mean(name, list(fields), "binsr train --help lists all.")
            return f"The config has no field {name}: {hint}"
        if f"--{name}={value}:" in text:  # the failed value of a repeated flag
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
    meant = similar(word, words)
    return f"did you mean {meant}?" if meant else otherwise
