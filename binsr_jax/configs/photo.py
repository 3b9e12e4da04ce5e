"""Photographs as cameras, chats and web pages leave them, enlarged: blind to blur, noise and JPEG.

A network trained on clean reductions sharpens the blocks and the ringing of a compressed picture.
This one is trained on reductions that are blurred a little, noisy and compressed, some of them
twice, and on a share of clean ones. It starts from a network trained on clean reductions.

    binsr unpack -o runs/clean
    binsr train --config photo --workdir runs/photo \
        --config.train.init_from=runs/clean --config.data.source=folder --config.data.dir=IMAGES
    binsr evaluate --workdir runs/photo --sets Set14,B100 --data-dir FOLDER
    binsr evaluate --workdir runs/photo --sets Set14,B100 --data-dir FOLDER --task sr

The last command scores it on clean reductions; ``--model FILE --task photo`` scores a clean network
on photographs. A variant names the scale (2, 3, 4) and the attention on the residual.
"""

from binsr_jax.config import Config, variant_fields
from binsr_jax.configs import bin_edsr

VARIANTS = {"scale": ("2", "3", "4"), "residual": ("spatial", "none", "se", "pixel")}


def get_config(variant: str = "") -> Config:
    """Returns the recipe."""
    fields = variant_fields(variant, **VARIANTS)
    config = bin_edsr.get_config(f"scale={fields['scale']},residual={fields['residual']}")
    config.task = "photo"
    config.model.image_skip = "bilinear"

    config.data.patch = {2: 96, 3: 96, 4: 128}[config.scale]
    config.data.sigma = (0.0, 12.0)
    config.data.quality = (40, 95)

    config.train.steps = 8_000
    config.train.batch = 8
    config.train.loss = "psnr"
    config.train.loss_epsilon = 5e-3
    config.train.luma_weight = 1.0
    config.train.learning_rate = 1e-3
    config.train.schedule = "cosine"
    config.train.warmup = 100
    config.train.final_rate = 1e-5
    config.train.ema = 0.998
    config.train.checkpoint_every = 250

    config.eval.every = 1_000
    return config
