"""Binary EDSR with attention on either branch, by the recipe of the attention paper.

"Efficient Image Super Resolution Using Attention In Binary Neural Networks": 16 blocks of 64
channels, binary but for the first and the last convolution, trained on DIV2K for 300,000 steps.

    binsr train --config bin_edsr --workdir runs/bin_edsr
    binsr train --config bin_edsr:residual=spatial,binary=se --workdir runs/best

A variant names the attention on the residual and on the binary branch (none, se, spatial, pixel),
and the scale (2, 3, 4). Published in the author's final table for x2, on Set5 / Set14 / B100 /
Urban100: without attention 37.61 / 33.09 / 31.85 / 30.79 dB; residual=spatial,binary=se 37.68 /
33.17 / 31.91 / 31.08 dB. The full recipe wants an accelerator; on two CPU cores a step takes
seconds.
"""

from binsr_jax.config import Config, default, variant_fields

_ATTENTION = ("none", "se", "spatial", "pixel")


def get_config(variant: str = "") -> Config:
    """Returns the recipe."""
    fields = variant_fields(variant, residual=_ATTENTION, binary=_ATTENTION, scale=("2", "3", "4"))
    config = default()
    config.scale = int(fields["scale"])

    config.model.unit = "attention"
    config.model.features = 64
    config.model.blocks = 16
    config.model.residual_attention = fields["residual"]
    config.model.binary_attention = fields["binary"]
    config.model.amplification = 130.0

    config.data.source = "tfds"
    config.data.patch = 128 if config.scale != 3 else 126  # a multiple of the scale

    config.train.steps = 300_000
    config.train.batch = 16
    config.train.loss = "l1"
    config.train.learning_rate = 1e-4
    config.train.beta1 = 0.9
    config.train.beta2 = 0.99
    config.train.schedule = "multistep"
    config.train.milestones = (200_000,)
    config.train.decay = 0.5
    config.train.checkpoint_every = 1_000

    config.eval.every = 5_000
    return config
