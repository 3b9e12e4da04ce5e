"""The packaged recipe ``quickstart``: see ``binsr_jax/configs/quickstart.py``."""

from binsr_jax.configs.quickstart import get_config

__all__ = ["get_config"]
