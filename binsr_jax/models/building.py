"""Networks, built from a config."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from binsr_jax.config import Config
from binsr_jax.errors import UserError
from binsr_jax.models.backbone import ACTIVATIONS, Factory
from binsr_jax.models.dncnn import DnCNN
from binsr_jax.models.edsr import EDSR
from binsr_jax.models.rrdbnet import build_rrdbnet
from binsr_jax.models.srresnet import SRResNet
from binsr_jax.models.srvgg import SRVGG_ACTIVATIONS, build_srvgg
from binsr_jax.nn.attention import ATTENTION
from binsr_jax.nn.binary import WEIGHT_SCALES, BinaryConv
from binsr_jax.nn.conv import Conv
from binsr_jax.nn.packed import SignConv
from binsr_jax.nn.projection import BinaryProjection
from binsr_jax.nn.units import UNITS
from binsr_jax.nn.units.base import PROGRESSIVE
from binsr_jax.nn.units.baselines import ConvUnit
from binsr_jax.nn.units.bbcu import BBCU
from binsr_jax.nn.upsamplers import BinaryUpsampler, Upsampler
from binsr_jax.ops.binarize import SURROGATES


def build(config: Config, scale: int, channels: int = 3, conv: Factory = BinaryConv) -> nn.Module:
    """The network that the ``model`` part of a config describes.

    Args:
        config: the ``model`` part of a config; ``binsr_jax.config`` says what its fields mean.
        scale: the upscaling factor: 1 (all that DnCNN has), 2, 3 or 4.
        channels: of the image.
        conv: the binary convolution that the units use.

    Returns:
        A ``binsr_jax.models.backbone.Backbone``: ``model(x, train, progress)`` takes
        ``[B, h, w, channels]`` in 0..1 to ``[B, scale h, scale w, channels]``, not clipped.

    Raises:
        UserError: a field has a value that it cannot have; the sentence names those it can.
    """
    for field, choices in _CHOICES.items():
        if config[field] not in choices:
            raise UserError(
                f"config.model.{field} is {config[field]!r}, but must be one of: "
                + ", ".join(choices)
            )
    for field in ("features", "blocks", "attention_hidden", "growth"):
        if config[field] < 1:
            raise UserError(f"config.model.{field} is {config[field]}, but must be above 0")
    # The image is multiplied by it and divided again, in float32.
    if not 1e-6 <= config.amplification <= 1e6:
        raise UserError(
            f"config.model.amplification is {config.amplification:g}, but must lie in 1e-6..1e6"
        )
    if not math.isfinite(config.residual_scale):
        raise UserError(
            f"config.model.residual_scale is {config.residual_scale}, but must be finite"
        )
    if not 0 < config.progressive_until <= 1:
        raise UserError(
            f"config.model.progressive_until is {config.progressive_until}, but must be above 0 "
            "and at most 1"
        )
    if config.name == "dncnn" and scale != 1:
        raise UserError(
            f"config.model.name is dncnn, which keeps the size of an image, but the scale is "
            f"{scale}: choose edsr or srresnet"
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
    # Beside a skip of the image the tail starts at zero: training starts at the enlarged image.
    start = "uniform" if config.image_skip == "none" else "zero"
    return EDSR(
        **_frame(config, scale, conv, convolutions=2 * config.blocks),
        # The mean of an RGB image is taken off before the head.
        head=_head(config, conv, centre=0.0 if channels == 3 else config.amplification / 2),
        body_end=_with_options(_BODY_ENDS[config.body_end] or UNITS[config.unit], config, conv),
        upsampler=_with_options(_UPSAMPLERS[config.upsampler], config, conv),
        tail=_tail(config, conv, channels, start),
        image_skip=config.image_skip,
    )


def _srresnet(config: Config, scale: int, channels: int, conv: Factory) -> nn.Module:
    # The float convolutions outside of the body start small, as in BBCU's code: also beside a skip
    # of the image training starts near the enlarged image.
    start = "kaiming"
    hr_conv = _HR_CONVS[config.hr_conv]
    return SRResNet(
        **_frame(config, scale, conv, convolutions=2 * config.blocks),
        head=_head(config, conv, config.amplification / 2, start),
        upsampler=_with_options(_UPSAMPLERS[config.upsampler], config, conv, start),
        upsampler_activation="leaky_relu" if config.upsampler == "float" else "none",
        hr_conv=hr_conv and _with_options(hr_conv, config, conv, start),
        tail=_tail(config, conv, channels, start),
        image_skip=config.image_skip,
    )


def _dncnn(config: Config, scale: int, channels: int, conv: Factory) -> nn.Module:
    return DnCNN(
        **_frame(config, scale, conv, convolutions=config.blocks),
        head=_head(config, conv, config.amplification / 2),
        tail=_tail(config, conv, channels, "uniform"),
    )


def _frame(config: Config, scale: int, conv: Factory, convolutions: int) -> dict[str, Any]:
    """The attributes of a ``Backbone`` but for head and tail; ``convolutions``: of its body."""
    unit = _with_options(UNITS[config.unit], config, conv)
    per_unit = UNITS[config.unit].convolutions
    if not per_unit:
        unit, per_unit = partial(unit, length=convolutions), convolutions
    if convolutions % per_unit:
        raise UserError(
            f"config.model.blocks is {config.blocks}, but {config.name} has as many convolutions "
            f"in its body and unit {config.unit} has {per_unit}: choose a multiple of {per_unit}"
        )
    return {
        "unit": unit,
        "units": convolutions // per_unit,
        "scale": scale,
        "amplification": config.amplification,
        "head_activation": config.head_activation,
        "progressive": config.progressive,
        "progressive_until": config.progressive_until,
    }


def _head(config: Config, conv: Factory, centre: float, start: str = "uniform") -> Factory:
    """Makes the first convolution; ``centre``: middle grey, in what it is given."""
    if config.head == "float":
        return partial(_float_conv(config, start), config.features)
    # The sign replaces numbers whose deviation in an image of 0..1 is about k / 4.
    return partial(
        _with_options(BinaryProjection, config, conv),
        features=config.features,
        centre=centre,
        output_scale_start=config.amplification / 4,
    )


def _tail(config: Config, conv: Factory, channels: int, start: str) -> Factory:
    """Makes the last convolution."""
    if config.tail == "float":
        return partial(_float_conv(config, start), channels)
    return partial(
        _with_options(BinaryProjection, config, conv),
        features=channels,
        output_scale_start=1.0 if config.image_skip == "none" else 0.0,
    )


def _with_options(
    module: type[nn.Module], config: Config, conv: Factory, start: str = "uniform"
) -> Factory:
    """The module with the attributes set that are fields of the config, and the convolutions."""
    options = {
        **config,
        "conv": partial(conv, weight_scale=config.weight_scale, use_bias=config.bias == "all"),
        "float_conv": _float_conv(config, start),
    }
    names = {field.name for field in dataclasses.fields(module)} & options.keys() - {"name"}
    return partial(module, **{name: options[name] for name in names})


def _float_conv(config: Config, start: str) -> Factory:
    return partial(Conv, use_bias=config.bias != "none", start=start)


MODELS: dict[str, Callable[[Config, int, int, Factory], nn.Module]] = {
    "edsr": _edsr,
    "srresnet": _srresnet,
    "dncnn": _dncnn,
    # Float networks, without units to choose from.
    "rrdbnet": lambda config, scale, channels, conv: build_rrdbnet(config, scale, channels),
    "srvgg": lambda config, scale, channels, conv: build_srvgg(config, scale, channels),
}
_UPSAMPLERS = {"binary": BinaryUpsampler, "float": Upsampler}
_HR_CONVS = {"none": None, "float": ConvUnit, "binary": BBCU}
_BODY_ENDS = {"unit": None, "conv": ConvUnit}
_PRECISIONS = ("float", "binary")
_CHOICES = {
    "name": MODELS,
    "unit": UNITS,
    "residual_attention": ("none", *ATTENTION),
    "binary_attention": ("none", *ATTENTION),
    "surrogate": SURROGATES,
    "weight_scale": WEIGHT_SCALES,
    "progressive": PROGRESSIVE,
    "head": _PRECISIONS,
    "head_activation": ACTIVATIONS,
    "body_end": _BODY_ENDS,
    "upsampler": _UPSAMPLERS,
    "hr_conv": _HR_CONVS,
    "tail": _PRECISIONS,
    "bias": ("none", "float", "all"),
    "image_skip": ("none", "bilinear"),
    "activation": SRVGG_ACTIVATIONS,
}
