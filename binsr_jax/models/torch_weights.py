"""Weights of the papers' PyTorch code in our names and layouts.

PyTorch keeps convolution kernels as ``[O, I, kh, kw]`` and linear weights as ``[out, in]``; ours
are ``[kh, kw, I, O]`` and ``[in, out]``. Its binary units add ``move0`` to the input before the
sign; ours compare with a threshold, which is ``-move0``. Every step is linear, so gradients map in
the same way.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from binsr_jax.errors import UserError
from binsr_jax.models.edsr import DIV2K_MEAN

_HERE = r"(?=\.weight|\.bias)"  # the part is a plain convolution, not a unit
# The name of a part: in EDSR-PyTorch, in BasicSR's EDSR and SRResNet, and in the binary networks
# built on them. ``layer`` is what ``_spelled_out`` calls one of DnCNN.
_PARTS: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"conv_first|head\.0", lambda m: "head"),
    (rf"body\.(\d+)\.body\.([02]){_HERE}", lambda m: f"body_{m[1]}/conv_{int(m[2]) // 2}"),
    (r"body\.(\d+)\.conv([12])", lambda m: f"body_{m[1]}/conv_{int(m[2]) - 1}"),
    (r"body\.(\d+)\.body\.([01])", lambda m: f"body_{2 * int(m[1]) + int(m[2])}"),
    (rf"(?:body\.\d+|conv_after_body){_HERE}", lambda m: "body_end/conv"),
    (r"conv_after_body", lambda m: "body_end"),
    (rf"layer\.(\d+){_HERE}", lambda m: f"body_{m[1]}/conv"),
    (r"layer\.(\d+)", lambda m: f"body_{m[1]}"),
    (r"(?:upsample|tail\.0)\.([02])", lambda m: f"upsampler_{int(m[1]) // 2}/conv"),
    (rf"conv_hr{_HERE}", lambda m: "hr_conv/conv"),
    (r"conv_hr", lambda m: "hr_conv"),
    (rf"upconv([12]?){_HERE}", lambda m: f"upsampler_{int(m[1] or 1) - 1}/conv"),
    (r"upconv([12]?)", lambda m: f"upsampler_{int(m[1] or 1) - 1}"),
    (r"conv_last|tail\.1", lambda m: "tail"),
)
# The name of an array inside a part.
_ARRAYS = {
    "weight": "kernel",
    "bias": "bias",
    "move0.bias": "rsign/threshold",
    "binary_conv.weight": "conv/kernel",
    "binary_conv.bias": "conv/bias",
    "relu.pr_bias0.bias": "rprelu/shift_in",
    "relu.pr_prelu.weight": "rprelu/slope",
    "relu.pr_bias1.bias": "rprelu/shift_out",
    "a1": "residual_scale",
    "a2": "binary_scale",
}
_ATTENTIONS = {"resid_attn": "residual_attention", "bin_attn": "binary_attention"}
_ATTENTION_LAYERS = {"fc1": "reduce", "fc2": "expand", "conv": "map"}
# PyTorch adds these inside a layer; ours subtract.
_NEGATED = {"threshold", "shift_in"}


def from_torch(
    state: Mapping[str, np.ndarray],
    params: Mapping[str, Any],
    names: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Parameters with the values of a PyTorch ``state_dict``.

    Without ``names`` it understands the names of EDSR-PyTorch, of BasicSR's EDSR and SRResNet, of
    KAIR's DnCNN, and of the binary networks of BBCU and of the attention paper. The attention
    paper's code shares one attention module among all units of the body. Ours has one per unit, and
    each gets that module's values.

    Args:
        state: PyTorch names to arrays.
        params: The ``params`` of a network of ours, or their shapes; only the shapes are used.
        names: PyTorch's names to ours, such as ``"body_0/conv/kernel"``.

    Returns:
        A tree like ``params``.

    Raises:
        UserError: Names do not fit, parameters have no value, or shapes differ; the message lists
            them.
    """
    leaves: dict[str, Any] = flatten_dict(params, sep="/")
    shapes = {name: leaf.shape for name, leaf in leaves.items()}
    ours: dict[str, np.ndarray] = {}
    unknown, misshapen = [], []
    if names is None:
        spelled = _spelled_out(state)
        names = {name: path for name in state if (path := _translate(spelled[name]))}
    for name, array in state.items():
        if name.startswith(("sub_mean.", "add_mean.")):
            _require_div2k_mean(name, array)
            continue
        path = names.get(name)
        if path is None or path not in shapes:
            unknown.append(name)
            continue
        ours[path] = _to_our_layout(path, np.asarray(array))
        if _without_units(ours[path].shape) != _without_units(shapes[path]):
            misshapen.append(
                f"{path} has shape {ours[path].shape} in the file, but {shapes[path]} in the "
                "network"
            )
    missing = shapes.keys() - ours.keys()
    faults = {"no place for ": unknown, "no value for ": missing, "": misshapen}
    listed = [fault + _listed(names) for fault, names in faults.items() if names]
    if listed:
        raise UserError(
            f"the weights do not fit the network: {'; '.join(listed)}; check the architecture's "
            "name, scale, features and blocks"
        )
    return unflatten_dict({p: array.reshape(shapes[p]) for p, array in ours.items()}, sep="/")


