"""The packaged recipe ``photo``: see ``binsr_jax/configs/photo.py``."""

from binsr_jax.configs.photo import VARIANTS, get_config

__all__ = ["VARIANTS", "get_config"]
