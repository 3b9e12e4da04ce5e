"""The packaged recipe ``attention``: see ``binsr_jax/configs/attention.py``."""

from binsr_jax.configs.attention import ROWS, VARIANTS, get_config

__all__ = ["ROWS", "VARIANTS", "get_config"]
