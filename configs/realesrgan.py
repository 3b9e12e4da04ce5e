"""The packaged recipe ``realesrgan``: see ``binsr_jax/configs/realesrgan.py``."""

from binsr_jax.configs.realesrgan import ROWS, VARIANTS, get_config

__all__ = ["ROWS", "VARIANTS", "get_config"]
