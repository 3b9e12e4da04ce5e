"""binsr-jax: 1-bit image restoration in JAX."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from binsr_jax.deploy.cards import Card
    from binsr_jax.deploy.upscaler import Upscaler

__version__ = "0.1.0"


def load(model: str | Path | None = None, *, memory: int | None = None) -> "Upscaler":
    """Loads a packed model: ``binsr_jax.load("x4").upscale(image)``.

    Args:
        model: The name of a packaged network (``binsr_jax.models()`` lists them), or a file that
            ``binsr pack`` made; by default the packaged network that enlarges twice.
        memory: Bytes of working memory; see ``binsr_jax.deploy.upscaler.load``.

    Raises:
        UserError: The file is missing, broken or of a later version.
    """
    from binsr_jax.deploy import upscaler  # here, so that the package itself is imported quickly

    return upscaler.load(upscaler.PRETRAINED if model is None else model, memory=memory)


def packaged() -> "list[Card]":
    """The networks that come with this version, as ``binsr_jax.models()`` gives them."""
    from binsr_jax.deploy.cards import cards

    return cards()


def __getattr__(name: str) -> Any:
    """``binsr_jax.models`` also where nothing has imported it."""
    if name == "models":
        return importlib.import_module("binsr_jax.models")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
