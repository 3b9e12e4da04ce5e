"""The units that a backbone is built from.

To add a unit, write a class that keeps the contract of ``binsr_jax.nn.units.base.Unit``, and add it
to ``UNITS``.
"""

from binsr_jax.nn.units.attention import (
    AttentionUnit,
    Base,
    Both,
    Dual,
    RescalePost,
    RescalePre,
    Single,
)
from binsr_jax.nn.units.base import Unit
from binsr_jax.nn.units.baselines import (
    BAM,
    BNN,
    BTM,
    BiReal,
    FloatUnit,
    IRNet,
    ReActNet,
    ResidualBlock,
)
from binsr_jax.nn.units.bbcu import BBCU, BBCUV2

UNITS: dict[str, type[Unit]] = {
    "residual": ResidualBlock,
    "float": FloatUnit,
    "bnn": BNN,
    "bireal": BiReal,
    "reactnet": ReActNet,
    "bbcu_v2": BBCUV2,
    "bbcu": BBCU,
    "irnet": IRNet,
    "btm": BTM,
    "bam": BAM,
    "attention": AttentionUnit,
    "base": Base,
    "rescale_pre": RescalePre,
    "rescale_post": RescalePost,
    "single": Single,
    "dual": Dual,
    "both": Both,
}
