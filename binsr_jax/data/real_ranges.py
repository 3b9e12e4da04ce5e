"""Reads the settings of Real-ESRGAN's degradation from a config."""

import math
from typing import Any

from binsr_jax.config import Config
from binsr_jax.data.real_degradation import KERNELS, Order, RealDegradation
from binsr_jax.errors import UserError
from binsr_jax.settings import RealConfig

_RANGES = {  # of each pair of numbers: the least and the greatest allowed value
    "sigma": (0.05, 20),
    "generalised": (0.05, 20),
    "plateau": (0.05, 20),
    "factor": (0.02, 8),
    "noise": (0, 255),
    "poisson": (0, 20),
    "quality": (1, 100),
    "sizes": (1, 63),
    "cutoff_small": (0.01, 1.5),
    "cutoff_large": (0.01, 1.5),
    "final_cutoff": (0.01, 1.5),
}
_SHARES = {"kernels": len(KERNELS), "resize": 3}


def random_real(config: Config) -> RealDegradation:
    """The degradation that ``config.real`` describes.

    Raises:
        UserError: A field has a value that is not allowed.
    """
    real = config.real
    margin = real.margin
    if margin < 0 or margin % config.scale:
        raise UserError(
            f"config.real.margin is {margin}, but must be a multiple of the scale, {config.scale}."
        )
    sizes = _pair(real, "sizes")
    if any(size % 2 == 0 for size in sizes):
        raise UserError(f"config.real.sizes is {sizes}, but must hold two odd numbers.")
    if not 0 <= real.sharpen <= 10:
        raise UserError(f"config.real.sharpen is {real.sharpen}, but must be in 0..10.")
    return RealDegradation(
        scale=config.scale,
        margin=margin,
        first=_order(real, "_1"),
        second=_order(real, "_2"),
        sizes=sizes,
        cutoff_small=_pair(real, "cutoff_small"),
        cutoff_large=_pair(real, "cutoff_large"),
        final_sinc=_share(real, "final_sinc"),
        final_cutoff=_pair(real, "final_cutoff"),
        sharpen=real.sharpen,
    )


def _order(real: RealConfig, suffix: str) -> Order:
    ranges = ("sigma", "generalised", "plateau", "factor", "noise", "poisson", "quality")
    fields: dict[str, Any] = {name: _pair(real, name, suffix) for name in ranges}
    fields |= {name: _share(real, name + suffix) for name in ("blur", "sinc", "gaussian", "grey")}
    for name, count in _SHARES.items():
        shares = tuple(real[name + suffix])
        if len(shares) != count or not all(s >= 0 and math.isfinite(s) for s in shares):
            raise _wrong(name + suffix, shares, f"must hold {count} shares of at least 0")
        if not sum(shares):
            raise _wrong(name + suffix, shares, "must hold a share above 0")
        fields[name] = shares
    low, high = fields["factor"]
    if not low <= 1 <= high:
        raise _wrong(f"factor{suffix}", (low, high), "must hold 1 between its ends")
    return Order(**fields)


def _pair(real: RealConfig, name: str, suffix: str = "") -> tuple[Any, Any]:
    """The two ends of a range."""
    ends, (least, most) = tuple(real[name + suffix]), _RANGES[name]
    if len(ends) != 2 or not least <= ends[0] <= ends[1] <= most:
        raise _wrong(
            name + suffix, ends, f"must be two numbers in {least}..{most}, the lower first"
        )
    return ends


def _share(real: RealConfig, name: str) -> float:
    if not 0 <= real[name] <= 1:
        raise _wrong(name, real[name], "must be a share in 0..1")
    return real[name]


def _wrong(name: str, value: Any, requirement: str) -> UserError:
    return UserError(f"config.real.{name} is {value}, but {requirement}.")