def _spelled_out(names: Iterable[str]) -> dict[str, str]:
    """The names, with DnCNN's single list of layers renamed as in other networks.

    ``model.N.`` becomes ``conv_first.``, ``layer.0.`` and so on, ``conv_last.``; numbers may
    have gaps.
    """
    layers = {name: re.match(r"model\.(\d+)\.", name) for name in names}
    numbers = sorted({int(match[1]) for match in layers.values() if match})
    parts = {number: f"layer.{i - 1}." for i, number in enumerate(numbers)}
    if numbers:
        parts |= {numbers[0]: "conv_first.", numbers[-1]: "conv_last."}
    return {
        name: parts[int(match[1])] + name[match.end() :] if match else name
        for name, match in layers.items()
    }


def _translate(name: str) -> str | None:
    """Our path of a PyTorch name, or None if there is none."""
    for pattern, part in _PARTS:
        match = re.match(rf"(?:{pattern})\.", name)
        if match and (array := _translate_array(name[match.end() :])):
            return f"{part(match)}/{array}"
    return None


def _translate_array(name: str) -> str | None:
    """Our path, within a part, of a PyTorch name within it."""
    if name in _ARRAYS:
        return _ARRAYS[name]
    branch, *rest = name.split(".")
    if branch in _ATTENTIONS and len(rest) == 2 and rest[0] in _ATTENTION_LAYERS:
        return f"{_ATTENTIONS[branch]}/{_ATTENTION_LAYERS[rest[0]]}/{_ARRAYS.get(rest[1])}"
    return None


def _to_our_layout(path: str, array: np.ndarray) -> np.ndarray:
    """Kernels with the input and output axes last, in that order; and our signs."""
    leaf = path.rsplit("/", 1)[-1]
    if leaf == "kernel" and array.ndim >= 2:
        array = np.moveaxis(array, (0, 1), (-1, -2))
    return (-array if leaf in _NEGATED else array).astype(np.float32)


def _without_units(shape: tuple[int, ...]) -> tuple[int, ...]:
    """PyTorch has shapes such as [1, C, 1, 1] where ours are [C]."""
    return tuple(side for side in shape if side != 1)


def _require_div2k_mean(name: str, array: np.ndarray) -> None:
    """EDSR-PyTorch keeps the mean's subtraction as a frozen 1x1 convolution; ours is a constant."""
    layer, _, kind = name.partition(".")
    mean = 255 * np.asarray(DIV2K_MEAN) * (-1 if layer == "sub_mean" else 1)
    expected = np.eye(3) if kind == "weight" else mean
    if array.size != expected.size or not np.allclose(array.ravel(), expected.ravel(), atol=1e-3):
        raise UserError(f"{name} is not the mean of DIV2K, the only one that our EDSR subtracts")


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more
