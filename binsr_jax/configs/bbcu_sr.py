"""Binary networks on SRResNet: the super-resolution tables of the BBCU paper.

Xia et al., "Basic Binary Convolution Unit for Binarized Image Restoration Network", tables for x2
and x4, and the ablation from V1 to V4. SRResNet without batch normalisation, 16 blocks of 64
channels and a convolution at HR; the binary rows have a binary body, and BBCU-M a binary upsampler
and HR convolution too. DIV2K, 300,000 steps of 16 patches of 32x32 LR pixels.

    binsr train --config bbcu_sr --workdir runs/bbcu_l
    binsr train --config bbcu_sr:row=bbcu_m,scale=4 --workdir runs/bbcu_m_x4

Published PSNR on Y in dB, operations at an LR image of 320x180 and parameters, both with a binary
one counted as 1/64 and 1/32:

    row                x2: OPs, Params, Set5 / Urban100      x4
    srresnet           85.43 G  1367 K  38.00 / 32.11        146.14 G  1515 K  32.16 / 26.11
    srresnet_lite       3.08 G    49 K  37.21 / 30.48          5.39 G    54 K  31.40 / 25.19
    bnn                18.55 G   225 K  32.25 / 25.96         79.20 G   372 K  27.56 / 22.68
    bireal             18.55 G   225 K  32.32 / 26.35         79.20 G   372 K  27.75 / 22.91
    bam                20.52 G   226 K  37.21 / 30.20         81.17 G   373 K  31.24 / 24.95
    irnet              18.55 G   225 K  37.27 / 30.63         79.20 G   372 K  31.38 / 25.21
    btm                18.55 G   225 K  37.22 / 30.79         79.20 G   372 K  31.43 / 25.34
    reactnet           18.55 G   225 K  37.26 / 30.85         79.20 G   372 K  31.54 / 25.35
    bbcu_m              1.83 G    46 K  37.44 / 30.84          3.95 G    51 K  31.54 / 25.35
    bbcu_l             18.55 G   225 K  37.58 / 31.12         79.20 G   372 K  31.79 / 25.62

Rows v1 to v4 are the steps of the ablation: ReActNet's order, without batch normalisation, with the
amplification k = 130 n / 64 of n channels, with the activation before the sum (= bbcu_l). Only v3
and what comes after it have k: it is the paper's own, and 1 in the rows of others.
"""

from binsr_jax.config import Config, default, variant_fields
from binsr_jax.recipes import Published

# The unit of a row, and what it has beside the defaults of the table.
_ROWS = {
    "bbcu_l": {"unit": "bbcu", "amplification": 130.0},
    "bbcu_m": {
        "unit": "bbcu",
        "amplification": 130.0,
        "upsampler": "binary",
        "hr_conv": "binary",
    },
    "srresnet": {"unit": "residual"},
    "srresnet_lite": {"unit": "residual", "features": 12},
    "bnn": {"unit": "bnn"},
    "bireal": {"unit": "bireal"},
    "bam": {"unit": "bam"},
    "irnet": {"unit": "irnet"},
    "btm": {"unit": "btm"},
    "reactnet": {"unit": "reactnet"},
    "v1": {"unit": "reactnet"},
    "v2": {"unit": "bbcu_v2"},
    "v3": {"unit": "bbcu_v2", "amplification": 130.0},
    "v4": {"unit": "bbcu", "amplification": 130.0},
}
VARIANTS = {"row": tuple(_ROWS), "scale": ("2", "3", "4")}

_SETS = ("Set5", "Set14", "B100", "Urban100", "Manga109")
_TABLE = (
    # row, title, scale, OPs, Params, PSNR
    ("srresnet", "SRResNet", 2, 85.43, 1367, (38.00, 33.59, 32.19, 32.11, 38.56)),
    ("srresnet_lite", "SRResNet-Lite", 2, 3.08, 49, (37.21, 32.86, 31.67, 30.48, 36.70)),
    ("bnn", "BNN", 2, 18.55, 225, (32.25, 29.25, 28.68, 25.96, 29.16)),
    ("bireal", "Bi-Real", 2, 18.55, 225, (32.32, 29.47, 28.74, 26.35, 29.64)),
    ("bam", "BAM", 2, 20.52, 226, (37.21, 32.74, 31.60, 30.20)),
    ("irnet", "IR-Net", 2, 18.55, 225, (37.27, 32.92, 31.76, 30.63, 36.77)),
    ("btm", "BTM", 2, 18.55, 225, (37.22, 32.93, 31.77, 30.79, 36.76)),
    ("reactnet", "ReActNet", 2, 18.55, 225, (37.26, 32.97, 31.81, 30.85, 36.92)),
    ("bbcu_m", "BBCU-M", 2, 1.83, 46, (37.44, 33.04, 31.81, 30.84, 37.20)),
    ("bbcu_l", "BBCU-L", 2, 18.55, 225, (37.58, 33.18, 31.91, 31.12, 37.50)),
    ("srresnet", "SRResNet", 4, 146.14, 1515, (32.16, 28.60, 27.58, 26.11, 30.46)),
    ("srresnet_lite", "SRResNet-Lite", 4, 5.39, 54, (31.40, 28.11, 27.26, 25.19, 28.92)),
    ("bnn", "BNN", 4, 79.20, 372, (27.56, 25.51, 25.54, 22.68, 24.19)),
    ("bireal", "Bi-Real", 4, 79.20, 372, (27.75, 25.79, 25.59, 22.91, 24.57)),
    ("bam", "BAM", 4, 81.17, 373, (31.24, 27.97, 27.15, 24.95)),
    ("irnet", "IR-Net", 4, 79.20, 372, (31.38, 28.08, 27.24, 25.21, 28.97)),
    ("btm", "BTM", 4, 79.20, 372, (31.43, 28.16, 27.29, 25.34, 29.19)),
    ("reactnet", "ReActNet", 4, 79.20, 372, (31.54, 28.19, 27.31, 25.35, 29.25)),
    ("bbcu_m", "BBCU-M", 4, 3.95, 51, (31.54, 28.20, 27.31, 25.35, 29.22)),
    ("bbcu_l", "BBCU-L", 4, 79.20, 372, (31.79, 28.38, 27.41, 25.62, 29.69)),
)
_SSIM = {
    ("bbcu_l", 2): (0.9590, 0.9143, 0.8962, 0.9179, 0.9746),
    ("bbcu_l", 4): (0.8905, 0.7762, 0.7303, 0.7696, 0.8992),
}
ROWS = {
    f"row={row},scale={scale}": Published(
        title=f"{title} x{scale}",
        scores=dict(zip(_SETS, psnr, strict=False)),  # BAM has no Manga109
        ssim=dict(zip(_SETS, _SSIM.get((row, scale), ()), strict=False)),
        operations=operations,
        parameters=parameters,
    )
    for row, title, scale, operations, parameters, psnr in _TABLE
} | {f"row=v{step},scale=2": Published(title=f"V{step} x2") for step in (1, 2, 3, 4)}


def get_config(variant: str = "") -> Config:
    """Returns the recipe."""
    fields = variant_fields(variant, **VARIANTS)
    config = default()
    config.scale = int(fields["scale"])

    config.model.name = "srresnet"
    config.model.features = 64
    config.model.blocks = 16
    config.model.upsampler = "float"
    config.model.hr_conv = "float"
    config.model.bias = "float"
    config.model.head_activation = "leaky_relu"
    config.model.image_skip = "bilinear"
    config.model.amplification = 1.0
    config.model.update(_ROWS[fields["row"]])

    config.data.source = "tfds"
    config.data.patch = 32 * config.scale

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
