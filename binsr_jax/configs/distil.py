"""A 1-bit network that imitates a float one: Real-ESRGAN's sharpness without a discriminator.

A network that is trained against a discriminator invents plausible detail. What it makes is still a
function of its input, so a second network can learn it by plain regression. The teacher is a float
network, here one of Real-ESRGAN's (Wang et al., "Real-ESRGAN: Training Real-World Blind
Super-Resolution with Pure Synthetic Data"): ``realesr_general_x4v3`` for photographs,
``realesr_animevideov3_x4`` for drawings. Windows of the training images are degraded, the teacher
restores them once, and both are kept (``config.data.taught``); a step reads them as it reads any
pair of pictures.

    binsr import-torch realesr_general_x4v3.safetensors --arch srvgg -o runs/general
    binsr train --config distil --workdir runs/sharp \
        --config.train.teacher=runs/general --config.train.init_from=models/x4.safetensors \
        --config.data.source=folder --config.data.dir=IMAGES
    binsr evaluate --workdir runs/sharp --teacher runs/general --sets B100 --data-dir FOLDER
    binsr pack --workdir runs/sharp -o sharp.binsr

The third command scores the agreement with the teacher on pictures that it was not trained on. The
training's own validations, by which the best checkpoint is chosen, score it too. Against the
original pictures such a network has a lower PSNR than one that was trained on them: that is the
price of sharpness.

At x2 the target is the teacher's x4 picture, reduced by the bicubic. A variant names the scale, the
degradation (``photo``, or ``real``, Real-ESRGAN's two rounds) and the attention on the residual.
"""

from binsr_jax.config import Config, variant_fields
from binsr_jax.configs import photo

VARIANTS = {
    "scale": ("4", "2"),
    "degradation": ("photo", "real"),
    "residual": ("spatial", "none", "se", "pixel"),
}


def get_config(variant: str = "") -> Config:
    """Returns the recipe."""
    fields = variant_fields(variant, **VARIANTS)
    config = photo.get_config(f"scale={fields['scale']},residual={fields['residual']}")
    config.task = fields["degradation"]
    if config.task == "photo":
        config.eval.levels = (60,)

    config.data.taught = 10_000
    config.data.window = 192
    config.real.margin = 64  # smaller than Real-ESRGAN's, so that smaller pictures serve

    config.train.luma_weight = 0.0
    config.train.loss = "charbonnier"
    config.train.loss_epsilon = 1e-3
    return config
