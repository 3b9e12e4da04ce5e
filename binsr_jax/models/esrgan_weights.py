"""Weights of RRDBNet and SRVGGNetCompact: our names for them, and the config they imply."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from binsr_jax.config import Config, default
from binsr_jax.errors import UserError

State = Mapping[str, np.ndarray]  # a PyTorch state_dict
Names = dict[str, str]  # PyTorch's names to ours, both with the array's name at the end

_ARRAYS = {"weight": "kernel", "bias": "bias"}
# The layers of RRDBNet in BasicSR and Real-ESRGAN, and in the later code of the ESRGAN repository.
_PARTS: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"conv_first", lambda m: "head"),
    (
        r"(?:body|RRDB_trunk)\.(\d+)\.(?:rdb|RDB)([123])\.conv([1-5])",
        lambda m: f"body_{m[1]}/dense_{int(m[2]) - 1}/conv_{int(m[3]) - 1}",
    ),
    (r"conv_body|trunk_conv", lambda m: "body_end"),
    (r"(?:conv_up|upconv)([1-9])", lambda m: f"upsampler_{int(m[1]) - 1}"),
    (r"conv_hr|HRconv", lambda m: "hr_conv"),
    (r"conv_last", lambda m: "tail"),
)


def rrdbnet_names(state: State) -> Names:
    """Our names for RRDBNet's weights under any of three naming schemes. Others are left out.

    The schemes are BasicSR's, and the earlier and later ones of the ESRGAN repository. The
    earliest has one list of layers: ``model.0``, the body in ``model.1.sub``, the convolutions of
    the doublings, and the last two convolutions.
    """
    names = {}
    modern = _modern(state)
    for name in state:
        layer, _, array = modern.get(name, name).rpartition(".")
        for pattern, part in _PARTS:
            match = re.fullmatch(pattern, layer)
            if match and array in _ARRAYS:
                names[name] = f"{part(match)}/{_ARRAYS[array]}"
    return names


def _modern(names: Iterable[str]) -> dict[str, str]:
    """The earliest names of the ESRGAN repository to BasicSR's."""
    listed = [m for name in names if (m := re.fullmatch(r"model\.(\d+)\.(weight|bias)", name))]
    ends = sorted({int(match[1]) for match in listed} - {0})
    layers = {f"model.{n}": f"conv_up{i + 1}" for i, n in enumerate(ends)}
    last = zip(ends[-2:], ("conv_hr", "conv_last"), strict=False)
    layers |= {f"model.{n}": name for n, name in last}
    layers["model.0"] = "conv_first"
    modern = {}
    for name in names:
        layer, _, array = name.rpartition(".")
        if match := re.fullmatch(r"model\.1\.sub\.(\d+)\.RDB([123])\.conv([1-5])\.0", layer):
            modern[name] = f"body.{match[1]}.rdb{match[2]}.conv{match[3]}.{array}"
        elif re.fullmatch(r"model\.1\.sub\.\d+", layer):
            modern[name] = f"conv_body.{array}"
        elif layer in layers:
            modern[name] = f"{layers[layer]}.{array}"
    return modern


def srvgg_names(state: State) -> Names:
    """Our names for SRVGGNetCompact's weights: convolutions and PReLUs, ``body.N`` in order."""
    layers = {int(m[1]) for n in state if (m := re.fullmatch(r"body\.(\d+)\.weight", n))}
    convs = sorted(n for n in layers if state[f"body.{n}.weight"].ndim == 4)
    parts = ["head", *(f"body_{i}" for i in range(len(convs) - 2))]
    names: Names = {}
    for n, part in zip(convs, parts, strict=False):
        names[f"body.{n}.weight"], names[f"body.{n}.bias"] = (
            f"{part}/conv/kernel",
            f"{part}/conv/bias",
        )
        names[f"body.{n + 1}.weight"] = f"{part}/prelu/slope"
    if convs:
        last = f"body.{convs[-1]}"
        names |= {f"{last}.weight": "tail/kernel", f"{last}.bias": "tail/bias"}
    return {name: ours for name, ours in names.items() if name in state}


def rrdbnet_config(state: State) -> Config:
    """The config of the RRDBNet with these weights, from their shapes.

    Raises:
        UserError: These are not the weights of an RRDBNet that can be built.
    """
    shapes = {ours: state[name].shape for name, ours in rrdbnet_names(state).items()}
    blocks = {ours.split("/")[0] for ours in shapes if ours.startswith("body_")} - {"body_end"}
    doublings = sum(ours.startswith("upsampler_") and ours.endswith("/kernel") for ours in shapes)
    first, last, growing = (
        shapes.get(f"{part}/kernel", ()) for part in ("head", "tail", "body_0/dense_0/conv_0")
    )
    if not blocks or not len(first) == len(last) == len(growing) == 4:
        raise _not_the_weights(
            "rrdbnet", "conv_first, body.0.rdb1.conv1 and conv_last, or older names for them", state
        )
    unshuffle = math.isqrt(first[1] // last[0])
    _require_colour("rrdbnet", last[0], unshuffle**2 * last[0] == first[1])
    scale, rest = divmod(2**doublings, unshuffle)
    if rest or (unshuffle > 1 and doublings != 2):
        raise UserError(
            f"it has {doublings} doublings of an input that is unshuffled by {unshuffle}, which "
            "no network here has"
        )
    return _config(
        {
            "name": "rrdbnet",
            "features": first[0],
            "blocks": len(blocks),
            "growth": growing[0],
            "unshuffle": doublings == 2,
        },
        scale,
    )


def srvgg_config(state: State, activation: str | None = None) -> Config:
    """The config of the SRVGGNetCompact with these weights, from their shapes.

    Args:
        state: The weights.
        activation: ``"relu"`` or ``"leaky_relu"``. None stands for PReLU, whose weights are in the
            file.

    Raises:
        UserError: These are not the weights of an SRVGGNetCompact, or the activation is missing.
    """
    shapes = {ours: state[name].shape for name, ours in srvgg_names(state).items()}
    blocks = sum(bool(re.fullmatch(r"body_\d+/conv/kernel", ours)) for ours in shapes)
    if not blocks:
        raise _not_the_weights("srvgg", "body.0, body.2 and so on", state)
    first, last = shapes["head/conv/kernel"], shapes["tail/kernel"]
    scale = math.isqrt(last[0] // first[1])
    _require_colour("srvgg", first[1], scale**2 * first[1] == last[0])
    has_slopes = "head/prelu/slope" in shapes
    if has_slopes == bool(activation):
        raise UserError(
            "its activation is PReLU: leave --activation out"
            if has_slopes
            else "its activation has no weights, so the file does not say which it is: give "
            "--activation relu or --activation leaky_relu"
        )
    return _config(
        {
            "name": "srvgg",
            "features": first[0],
            "blocks": blocks,
            "activation": activation or "prelu",
        },
        scale,
    )


def _config(fields: dict[str, Any], scale: int) -> Config:
    config = default()
    config.task = "sr" if scale > 1 else "denoise"
    config.scale = scale
    config.model.update({"amplification": 1.0, **fields})
    return config


def _require_colour(name: str, channels: int, fits: bool) -> None:
    if channels != 3 or not fits:
        raise UserError(f"{name} is for images of 3 channels here, and its weights are for others")


def _not_the_weights(name: str, parts: str, state: State) -> UserError:
    shown = ", ".join(sorted(state)[:3]) or "nothing"
    return UserError(
        f"these are not the weights of {name}: it has {parts}, and this is {shown} and so on"
    )
