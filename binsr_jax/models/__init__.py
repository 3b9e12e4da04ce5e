"""Networks: backbones, and ``build``, which makes one from a config.

The package can be called, too: ``binsr_jax.models()`` lists the networks that come with it.
"""

import sys
import types
from typing import Any

import binsr_jax
from binsr_jax.models.building import MODELS, binary_kernels, build, network, shapes

__all__ = ["MODELS", "binary_kernels", "build", "network", "shapes"]


class _Callable(types.ModuleType):
    def __call__(self) -> Any:
        """The packaged networks: see ``binsr_jax.packaged``."""
        return binsr_jax.packaged()


sys.modules[__name__].__class__ = _Callable
