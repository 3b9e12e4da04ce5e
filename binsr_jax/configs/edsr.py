"""Vanilla EDSR in floats: the network that the binary ones are measured against.

Lim et al., "Enhanced Deep Residual Networks for Single Image Super-Resolution", the baseline of 16
blocks of 64 channels; trained by the recipe ``bin_edsr``, as the attention paper does.

    binsr train --config edsr --workdir runs/edsr
    binsr train --config edsr:scale=4,size=full --workdir runs/edsr_full

A variant names the scale (2, 3, 4) and the size (baseline; or full: 32 blocks of 256 channels,
residual scale 0.1). Published for the baseline at x2, on Set5 / Set14 / B100 / Urban100: 38.05 /
33.57 / 32.19 / 32.04 dB.
"""

from binsr_jax.config import Config, variant_fields
from binsr_jax.configs import bin_edsr


def get_config(variant: str = "") -> Config:
    """Returns the recipe."""
    fields = variant_fields(variant, scale=("2", "3", "4"), size=("baseline", "full"))
    config = bin_edsr.get_config(f"scale={fields['scale']}")
    config.model.unit = "residual"
    config.model.head_activation = "none"
    config.model.body_end = "conv"
    config.model.upsampler = "float"
    if fields["size"] == "full":
        config.model.features = 256
        config.model.blocks = 32
        config.model.residual_scale = 0.1
    return config
