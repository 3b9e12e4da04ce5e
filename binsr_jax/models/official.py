"""The networks of the papers' public code, and the config for the weights of each."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from binsr_jax.config import Config, default
from binsr_jax.errors import UserError

State = Mapping[str, np.ndarray]  # a PyTorch state_dict


@dataclass(frozen=True)
class Architecture:
    """A network of the papers' code.

    Attributes:
        fields: The fields of ``config.model``, without the network's size.
        amplification: k as a function of the number of features.
        tasks: The number of image channels to a key of ``binsr_jax.tasks.TASKS``.
    """

    fields: dict[str, Any]
    amplification: Callable[[int], float]
    tasks: Mapping[int, str] = field(default_factory=lambda: {3: "sr"})


def best_amplification(features: int) -> float:
    """k for images in 0..1, by the rule of BBCU's README: ``130 features / 64``."""
    return 130.0 * features / 64


_SRRESNET = {
    "name": "srresnet",
    "unit": "residual",
    "upsampler": "float",
    "hr_conv": "float",
    "image_skip": "bilinear",
}
_EDSR = {
    "name": "edsr",
    "unit": "residual",
    "head_activation": "none",
    "body_end": "conv",
    "upsampler": "float",
}
_DNCNN = {"name": "dncnn", "unit": "float", "head_activation": "relu"}
_BINARY_DNCNN = {**_DNCNN, "unit": "bbcu"}
_DENOISE = {3: "denoise", 1: "denoise_grey"}
_JPEG = {1: "jpeg", 3: "jpeg_colour"}

ARCHITECTURES: dict[str, Architecture] = {
    "bbcu_l": Architecture({**_SRRESNET, "unit": "bbcu"}, best_amplification),
    "bbcu_m": Architecture(
        {**_SRRESNET, "unit": "bbcu", "upsampler": "binary", "hr_conv": "binary"},
        best_amplification,
    ),
    "srresnet": Architecture(_SRRESNET, lambda n: 1.0),
    "edsr": Architecture(_EDSR, lambda n: 255.0),
    "binedsr": Architecture({"name": "edsr", "unit": "attention"}, lambda n: 130.0),
    "dncnn": Architecture(_DNCNN, lambda n: 1.0, _DENOISE),
    "dncnn3": Architecture(_DNCNN, lambda n: 1.0, _JPEG),
    "dncnn_bin": Architecture({**_BINARY_DNCNN, "bias": "none"}, best_amplification, _DENOISE),
    "dncnn3_bin": Architecture({**_BINARY_DNCNN, "bias": "all"}, best_amplification, _JPEG),
}


def official_config(name: str, scale: int, state: State) -> Config:
    """The config of a network of the papers' code, with the size of its weights.

    Files contain neither k nor the residual scale. k is ``130 n / 64`` for BBCU's networks of n
    features, 130 for the attention paper's binary EDSR, 255 for the float EDSR, which computes in
    0..255, and 1 for the other float networks. The residual scale of the float EDSR is 0.1 from 256
    features on, and 1 below.

    Args:
        name: A key of ``ARCHITECTURES``.
        scale: The upscaling factor, for networks of super-resolution.
        state: The weights under their PyTorch names.

    Raises:
        UserError: The weights have no first convolution, no body, or another number of channels.
    """
    architecture = ARCHITECTURES[name]
    heads = [n for n in state if n in ("conv_first.weight", "head.0.weight", "model.0.weight")]
    part = re.compile(r"(body\.\d+\.(?:body|conv1)|model\.\d+)\.")
    parts = {match[1] for n in state if (match := part.match(n))}
    blocks = len(parts) - (2 if "model.0.weight" in state else 0)  # DnCNN's ends are parts too
    if not heads or blocks < 1:
        shown = ", ".join(sorted(state)[:3]) or "nothing"
        raise UserError(
            f"these are not the weights of {name}: it has a first convolution conv_first, head.0 "
            f"or model.0 and a body after it, and this is {shown} and so on"
        )
    features, channels = state[heads[0]].shape[:2]
    if channels not in architecture.tasks:
        known = " or ".join(map(str, architecture.tasks))
        raise UserError(f"they are of images of {channels} channels, and {name} has {known}")
    config = default()
    config.task = architecture.tasks[channels]
    config.scale = scale if config.task == "sr" else 1
    config.model.update(
        {
            **architecture.fields,
            "features": features,
            "blocks": blocks,
            "amplification": architecture.amplification(features),
        }
    )
    if name == "edsr" and features >= 256:
        config.model.residual_scale = 0.1
    if name == "binedsr":
        config.model.update(_attentions(state))
    if name == "dncnn" and not any(n.endswith(".bias") for n in state):
        config.model.bias = "none"
    return config


def _attentions(state: State) -> dict[str, Any]:
    """The fields for the attentions of a binary EDSR, from the names in its first unit."""
    fields: dict[str, Any] = {}
    for branch, torch_name in (("residual", "resid_attn"), ("binary", "bin_attn")):
        place = f"body.0.body.0.{torch_name}"
        if (reduce := state.get(f"{place}.fc1.weight")) is not None:
            fields |= {f"{branch}_attention": "se", "attention_hidden": len(reduce)}
        elif (kernel := state.get(f"{place}.conv.weight")) is not None:
            fields[f"{branch}_attention"] = "spatial" if len(kernel) == 1 else "pixel"
    return fields
