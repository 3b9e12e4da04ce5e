"""Networks, built from a config."""

import dataclasses
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from ml_collections import FrozenConfigDict

from binsr_jax.config import FIELDS, Config, ModelConfig
from binsr_jax.errors import UserError
from binsr_jax.fields import check
from binsr_jax.models.backbone import Factory
from binsr_jax.models.dncnn import DnCNN
from binsr_jax.models.edsr import EDSR
from binsr_jax.models.rrdbnet import build_rrdbnet
from binsr_jax.models.srresnet import SRResNet
from binsr_jax.models.srvgg import build_srvgg
from binsr_jax.nn.binary import BinaryConv
from binsr_jax.nn.conv import Conv
from binsr_jax.nn.packed import SignConv
from binsr_jax.nn.projection import BinaryProjection
from binsr_jax.nn.units import UNITS
from binsr_jax.nn.units.baselines import ConvUnit
from binsr_jax.nn.units.bbcu import BBCU
from binsr_jax.nn.upsamplers import BinaryUpsampler, Upsampler
from binsr_jax.tasks import task_of


def build(config: Config, conv: Factory = BinaryConv) -> nn.Module:
    """The network that a config describes.

    Args:
        config: A whole config; its ``task``, ``scale`` and ``model`` are read.
        conv: The binary convolution that the units use.

    Returns:
        A ``binsr_jax.models.backbone.Backbone``: ``model(x, train, progress)`` takes
        ``[B, h, w, channels]`` in 0..1 to ``[B, scale h, scale w, channels]``, not clipped.

    Raises:
        UserError: A field has a wrong value; the sentence names the possible ones.
    """
    task = task_of(config)
    return network(config.model, task.scale, task.channels, conv)


def shapes(config: Config, conv: Factory = BinaryConv) -> dict[str, Any]:
    """The variables of ``build(config, conv)`` as ``jax.ShapeDtypeStruct``: ``{"params": ...}``.

    Raises:
        UserError: See ``build``.
    """
    task = task_of(config)
    known = _shapes(FrozenConfigDict(config.model), task.scale, task.channels, conv)
    return jax.tree.map(lambda leaf: leaf, known)  # in dictionaries of the caller's own


@lru_cache(maxsize=64)  # packing alone asks three times, and a trace takes a tenth of a second
def _shapes(config: Any, scale: int, channels: int, conv: Factory) -> dict[str, Any]:
    # Of an empty batch: no convolution is native then, so none is compiled for this.
    image = jax.ShapeDtypeStruct((0, 1, 1, channels), jnp.float32)
    return jax.eval_shape(network(config, scale, channels, conv).init, jax.random.key(0), image)


def binary_kernels(config: Config) -> frozenset[tuple[str, ...]]:
    """The paths of the latent weights among the parameters of ``build(config)``.

    Latent weights are the float kernels of binary convolutions, which use only their signs.

    Returns:
        Paths in the tree of parameters, such as ``("body_0", "conv", "kernel")``.
    """
    params: Any = flatten_dict(shapes(config, SignConv)["params"])
    return frozenset((*path[:-1], "kernel") for path in params if path[-1] == "signs")


def network(
    config: ModelConfig, scale: int, channels: int = 3, conv: Factory = BinaryConv
) -> nn.Module:
    """The network that ``build`` returns, for a scale and channels that need not be a task's.

    Args:
        config: The ``model`` part of a config.
        scale: The upscaling factor: 1, 2, 3 or 4, and 1 for DnCNN.
        channels: The number of image channels.
        conv: See ``build``.

    Raises:
        UserError: See ``build``.
    """
    check(_FIELDS, {"model": config})
    if config.name == "dncnn" and scale != 1:
        raise UserError(
            f"config.model.name is dncnn, which keeps the size of an image, but the scale is "
            f"{scale}: choose edsr or srresnet"
        )
    return MODELS[config.name](config, scale, channels, conv)


