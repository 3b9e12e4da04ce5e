"""Real-ESRGAN: enlarging pictures that were blurred, resized, made noisy and compressed, twice.

Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data":
RRDBNet of 23 blocks of 64 channels; batches of 48 patches of 256x256, degraded as the fields of
``config.real`` say, whose defaults are the paper's. First 1,000,000 steps of L1 (Real-ESRNet), from
ESRGAN's network; then 400,000 with L1 + perceptual (five of VGG19's layers) + 0.1 adversarial,
against a U-Net with spectral normalisation. Targets of L1 and of VGG19 are sharpened.

    binsr train --config realesrgan --workdir runs/realesrnet \\
        --config.train.init_from=runs/esrgan_psnr
    binsr train --config realesrgan:stage=gan --workdir runs/realesrgan \\
        --config.train.init_from=runs/realesrnet --config.train.perceptual_file=vgg19.safetensors
    binsr pack --workdir runs/realesrgan --which latest -o realesrgan.binsr

The paper trains on DF2K and OutdoorSceneTraining; this recipe on DIV2K. It has no row of PSNR: what
it restores has no one answer. ``network=srvgg`` is the compact network of 32 convolutions of the
later general-x4v3 model, ``network=anime`` RRDBNet with 6 blocks.

A step has about 11 T multiply-accumulates, three times those of the network on 48 patches:
1,000,000 steps are two weeks on a GPU that sustains 20 TFLOP/s, and the compact network's one. Not
trained here to the end. Degrading a patch takes about 0.09 s on two CPU cores, so a GPU needs many
of ``config.data.workers``.
"""

from binsr_jax.config import Config, default, variant_fields
from binsr_jax.recipes import Published

VARIANTS = {
    "stage": ("net", "gan"),
    "network": ("rrdbnet", "anime", "srvgg"),
    "scale": ("4", "2"),
}
ROWS = {
    "stage=net": Published(title="Real-ESRNet"),
    "stage=gan": Published(title="Real-ESRGAN"),
}


def get_config(variant: str = "") -> Config:
    """Returns the recipe."""
    fields = variant_fields(variant, **VARIANTS)
    config = default()
    config.task = "real"
    config.scale = int(fields["scale"])

    config.model.name = "srvgg" if fields["network"] == "srvgg" else "rrdbnet"
    config.model.features = 64
    config.model.blocks = {"rrdbnet": 23, "anime": 6, "srvgg": 32}[fields["network"]]
    config.model.growth = 32
    config.model.activation = "prelu"
    config.model.amplification = 1.0

    config.data.source = "tfds"
    config.data.patch = 256
    config.data.rotate = False
    config.data.workers = 8

    config.train.batch = 48
    config.train.loss = "l1"
    config.train.beta1 = 0.9
    config.train.beta2 = 0.99
    config.train.schedule = "constant"
    config.train.ema = 0.999
    config.train.checkpoint_every = 5_000
    config.eval.every = 5_000
    if fields["stage"] == "net":
        config.train.steps = 1_000_000
        config.train.learning_rate = 2e-4
        return config

    config.train.steps = 400_000
    config.train.learning_rate = 1e-4
    config.train.discriminator_rate = 1e-4
    config.train.perceptual_weight = 1.0
    config.train.perceptual_layers = (
        "conv1_2=0.1",
        "conv2_2=0.1",
        "conv3_4=1",
        "conv4_4=1",
        "conv5_4=1",
    )
    config.train.gan_weight = 0.1
    config.train.gan_loss = "vanilla"
    config.train.discriminator = "unet"
    return config
