"""binsr-jax: 1-bit image restoration in JAX."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from binsr_jax.deploy.upscaler import Upscaler

__version__ = "0.1.0"


def load(file: str | Path | None = None, *, memory: int | None = None) -> "Upscaler":
    """Loads a packed model: ``binsr_jax.load().upscale(image)``.

    Args:
        file: what ``binsr pack`` made; by default the network that comes with the package, which
            enlarges twice.
        memory: bytes of working memory; see ``binsr_jax.deploy.upscaler.load``.

    Raises:
        UserError: the file is missing, broken or of a later version.
    """
    from binsr_jax.deploy import upscaler  # here, so that the package itself is imported quickly

    return upscaler.load(upscaler.PRETRAINED if file is None else file, memory=memory)
