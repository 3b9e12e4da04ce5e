"""binsr-jax: 1-bit image restoration in JAX."""

__version__ = "0.1.0"
