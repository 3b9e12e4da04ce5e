"""The packaged recipe ``dejpeg``: see ``binsr_jax/configs/dejpeg.py``."""

from binsr_jax.configs.dejpeg import VARIANTS, get_config

__all__ = ["VARIANTS", "get_config"]
