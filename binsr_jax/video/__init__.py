"""Videos and animated pictures: frame by frame through a network, with all else kept."""

import importlib.util

from binsr_jax.errors import UserError


def require_av() -> None:
    """Raises UserError if PyAV is not installed."""
    if importlib.util.find_spec("av") is None:
        raise UserError(
            "Videos are read and written by PyAV, which is not installed: pip install "
            "'binsr-jax[video]' gets it."
        )
