"""Colour denoising on DnCNN: the table of the BBCU paper.

Xia et al., "Basic Binary Convolution Unit for Binarized Image Restoration Network": one network for
all noise levels, trained with sigma drawn from 0..75 for each patch. 20 layers of 64 channels, of
which the 18 in the middle are binary. DIV2K, batches of 32 patches of 64x64. The paper does not say
when it stops; 500,000 steps are 100,000 after the last change of the rate.

    binsr train --config denoise --workdir runs/denoise
    binsr train --config denoise:row=dncnn --workdir runs/dncnn

Published PSNR on RGB in dB for sigma 15 / 25 / 50, operations at 320x180 and parameters, both with
a binary one counted as 1/64 and 1/32:

    row           OPs      Params   CBSD68                   Kodak24
    dncnn         38.42 G  667 K    33.90 / 31.24 / 27.95    34.60 / 32.14 / 28.95
    dncnn_lite     1.38 G   24 K    32.26 / 29.64 / 26.49    32.73 / 30.25 / 27.22
    bnn            0.80 G   24 K    26.90 / 22.67 / 16.41    27.12 / 22.58 / 16.25
    bireal         0.80 G   24 K    30.73 / 28.72 / 25.63    30.97 / 29.17 / 26.11
    irnet          0.80 G   24 K    31.37 / 29.01 / 26.75    31.61 / 29.54 / 27.48
    btm            0.80 G   24 K    32.25 / 29.91 / 26.79    32.75 / 30.64 / 27.62
    reactnet       0.80 G   24 K    32.26 / 29.95 / 26.93    32.78 / 30.65 / 27.70
    bbcu           0.80 G   24 K    33.08 / 30.56 / 27.33    33.66 / 31.28 / 28.15

The amplification k = 130 n / 64 of n channels is the paper's own, and 1 in the rows of others.
"""

from binsr_jax.config import Config, default, variant_fields
from binsr_jax.recipes import Published

# The unit of a row, and what it has beside the defaults of the table.
_ROWS = {
    "bbcu": {"unit": "bbcu", "amplification": 130.0},
    "dncnn": {"unit": "float", "bias": "float"},
    "dncnn_lite": {"unit": "float", "bias": "float", "features": 12},
    "bnn": {"unit": "bnn"},
    "bireal": {"unit": "bireal"},
    "irnet": {"unit": "irnet"},
    "btm": {"unit": "btm"},
    "reactnet": {"unit": "reactnet"},
}
VARIANTS = {"row": tuple(_ROWS)}

_SETS = ("CBSD68", "Kodak24", "Urban100")
_SCORES = [f"{name}-{sigma}" for name in _SETS for sigma in (15, 25, 50)]
_TABLE = (
    # row, title, OPs, Params, PSNR on CBSD68, Kodak24 and Urban100
    (
        *("dncnn", "DnCNN", 38.42, 667),
        (33.90, 31.24, 27.95, 34.60, 32.14, 28.95, 32.98, 30.81, 27.59),
    ),
    (
        *("dncnn_lite", "DnCNN-Lite", 1.38, 24),
        (32.26, 29.64, 26.49, 32.73, 30.25, 27.22, 30.97, 28.46, 25.21),
    ),
    ("bnn", "BNN", 0.80, 24, (26.90, 22.67, 16.41, 27.12, 22.58, 16.25, 26.67, 22.67, 16.54)),
    (
        *("bireal", "Bi-Real", 0.80, 24),
        (30.73, 28.72, 25.63, 30.97, 29.17, 26.11, 30.18, 28.18, 25.11),
    ),
    ("irnet", "IR-Net", 0.80, 24, (31.37, 29.01, 26.75, 31.61, 29.54, 27.48, 30.57, 28.35, 26.00)),
    ("btm", "BTM", 0.80, 24, (32.25, 29.91, 26.79, 32.75, 30.64, 27.62, 30.99, 29.05, 25.86)),
    (
        *("reactnet", "ReActNet", 0.80, 24),
        (32.26, 29.95, 26.93, 32.78, 30.65, 27.70, 31.27, 29.20, 26.01),
    ),
    ("bbcu", "BBCU", 0.80, 24, (33.08, 30.56, 27.33, 33.66, 31.28, 28.15, 32.27, 29.96, 26.61)),
)
ROWS = {
    f"row={row}": Published(
        title=f"{title}, colour noise",
        scores=dict(zip(_SCORES, psnr, strict=True)),
        operations=operations,
        parameters=parameters,
    )
    for row, title, operations, parameters, psnr in _TABLE
}


def get_config(variant: str = "") -> Config:
    """Returns the recipe."""
    fields = variant_fields(variant, **VARIANTS)
    config = default()
    config.task = "denoise"
    config.scale = 1

    config.model.name = "dncnn"
    config.model.features = 64
    config.model.blocks = 18  # convolutions between the first and the last
    config.model.head_activation = "relu"
    config.model.bias = "none"
    config.model.amplification = 1.0
    config.model.update(_ROWS[fields["row"]])

    config.data.source = "tfds"
    config.data.patch = 64
    config.data.sigma = (0.0, 75.0)

    config.train.steps = 500_000
    config.train.batch = 32
    config.train.loss = "l1"
    config.train.learning_rate = 1e-4
    config.train.beta1 = 0.9
    config.train.beta2 = 0.999
    config.train.schedule = "multistep"
    config.train.milestones = (200_000, 300_000, 400_000)
    config.train.decay = 0.5
    config.train.checkpoint_every = 1_000

    config.eval.every = 5_000
    return config