def _edsr(config: ModelConfig, scale: int, channels: int, conv: Factory) -> nn.Module:
    # With an image skip the tail starts at zero, so training starts at the enlarged image.
    start = "uniform" if config.image_skip == "none" else "zero"
    upsampler = _UPSAMPLERS[config.upsampler]
    outputs = channels if upsampler else channels * scale**2
    return EDSR(
        **_frame(config, scale, conv, convolutions=2 * config.blocks),
        # EDSR subtracts the mean of an RGB image before the head.
        head=_head(config, conv, centre=0.0 if channels == 3 else config.amplification / 2),
        body_end=_with_options(_BODY_ENDS[config.body_end] or UNITS[config.unit], config, conv),
        upsampler=upsampler and _with_options(upsampler, config, conv),
        tail=_tail(config, conv, outputs, start),
        image_skip=config.image_skip,
    )


def _srresnet(config: ModelConfig, scale: int, channels: int, conv: Factory) -> nn.Module:
    # Float convolutions outside the body start small, as in BBCU's code. With an image skip,
    # training so starts near the enlarged image.
    start = "kaiming"
    hr_conv = _HR_CONVS[config.hr_conv]
    upsampler = _UPSAMPLERS[config.upsampler]
    if upsampler is None:
        raise UserError(
            "config.model.upsampler is direct, which edsr alone has, but config.model.name is "
            "srresnet: choose float or binary"
        )
    return SRResNet(
        **_frame(config, scale, conv, convolutions=2 * config.blocks),
        head=_head(config, conv, config.amplification / 2, start),
        upsampler=_with_options(upsampler, config, conv, start),
        upsampler_activation="leaky_relu" if config.upsampler == "float" else "none",
        hr_conv=hr_conv and _with_options(hr_conv, config, conv, start),
        tail=_tail(config, conv, channels, start),
        image_skip=config.image_skip,
    )


def _dncnn(config: ModelConfig, scale: int, channels: int, conv: Factory) -> nn.Module:
    return DnCNN(
        **_frame(config, scale, conv, convolutions=config.blocks),
        head=_head(config, conv, config.amplification / 2),
        tail=_tail(config, conv, channels, "uniform"),
    )


def _frame(config: ModelConfig, scale: int, conv: Factory, convolutions: int) -> dict[str, Any]:
    """The attributes of a ``Backbone`` with ``convolutions`` in its body, except head and tail."""
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


def _head(config: ModelConfig, conv: Factory, centre: float, start: str = "uniform") -> Factory:
    """Makes the first convolution; ``centre`` is the value of middle grey in its input."""
    if config.head == "float":
        return partial(_float_conv(config, start), config.features)
    # The sign drops the magnitude of its input, whose deviation is about k / 4 for images in 0..1.
    return partial(
        _with_options(BinaryProjection, config, conv),
        features=config.features,
        centre=centre,
        output_scale_start=config.amplification / 4,
    )


def _tail(config: ModelConfig, conv: Factory, outputs: int, start: str) -> Factory:
    """Makes the last convolution, with this number of output channels."""
    if config.tail == "float":
        return partial(_float_conv(config, start), outputs)
    return partial(
        _with_options(BinaryProjection, config, conv),
        features=outputs,
        output_scale_start=1.0 if config.image_skip == "none" else 0.0,
    )


def _with_options(
    module: type[nn.Module], config: ModelConfig, conv: Factory, start: str = "uniform"
) -> Factory:
    """The module with its convolutions, and with the attributes that are fields of the config."""
    options = {
        **config,
        "conv": partial(conv, weight_scale=config.weight_scale, use_bias=config.bias == "all"),
        "float_conv": _float_conv(config, start),
    }
    names = {field.name for field in dataclasses.fields(module)} & options.keys() - {"name"}
    return partial(module, **{name: options[name] for name in names})


def _float_conv(config: ModelConfig, start: str) -> Factory:
    return partial(Conv, use_bias=config.bias != "none", start=start)


MODELS: dict[str, Callable[[ModelConfig, int, int, Factory], nn.Module]] = {
    "edsr": _edsr,
    "srresnet": _srresnet,
    "dncnn": _dncnn,
    # Float networks without a choice of units.
    "rrdbnet": lambda config, scale, channels, conv: build_rrdbnet(config, scale, channels),
    "srvgg": lambda config, scale, channels, conv: build_srvgg(config, scale, channels),
}
_UPSAMPLERS = {"binary": BinaryUpsampler, "float": Upsampler, "direct": None}
_HR_CONVS = {"none": None, "float": ConvUnit, "binary": BBCU}
_BODY_ENDS = {"unit": None, "conv": ConvUnit}
_FIELDS = {name: field for name, field in FIELDS.items() if name.startswith("model.")}
