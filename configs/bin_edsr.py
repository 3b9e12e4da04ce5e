"""The packaged recipe ``bin_edsr``: see ``binsr_jax/configs/bin_edsr.py``."""

from binsr_jax.configs.bin_edsr import get_config

__all__ = ["get_config"]
