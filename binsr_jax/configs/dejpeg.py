"""JPEG artifacts of colour pictures: one network for quality 5 to 95 and for 4:2:0 and 4:4:4.

BBCU's network for JPEG artifacts (``jpeg``) takes luma alone; this one takes R, G and B,
so that the chroma, which JPEG compresses most, is cleaned too. A tenth of the patches is grey.

    binsr train --config dejpeg --workdir runs/dejpeg \
        --config.data.source=folder --config.data.dir=IMAGES
    binsr evaluate --workdir runs/dejpeg --sets LIVE1 --data-dir FOLDER
    binsr evaluate --workdir runs/dejpeg --sets LIVE1 --data-dir FOLDER --task jpeg_444
    binsr evaluate --workdir runs/dejpeg --sets LIVE1,Classic5 --data-dir FOLDER --task jpeg

The second command scores R, G and B after JPEG with 4:2:0, the third with 4:4:4. The last one is
the papers' protocol: luma is compressed as a grey picture, which the network is given as three
equal channels. A variant names the unit of the body and the attention on its residual, and a run
can start from a denoiser of the same shape (``--config.train.init_from``).
"""

from binsr_jax.config import Config, variant_fields
from binsr_jax.configs import denoise

VARIANTS = {"unit": ("attention", "bbcu"), "residual": ("spatial", "none", "se", "pixel")}


def get_config(variant: str = "") -> Config:
    """Returns the recipe."""
    fields = variant_fields(variant, **VARIANTS)
    config = denoise.get_config()
    config.task = "jpeg_colour"
    config.model.unit = fields["unit"]
    if config.model.unit == "attention":
        config.model.residual_attention = fields["residual"]
    config.model.bias = "float"

    config.data.patch = 48
    config.data.quality = (5, 95)

    config.train.steps = 9_000
    config.train.batch = 8
    config.train.loss = "psnr"
    config.train.loss_epsilon = 3e-3
    config.train.learning_rate = 1e-3
    config.train.beta2 = 0.99
    config.train.schedule = "cosine"
    config.train.warmup = 100
    config.train.final_rate = 1e-5
    config.train.ema = 0.998
    config.train.checkpoint_every = 250

    config.eval.every = 1_000
    return config
