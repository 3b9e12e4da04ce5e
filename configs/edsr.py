"""The packaged recipe ``edsr``: see ``binsr_jax/configs/edsr.py``."""

from binsr_jax.configs.edsr import get_config

__all__ = ["get_config"]
