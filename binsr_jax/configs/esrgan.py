"""ESRGAN: a float network trained for PSNR, then against a discriminator.

Wang et al., "ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks": RRDBNet of 23
blocks of 64 channels; DIV2K, batches of 16 patches of 128x128. First 1,000,000 steps of L1 alone;
then 400,000 with 0.01 L1 + 1 perceptual (VGG19's conv5_4 before its activation) + 0.005 adversarial
(relativistic average), against a VGG-style discriminator.

    binsr train --config esrgan --workdir runs/esrgan_psnr
    binsr train --config esrgan:stage=gan --workdir runs/esrgan \\
        --config.train.init_from=runs/esrgan_psnr --config.train.perceptual_file=vgg19.safetensors
    binsr evaluate --workdir runs/esrgan --which latest --sets Set5

The second stage lowers PSNR on purpose, so its last checkpoint is the one to take, and ``binsr pack
--which latest`` packs it. The weights of VGG19 are torchvision's, which do not come with binsr-jax.

A step of the first stage has about 0.9 T multiply-accumulates, three times those of the network on
16 patches: 1,000,000 steps are a day on a GPU that sustains 20 TFLOP/s, and years on two CPU cores.
Not trained here to the end. ``blocks=6`` is the smaller network of Real-ESRGAN's anime model.
"""

from binsr_jax.config import Config, default, variant_fields
from binsr_jax.recipes import Published

VARIANTS = {"stage": ("psnr", "gan"), "blocks": ("23", "6"), "scale": ("4", "2")}
ROWS = {
    "stage=psnr": Published(title="RRDBNet, PSNR"),
    "stage=gan": Published(title="ESRGAN"),
}


def get_config(variant: str = "") -> Config:
    """Returns the recipe."""
    fields = variant_fields(variant, **VARIANTS)
    config = default()
    config.scale = int(fields["scale"])

    config.model.name = "rrdbnet"
    config.model.features = 64
    config.model.blocks = int(fields["blocks"])
    config.model.growth = 32
    config.model.amplification = 1.0

    config.data.source = "tfds"
    config.data.patch = 128

    config.train.batch = 16
    config.train.loss = "l1"
    config.train.beta1 = 0.9
    config.train.beta2 = 0.99
    config.train.schedule = "multistep"
    config.train.decay = 0.5
    config.train.checkpoint_every = 5_000
    config.eval.every = 5_000
    if fields["stage"] == "psnr":
        config.train.steps = 1_000_000
        config.train.learning_rate = 2e-4
        config.train.milestones = (200_000, 400_000, 600_000, 800_000)
        return config

    config.train.steps = 400_000
    config.train.learning_rate = 1e-4
    config.train.discriminator_rate = 1e-4
    config.train.milestones = (50_000, 100_000, 200_000, 300_000)
    config.train.ema = 0.999
    config.train.pixel_weight = 1e-2
    config.train.perceptual_weight = 1.0
    config.train.perceptual_layers = ("conv5_4=1",)
    config.train.gan_weight = 5e-3
    config.train.gan_loss = "relativistic"
    config.train.discriminator = "vgg"
    return config
