"""The packaged recipe ``bbcu_sr``: see ``binsr_jax/configs/bbcu_sr.py``."""

from binsr_jax.configs.bbcu_sr import ROWS, VARIANTS, get_config

__all__ = ["ROWS", "VARIANTS", "get_config"]
