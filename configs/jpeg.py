"""The packaged recipe ``jpeg``: see ``binsr_jax/configs/jpeg.py``."""

from binsr_jax.configs.jpeg import ROWS, VARIANTS, get_config

__all__ = ["ROWS", "VARIANTS", "get_config"]
