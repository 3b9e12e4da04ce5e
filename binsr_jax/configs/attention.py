"""Attention in binary networks: both tables of the attention paper, on EDSR at x2.

"Efficient Image Super Resolution Using Attention In Binary Neural Networks": 16 blocks of 64
channels, binary but for the first and the last convolution; trained by the recipe of
configs/bin_edsr.py, 300,000 steps as the paper says. Its published notebook ran 100,000.

    binsr train --config attention:res=spatial,bin=se --workdir runs/spatial_se
    binsr train --config attention:block=both,res=spatial,bin=se --workdir runs/both

``block=attention``, the default, is the unit of the first version, in 16 combinations: ``res`` is
the attention on the residual, ``bin`` the one on the binary branch (none, se, spatial, pixel).
Published PSNR on Y of Set5 in dB and GFLOPs as the paper counts them (``binsr cost --convention
ptflops``), of networks trained so briefly that they lie at the level of bicubic:

    block=edsr             45.1  37.10
    res=none,bin=none       6.0  33.89        res=none,bin=se         8.1  33.96
    res=none,bin=spatial         33.80        res=se,bin=none              33.90
    res=spatial,bin=none         33.94        res=se,bin=se          10.4  33.96
    res=se,bin=spatial           33.92        res=spatial,bin=se           34.02
    res=spatial,bin=spatial      33.88

The other blocks are the author's later forms. Published, on Set5 / Set14 / B100 / Urban100:

    block=edsr                               45.1   38.05 / 33.57 / 32.19 / 32.04
    block=base                               5.97   37.61 / 33.09 / 31.85 / 30.79
    block=rescale_post,bin=global            8.12   37.65 / 33.12 / 31.88 / 30.88
    block=single,bin=spatial                 8.14   37.64 / 33.11 / 31.87 / 30.84
    block=single,bin=se                      8.12   37.62 / 33.08 / 31.85 / 30.87
    block=dual,res=global,bin=spatial       10.28   37.65 / 33.09 / 31.85 / 30.85
    block=both,res=se,bin=se                10.27   37.60 / 33.10 / 31.87 / 31.00
    block=both,res=se,bin=spatial           10.29   37.63 / 33.15 / 31.89 / 31.02
    block=both,res=spatial,bin=se           10.29   37.68 / 33.17 / 31.91 / 31.08
    block=both,res=spatial,bin=spatial      10.31   37.68 / 33.18 / 31.88 / 30.93
    block=both,res=global,bin=global        10.25   37.66 / 33.17 / 31.91 / 31.01
    block=bbcu                               6.0    37.67 / 33.14 / 31.89 / 30.92
"""

from binsr_jax.config import Config, variant_fields
from binsr_jax.configs import bin_edsr, edsr
from binsr_jax.errors import UserError
from binsr_jax.recipes import Published

# The attentions that a block takes on the residual (of dual: the first of two) and on the binary
# branch.
_NONE, _ATTENTION = ("none",), ("se", "spatial", "pixel", "global")
_FIRST = ("none", "se", "spatial", "pixel")
_BLOCKS = {
    "attention": (_FIRST, _FIRST),
    "base": (_NONE, _NONE),
    "rescale_pre": (_NONE, _ATTENTION),
    "rescale_post": (_NONE, _ATTENTION),
    "single": (_NONE, _ATTENTION),
    "dual": (_ATTENTION, _ATTENTION),
    "both": (_ATTENTION, _ATTENTION),
    "bbcu": (_NONE, _NONE),
    "edsr": (_NONE, _NONE),
}
VARIANTS = {
    "block": tuple(_BLOCKS),
    "res": ("none", *_ATTENTION),
    "bin": ("none", *_ATTENTION),
    "scale": ("2", "3", "4"),
}

# Of the first version: GFLOPs where it gives them, and PSNR on Set5.
_FIRST_TABLE = {
    ("none", "none"): (6.0, 33.89),
    ("none", "se"): (8.1, 33.96),
    ("none", "spatial"): (None, 33.80),
    ("se", "none"): (None, 33.90),
    ("spatial", "none"): (None, 33.94),
    ("se", "se"): (10.4, 33.96),
    ("se", "spatial"): (None, 33.92),
    ("spatial", "se"): (None, 34.02),
    ("spatial", "spatial"): (None, 33.88),
}
_SETS = ("Set5", "Set14", "B100", "Urban100")
_LATER_TABLE = (
    # block, res, bin, title, GFLOPs, PSNR
    ("edsr", "none", "none", "EDSR", 45.1, (38.05, 33.57, 32.19, 32.04)),
    ("base", "none", "none", "Base", 5.97, (37.61, 33.09, 31.85, 30.79)),
    ("rescale_post", "none", "global", "RescalePost-Global", 8.12, (37.65, 33.12, 31.88, 30.88)),
    ("single", "none", "spatial", "Single-Spatial", 8.14, (37.64, 33.11, 31.87, 30.84)),
    ("single", "none", "se", "Single-SE", 8.12, (37.62, 33.08, 31.85, 30.87)),
    ("dual", "global", "spatial", "Dual-Global-Spatial", 10.28, (37.65, 33.09, 31.85, 30.85)),
    ("both", "se", "se", "Both-SE-SE", 10.27, (37.60, 33.10, 31.87, 31.00)),
    ("both", "se", "spatial", "Both-SE-Spatial", 10.29, (37.63, 33.15, 31.89, 31.02)),
    ("both", "spatial", "se", "Both-Spatial-SE", 10.29, (37.68, 33.17, 31.91, 31.08)),
    ("both", "spatial", "spatial", "Both-Spatial-Spatial", 10.31, (37.68, 33.18, 31.88, 30.93)),
    ("both", "global", "global", "Both-Global-Global", 10.25, (37.66, 33.17, 31.91, 31.01)),
    ("bbcu", "none", "none", "BBCU", 6.0, (37.67, 33.14, 31.89, 30.92)),
)


def _first_version(res: str, bin: str) -> Published:
    operations, psnr = _FIRST_TABLE.get((res, bin), (None, None))
    return Published(
        title=f"Res {res}, Bin {bin}",
        scores={} if psnr is None else {"Set5": psnr},
        operations=operations,
        convention="ptflops",
    )


ROWS = {
    f"block=attention,res={res},bin={bin}": _first_version(res, bin)
    for res in _FIRST
    for bin in _FIRST
} | {
    f"block={block},res={res},bin={bin}": Published(
        title=title,
        scores=dict(zip(_SETS, psnr, strict=True)),
        operations=operations,
        convention="ptflops",
    )
    for block, res, bin, title, operations, psnr in _LATER_TABLE
}


def get_config(variant: str = "") -> Config:
    """Returns the recipe."""
    fields = variant_fields(variant, **VARIANTS)
    block = fields["block"]
    for branch, known in zip(("res", "bin"), _BLOCKS[block], strict=True):
        if fields[branch] not in known:
            raise UserError(
                f"This recipe has no variant {variant!r}: with block={block} it has "
                f"{branch} = {', '.join(known)}."
            )
    if block == "edsr":
        return edsr.get_config(f"scale={fields['scale']}")
    config = bin_edsr.get_config(f"scale={fields['scale']}")
    config.model.unit = block
    config.model.residual_attention = fields["res"]
    config.model.binary_attention = fields["bin"]
    return config
