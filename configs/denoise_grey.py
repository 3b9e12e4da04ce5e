"""The packaged recipe ``denoise_grey``: see ``binsr_jax/configs/denoise_grey.py``."""

from binsr_jax.configs.denoise_grey import ROWS, VARIANTS, get_config

__all__ = ["ROWS", "VARIANTS", "get_config"]
