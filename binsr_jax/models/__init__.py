"""Networks: backbones, and ``build``, which makes one from a config."""

from binsr_jax.models.building import MODELS, binary_kernels, build, network, shapes

__all__ = ["MODELS", "binary_kernels", "build", "network", "shapes"]
