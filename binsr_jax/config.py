"""Configs: the defaults, variants, and their form as JSON and on a command line."""

import ast
import json
import reprlib
from typing import Any, cast

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from binsr_jax.errors import UserError
from binsr_jax.fields import Section
from binsr_jax.settings import FIELDS, Config, ModelConfig

__all__ = [
    "FIELDS",
    "LOCAL_FIELDS",
    "Config",
    "ModelConfig",
    "config_from_json",
    "config_to_json",
    "copy_of",
    "default",
    "field_value",
    "flat_fields",
    "list_value",
    "variant_fields",
]

# Fields that name local files and folders: they are not stored with a network.
LOCAL_FIELDS = (
    "data.dir",
    "data.sources",
    "data.cache_dir",
    "train.init_from",
    "train.perceptual_file",
    "train.teacher",
    "eval.data_dir",
)


def default() -> Config:
    """All fields of a config with their defaults; the papers' recipes are in ``configs/``."""
    config = ConfigDict()
    for name, declaration in FIELDS.items():
        *sections, key = name.split(".")
        place: Any = config
        for part in sections:
            if part not in place:
                place[part] = ConfigDict()
            place = place[part]
        place[key] = declaration.default
    return cast(Config, config)


def copy_of(config: Config) -> Config:
    """An unlocked copy."""
    return cast(Config, ConfigDict(config.to_dict()))


def variant_fields(variant: str, **choices: tuple[str, ...]) -> dict[str, str]:
    """The fields that the text after the colon in ``--config FILE:VARIANT`` sets.

    Args:
        variant: ``"name=value,name=value"``, or nothing.
        **choices: The possible names, each with its values; the first is the default.

    Returns:
        A value for every name.

    Raises:
        UserError: There is no such name or value; the sentence names the possible ones.
    """
    fields = {name: values[0] for name, values in choices.items()}
    for assignment in filter(None, variant.split(",")):
        name, _, value = assignment.partition("=")
        if value not in choices.get(name, ()):
            known = "; ".join(f"{n} = {', '.join(values)}" for n, values in choices.items())
            raise UserError(f"This recipe has no variant {assignment!r}: it has {known}.")
        fields[name] = value
    return fields


def flat_fields(config: Section | ConfigDict, prefix: str = "") -> dict[str, Any]:
    """The fields of a config, or of a part of it, by name: ``{"train.steps": 1000}``."""
    fields: dict[str, Any] = flatten_dict(config.to_dict(), sep=".")
    return {prefix + name: value for name, value in fields.items()}


def config_to_json(config: Config) -> dict[str, Any]:
    """The config as plain JSON values; tuples become lists."""
    return json.loads(json.dumps(config.to_dict()))


def config_from_json(values: dict[str, Any]) -> Config:
    """A config from JSON values; fields that they lack keep their defaults.

    Raises:
        UserError: They hold a field that this version does not know, or a value of another type.
    """
    config = default()
    _fill(config, values, "")
    return config.lock()


def _fill(target: Any, values: dict[str, Any], prefix: str) -> None:
    for key, value in values.items():
        if key not in target:
            raise _unknown_field(prefix + key, value)
        known = target[key]
        if isinstance(known, ConfigDict) and isinstance(value, dict):
            _fill(known, value, f"{prefix}{key}.")
        elif (fitting := field_value(prefix + key, known, value)) is not None:
            target[key] = fitting
        else:
            raise _unknown_field(prefix + key, value)


def field_value(name: str, known: Any, value: Any) -> Any:
    """The value in the type of the field, or None if it does not fit.

    Args:
        name: The name of the field, such as ``"eval.levels"``.
        known: What it is now.
        value: The new value. A list becomes a tuple, and an integer becomes a float.
    """
    if isinstance(known, tuple) and isinstance(value, list | tuple):
        kinds = FIELDS[name].elements
        if all(type(e) in kinds and (type(e) is not int or abs(e) < 2**53) for e in value):
            return tuple(kinds[0](element) for element in value)
        return None
    if type(value) is int and abs(value) >= 2**53:
        return None
    if type(known) is float and type(value) is int:
        return float(value)
    return value if type(value) is type(known) else None


def list_value(name: str, text: str) -> tuple[Any, ...] | None:
    """The value of a list field from its form on the command line: ``Set5,B100`` or ``2,3``.

    Args:
        name: The name of the field, such as ``"eval.sets"``.
        text: The elements, with commas between them; or a Python tuple or list.

    Returns:
        The value, or None if the field cannot have it.
    """
    try:
        value = ast.literal_eval(text) if text.strip() else ()
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, tuple | list):
        value = () if value is None else (value,)
    fitting = field_value(name, (), value) if value or text.strip() in ("", "()", "[]") else None
    if fitting is None and FIELDS[name].elements == (str,) and text.strip()[:1] not in "([":
        fitting = tuple(filter(None, (part.strip() for part in text.split(","))))
    return fitting


def _unknown_field(name: str, value: Any) -> UserError:
    return UserError(
        f"The stored config has the field {reprlib.repr(name)[1:-1]} = {reprlib.repr(value)}, "
        "which this version of binsr-jax does not take: use the version that wrote it."
    )
