"""Limits of what files say of a network: a small file can describe a huge one, or hold any text."""

import math
from typing import Any

from binsr_jax.config import Config
from binsr_jax.errors import UserError
from binsr_jax.nn.units import UNITS

_MAX_FIELDS = {"blocks": 64}
_MAX_SIZE = 4096  # most features, blocks and so on
_MAX_NUMBER = 10**6  # largest magnitude of a number among the network's settings
_MAX_HISTORY = 32  # most convolutions that each take the outputs of all previous ones
_MAX_TEXT = 1000  # characters
_MAX_DEPTH = 6
_PROVENANCE = {
    "steps": int,
    "source": str,
    "data": str,
    "scores": dict,
    "package": str,
    "name": str,
    "terms": str,
}


def check_network(config: Config) -> None:
    """Refuses a network with numbers beyond the limits, which bound the work of building it.

    Raises:
        UserError: A number is too large; the message names the field and its limit.
    """
    model = config.model
    for field, value in model.items():
        if type(value) is int and value > (limit := _MAX_FIELDS.get(field, _MAX_SIZE)):
            raise UserError(f"its config.model.{field} is above {limit}")
        if isinstance(value, float) and not abs(value) < _MAX_NUMBER:
            raise UserError(f"its config.model.{field} is not within +-{_MAX_NUMBER}")
    # Such a body is one unit, and its compile time grows with the square of its length.
    convolutions = model.blocks if model.name == "dncnn" else 2 * model.blocks
    unit = UNITS.get(model.unit)
    if unit is not None and not unit.convolutions and convolutions > _MAX_HISTORY:
        raise UserError(
            f"its unit {model.unit} takes all previous outputs, which is limited to "
            f"{_MAX_HISTORY} convolutions, and it has {convolutions}"
        )


def known_provenance(provenance: dict[str, Any]) -> dict[str, Any]:
    """The bounded entries of a provenance that this version knows and that are of their types."""
    provenance = bounded(provenance)
    known = {n: provenance[n] for n, kind in _PROVENANCE.items() if type(provenance.get(n)) is kind}
    known["scores"] = {
        name: value
        for name, value in known.get("scores", {}).items()
        if type(value) in (int, float)
    }
    if not known["scores"]:
        del known["scores"]
    if known.get("steps", 0) < 0:
        del known["steps"]
    return known


def bounded(provenance: dict[str, Any]) -> dict[str, Any]:
    """The part of a provenance that can be shown; the rest is left out.

    Texts are printable and have at most 1000 characters, so that they cannot control a terminal.
    Integers are below 2^53, all other numbers are finite, and the nesting is at most 6 deep.
    """
    kept = _bounded(provenance, _MAX_DEPTH)
    return kept if isinstance(kept, dict) else {}


def _bounded(value: Any, depth: int) -> Any:
    """The value without its parts that are out of bounds, or ``...`` if nothing is left."""
    if isinstance(value, dict | list | tuple):
        if depth == 0:
            return ...
        if isinstance(value, dict):
            inner = {n: _bounded(v, depth - 1) for n, v in value.items() if _is_text(n)}
            return {name: v for name, v in inner.items() if v is not ...}
        items = [_bounded(each, depth - 1) for each in value]
        return ... if ... in items else items  # a list with a hole would mean something else
    if isinstance(value, str):
        return value if _is_text(value) else ...
    if value is None or isinstance(value, bool):
        return value
    fits = abs(value) < 1 << 53 if isinstance(value, int) else math.isfinite(value)
    return value if fits else ...


def _is_text(value: str) -> bool:
    return len(value) <= _MAX_TEXT and value.isprintable()
