"""Declarations of config fields, each with its default, meaning and rule."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from binsr_jax.errors import UserError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Rule:
    """A condition on a value.

    Attributes:
        holds: Returns whether a value follows the rule.
        requirement: The rule in words, such as "must be at least 1".
        choices: The allowed values, if these are a few texts.
    """

    holds: Callable[[Any], bool]
    requirement: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Field:
    """A declared field.

    Attributes:
        default: The value, unless a recipe or the command line sets another one.
        meaning: One phrase, which ``binsr train --help`` prints.
        rule: The rule for its values, or None.
        elements: For a tuple: the type of its elements, then other types that are converted to it.
    """

    default: Any
    meaning: str
    rule: Rule | None = None
    elements: tuple[type, ...] = (str,)


def field(
    default: Value, meaning: str, rule: Rule | None = None, elements: tuple[type, ...] = (str,)
) -> Value:
    """Declares a field of a ``Section``; see ``Field``. A type checker sees its default."""
    return cast(Value, Field(default, meaning, rule, elements))


Part = TypeVar("Part", bound="Section")


def section(part: type[Part]) -> Part:
    """Declares a section within a section. A type checker sees an instance."""
    return cast(Part, part)


class Section:
    """A part of a config, with its declared fields.

    At run time a config is an ``ml_collections.ConfigDict``, so that recipes and the command line
    can set its fields. The subclasses of ``Section`` declare its fields, and are its types for a
    type checker. They have no instances.
    """

    if TYPE_CHECKING:

        def lock(self) -> Self: ...
        def unlock(self) -> Self: ...
        def unlocked(self) -> AbstractContextManager[Self]: ...
        def copy_and_resolve_references(self) -> Self: ...
        def update_from_flattened_dict(self, values: Mapping[str, Any]) -> None: ...
        def to_dict(self) -> dict[str, Any]: ...
        def update(self, *values: Mapping[str, Any], **others: Any) -> None: ...
        def items(self) -> Iterable[tuple[str, Any]]: ...
        def keys(self) -> Iterable[str]: ...
        def get(self, name: str, default: Any = None) -> Any: ...
        def __iter__(self) -> Iterator[str]: ...
        def __contains__(self, name: object) -> bool: ...
        def __getitem__(self, name: str) -> Any: ...
        def __setitem__(self, name: str, value: Any) -> None: ...


def declared(section: type[Section], prefix: str = "") -> dict[str, Field]:
    """The fields of a section and of its subsections, by name: ``{"train.steps": Field}``."""
    fields: dict[str, Field] = {}
    for name, value in vars(section).items():
        if isinstance(value, Field):
            fields[prefix + name] = value
        elif isinstance(value, type) and issubclass(value, Section):
            fields |= declared(value, f"{prefix}{name}.")
    return fields


def check(fields: Mapping[str, Field], config: Any) -> None:
    """Checks every field of a config by its own rule.

    Args:
        fields: The fields to check, by names such as ``"train.steps"``.
        config: The whole config.

    Raises:
        UserError: A value breaks its rule; the message names the field, the value and the rule.
    """
    for name, declaration in fields.items():
        rule = declaration.rule
        value = config
        for part in name.split("."):
            value = value[part]
        if rule is not None and not rule.holds(value):
            shown = repr(value) if isinstance(value, str) else value
            raise UserError(f"config.{name} is {shown}, but {rule.requirement}.")


def one_of(*choices: str) -> Rule:
    """The rule that a value is one of these texts."""
    return Rule(lambda value: value in choices, f"must be one of: {', '.join(choices)}", choices)


AT_LEAST_0 = Rule(lambda value: value >= 0, "must be at least 0")
AT_LEAST_1 = Rule(lambda value: value >= 1, "must be at least 1")
ABOVE_0 = Rule(lambda value: 0 < value < math.inf, "must be above 0")
FINITE = Rule(math.isfinite, "must be finite")
MILLION = Rule(lambda value: 1e-6 <= value <= 1e6, "must lie in 1e-6..1e6")
BELOW_1 = Rule(lambda value: 0 <= value < 1, "must be at least 0 and below 1")
PART = Rule(lambda value: 0 < value <= 1, "must be above 0 and at most 1")
UINT32 = Rule(lambda value: 0 <= value < 2**32, f"must lie in 0..{2**32 - 1}")
