"""Removal of JPEG artifacts on DnCNN-3: the table of the BBCU paper.

Xia et al., "Basic Binary Convolution Unit for Binarized Image Restoration Network": one network for
all qualities, trained with a quality drawn from 0..50 for each patch, on Y alone. 20 layers of 64
channels with biases; the 18 in the middle are binary. DIV2K, batches of 32 patches of
64x64. The paper does not say when it stops; 500,000 steps are 100,000 after the last change of the
rate.

    binsr train --config jpeg --workdir runs/jpeg
    binsr train --config jpeg:row=dncnn --workdir runs/dncnn3

Published PSNR on Y in dB for quality 10 / 20 / 30 / 40, operations at 320x180 and parameters, both
with a binary one counted as 1/64 and 1/32:

    row           OPs      Params   LIVE1                            Classic5
    dncnn         38.29 G  665 K    29.19 / 31.59 / 32.98 / 33.96    29.40 / 31.63 / 32.91 / 33.77
    dncnn_lite     1.36 G   24 K    28.90 / 31.27 / 32.62 / 33.52    29.80 / 32.09 / 33.39 / 34.25
    bnn            0.66 G   22 K    28.48 / 30.82 / 32.19 / 33.12    29.41 / 31.71 / 33.04 / 33.89
    bireal         0.66 G   22 K    28.67 / 31.06 / 32.42 / 33.36    29.54 / 31.88 / 33.21 / 34.08
    irnet          0.66 G   22 K    28.73 / 31.13 / 32.49 / 33.40    29.63 / 31.96 / 33.28 / 34.12
    btm            0.66 G   22 K    28.75 / 31.18 / 32.51 / 33.38    29.65 / 32.02 / 33.30 / 34.11
    reactnet       0.66 G   22 K    28.81 / 31.20 / 32.52 / 33.37    29.70 / 32.04 / 33.32 / 34.11
    bbcu           0.66 G   22 K    29.06 / 31.43 / 32.80 / 33.75    30.00 / 32.27 / 33.59 / 34.45

The paper's code scores Classic5 by taking Y of the grey images a second time, which raises PSNR by
0.2 to 0.4 dB; its DnCNN-3 seems to be scored in the ordinary way, as everything is here. The
amplification k = 130 n / 64 of n channels is the paper's own, and 1 in the rows of others.
"""

from binsr_jax.config import Config
from binsr_jax.configs import denoise
from binsr_jax.recipes import Published

VARIANTS = denoise.VARIANTS

_SCORES = [f"{name}-{quality}" for name in ("LIVE1", "Classic5") for quality in (10, 20, 30, 40)]
_TABLE = (
    # row, title, OPs, Params, PSNR on LIVE1 and Classic5
    ("dncnn", "DnCNN-3", 38.29, 665, (29.19, 31.59, 32.98, 33.96, 29.40, 31.63, 32.91, 33.77)),
    (
        *("dncnn_lite", "DnCNN-3-Lite", 1.36, 24),
        (28.90, 31.27, 32.62, 33.52, 29.80, 32.09, 33.39, 34.25),
    ),
    ("bnn", "BNN", 0.66, 22, (28.48, 30.82, 32.19, 33.12, 29.41, 31.71, 33.04, 33.89)),
    ("bireal", "Bi-Real", 0.66, 22, (28.67, 31.06, 32.42, 33.36, 29.54, 31.88, 33.21, 34.08)),
    ("irnet", "IR-Net", 0.66, 22, (28.73, 31.13, 32.49, 33.40, 29.63, 31.96, 33.28, 34.12)),
    ("btm", "BTM", 0.66, 22, (28.75, 31.18, 32.51, 33.38, 29.65, 32.02, 33.30, 34.11)),
    ("reactnet", "ReActNet", 0.66, 22, (28.81, 31.20, 32.52, 33.37, 29.70, 32.04, 33.32, 34.11)),
    ("bbcu", "BBCU", 0.66, 22, (29.06, 31.43, 32.80, 33.75, 30.00, 32.27, 33.59, 34.45)),
)
ROWS = {
    f"row={row}": Published(
        title=f"{title}, JPEG",
        scores=dict(zip(_SCORES, psnr, strict=True)),
        operations=operations,
        parameters=parameters,
    )
    for row, title, operations, parameters, psnr in _TABLE
}


def get_config(variant: str = "") -> Config:
    """Returns the recipe."""
    config = denoise.get_config(variant)
    config.task = "jpeg"
    config.model.bias = "all"
    config.data.quality = (0, 50)
    return config
