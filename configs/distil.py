"""The packaged recipe ``distil``: see ``binsr_jax/configs/distil.py``."""

from binsr_jax.configs.distil import VARIANTS, get_config

__all__ = ["VARIANTS", "get_config"]
