"""Limits of networks that are read from files, since a small file can describe a huge network."""

from binsr_jax.config import Config
from binsr_jax.errors import UserError
from binsr_jax.nn.units import UNITS

_MAX_FIELDS = {"blocks": 64}
_MAX_SIZE = 4096  # most features, blocks and so on
_MAX_NUMBER = 10**6  # largest magnitude of a number among the network's settings
_MAX_HISTORY = 32  # most convolutions that each take the outputs of all previous ones


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
