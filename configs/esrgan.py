"""The packaged recipe ``esrgan``: see ``binsr_jax/configs/esrgan.py``."""

from binsr_jax.configs.esrgan import ROWS, VARIANTS, get_config

__all__ = ["ROWS", "VARIANTS", "get_config"]
