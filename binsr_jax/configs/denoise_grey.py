"""Grey denoising on DnCNN: a network for each noise level, or a blind one.

Zhang et al., "Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image Denoising": 17
layers of 64 channels for one level, 20 for all levels in 0..55; patches of 40x40 in batches of 128,
50 epochs of 1,600 batches, which take about 3 hours on one GPU and days on a CPU.

    binsr train --config denoise_grey:sigma=25 --workdir runs/dncnn_25
    binsr train --config denoise_grey:row=bbcu,sigma=25 --workdir runs/bbcu_25

Here it has no batch normalisation: in inference the convolutions hold it, as in KAIR's files, which
``binsr import-torch`` reads with or without it. The paper trains on 400 images by SGD; this recipe
on DIV2K by Adam with a cosine schedule. ``row=bbcu`` is the same network of BBCU's binary units.
"""

from binsr_jax.config import Config, default, variant_fields
from binsr_jax.recipes import Published

VARIANTS = {"row": ("dncnn", "bbcu"), "sigma": ("25", "15", "50", "blind")}

ROWS = {
    f"row=dncnn,sigma={sigma}": Published(title=f"DnCNN, grey noise, {sigma}")
    for sigma in VARIANTS["sigma"]
}


def get_config(variant: str = "") -> Config:
    """Returns the recipe."""
    fields = variant_fields(variant, **VARIANTS)
    blind = fields["sigma"] == "blind"
    config = default()
    config.task = "denoise_grey"
    config.scale = 1

    config.model.name = "dncnn"
    config.model.features = 64
    config.model.blocks = 18 if blind else 15  # convolutions between the first and the last
    config.model.head_activation = "relu"
    config.model.unit = "float" if fields["row"] == "dncnn" else "bbcu"
    config.model.amplification = 1.0 if fields["row"] == "dncnn" else 130.0

    config.data.source = "tfds"
    config.data.patch = 40
    sigma = (0.0, 55.0) if blind else (float(fields["sigma"]),) * 2
    config.data.sigma = sigma

    config.train.steps = 80_000
    config.train.batch = 128
    config.train.loss = "l2"
    config.train.learning_rate = 1e-3
    config.train.beta2 = 0.999
    config.train.schedule = "cosine"

    config.eval.every = 5_000
    if not blind:
        config.eval.levels = (int(fields["sigma"]),)
    return config
