"""Networks, built from a config."""

import dataclasses
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from binsr_jax.config import Config
from binsr_jax.errors import UserError
from binsr_jax.models.edsr import EDSR
from binsr_jax.nn.attention import ATTENTION
from binsr_jax.nn.binary import WEIGHT_SCALES, BinaryConv
from binsr_jax.nn.conv import Conv
from binsr_jax.nn.packed import SignConv
from binsr_jax.nn.units import PROGRESSIVE, UNITS, BinaryUpsampler, ConvUnit, Upsampler
from binsr_jax.ops.binarize import SURROGATES

Factory = Callable[..., nn.Module]


def build(config: Config, scale: int, channels: int = 3, conv: Factory = BinaryConv) -> nn.Module:
    """The network that the ``model`` part of a config describes.

    Args:
        config: the ``model`` part of a config; ``binsr_jax.config`` says what its fields mean.
        scale: the upscaling factor: 2, 3 or 4.
        channels: of the image.
        conv: the binary convolution that the units use.

    Returns:
        A Flax module: ``model(x, train, progress)`` takes ``[B, h, w, channels]`` in 0..1 to
        ``[B, scale h, scale w, channels]``, not clipped.

    Raises:
        UserError: a field has a value that it cannot have; the sentence names those it can.
    """
    for field, choices in _CHOICES.items():
        if config[field] not in choices:
            raise UserError(
                f"config.model.{field} is {config[field]!r}, but must be one of: "
                + ", ".join(choices)
            )
    for field in ("features", "blocks", "attention_hidden", "amplification"):
        if config[field] <= 0:
            raise UserError(f"config.model.{field} is {config[field]}, but must be above 0")
    if not 0 < config.progressive_until <= 1:
        raise UserError(
            f"config.model.progressive_until is {config.progressive_until}, but must be above 0 "
            "and at most 1"
        )
    return MODELS[config.name](config, scale, channels, conv)


def binary_kernels(config: Config, scale: int, channels: int = 3) -> frozenset[tuple[str, ...]]:
    """The names of the parameters of ``build(config, scale, channels)`` that hold latent weights.

    These are the float kernels whose signs a binary convolution uses.

    Args:
        config: the ``model`` part of a config.
        scale: as in ``build``.
        channels: as in ``build``.

    Returns:
        Paths in the tree of parameters, such as ``("body_0", "conv", "kernel")``.
    """
    image = jax.ShapeDtypeStruct((1, 1, 1, channels), jnp.float32)
    network = build(config, scale, channels, conv=SignConv)
    params = jax.eval_shape(network.init, jax.random.key(0), image)["params"]
    return frozenset((*path[:-1], "kernel") for path in flatten_dict(params) if path[-1] == "signs")


def _edsr(config: Config, scale: int, channels: int, conv: Factory) -> nn.Module:
    conv = partial(conv, weight_scale=config.weight_scale)
    unit = _with_options(UNITS[config.unit], config, conv)
    return EDSR(
        head=partial(Conv, config.features),
        unit=unit,
        units=config.blocks * 2 // UNITS[config.unit].convolutions,
        body_end=unit if config.body_end == "unit" else ConvUnit,
        upsampler=_with_options(_UPSAMPLERS[config.upsampler], config, conv),
        # Beside a skip of the image the tail starts at zero: training starts at the enlarged image.
        tail=partial(Conv, channels, zero_init=config.image_skip != "none"),
        scale=scale,
        amplification=config.amplification,
        head_activation=config.head_activation,
        image_skip=config.image_skip,
        progressive=config.progressive,
        progressive_until=config.progressive_until,
    )


def _with_options(module: type[nn.Module], config: Config, conv: Factory) -> Factory:
    """The module with the convolution, and its attributes set that are fields of the config."""
    options = {"conv": conv, **config}
    names = {field.name for field in dataclasses.fields(module)} & options.keys() - {"name"}
    return partial(module, **{name: options[name] for name in names})


MODELS: dict[str, Callable[[Config, int, int, Factory], nn.Module]] = {"edsr": _edsr}
_UPSAMPLERS = {"binary": BinaryUpsampler, "float": Upsampler}
_CHOICES = {
    "name": MODELS,
    "unit": UNITS,
    "residual_attention": ("none", *ATTENTION),
    "binary_attention": ("none", *ATTENTION),
    "surrogate": SURROGATES,
    "weight_scale": WEIGHT_SCALES,
    "progressive": PROGRESSIVE,
    "head_activation": ("none", "leaky_relu"),
    "body_end": ("unit", "conv"),
    "upsampler": _UPSAMPLERS,
    "image_skip": ("none", "bilinear"),
}
