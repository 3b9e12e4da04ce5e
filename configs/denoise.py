"""The packaged recipe ``denoise``: see ``binsr_jax/configs/denoise.py``."""

from binsr_jax.configs.denoise import ROWS, VARIANTS, get_config

__all__ = ["ROWS", "VARIANTS", "get_config"]
