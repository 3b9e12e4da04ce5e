"""Weights of other projects' float DnCNNs, with batch normalisation and under other names."""

import re
from collections.abc import Mapping

import numpy as np

from binsr_jax.errors import UserError

State = Mapping[str, np.ndarray]  # a PyTorch state_dict


def plain_dncnn(state: State, epsilon: float | None = None) -> dict[str, np.ndarray]:
    """The weights of the same DnCNN without batch normalisation, under KAIR's names.

    At inference, a normalisation after a convolution is an affine function of its output, and is
    folded into the kernel w and the bias b:

        gamma (w x + b - mean) / sqrt(var + epsilon) + beta

    The layers are numbered in one list, which is called ``model`` in KAIR, ``dncnn`` in other code,
    or has no name. If some convolutions have biases, the others get a bias of zero.

    Args:
        state: PyTorch names to arrays.
        epsilon: The normalisation's epsilon, which files do not contain. None stands for 1e-4 with
            KAIR's names, as in KAIR's code, and for PyTorch's default 1e-5 otherwise.

    Raises:
        UserError: A normalisation does not follow a convolution with as many channels.
    """
    lists = {match[1] for name in state if (match := re.match(r"(.*?)\.?(\d+)\.[a-z_]+$", name))}
    if len(lists) != 1:
        return dict(state)  # the caller reports names that do not fit
    (name,) = lists
    if epsilon is None:
        epsilon = 1e-4 if name == "model" else 1e-5
    prefix = f"{name}." if name else ""
    plain = {f"model.{key.removeprefix(prefix)}": array for key, array in state.items()}
    layers = sorted({int(key.split(".")[1]) for key in plain})
    before = dict(zip(layers[1:], layers, strict=False))
    for layer in layers:
        if f"model.{layer}.running_mean" in plain:
            _fold(plain, f"model.{before.get(layer, layer)}", f"model.{layer}", epsilon)
    kernels = [key for key in plain if key.endswith(".weight") and plain[key].ndim == 4]
    if any(key.endswith(".bias") for key in plain):
        for key in kernels:
            bias = key.removesuffix("weight") + "bias"
            plain.setdefault(bias, np.zeros(len(plain[key]), np.float32))
    return plain


def _fold(state: dict[str, np.ndarray], conv: str, norm: str, epsilon: float) -> None:
    """Folds a normalisation into the convolution before it, in place."""
    mean, variance = state.pop(f"{norm}.running_mean"), state.pop(f"{norm}.running_var", None)
    kernel = state.get(f"{conv}.weight")
    if kernel is None or kernel.ndim != 4 or variance is None or len(mean) != len(kernel):
        raise UserError(f"the normalisation {norm} follows no convolution of as many channels")
    gamma = state.pop(f"{norm}.weight", np.ones_like(mean))
    beta = state.pop(f"{norm}.bias", np.zeros_like(mean))
    factor = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)
    bias = state.get(f"{conv}.bias", np.zeros_like(mean))
    state[f"{conv}.weight"] = (kernel * factor[:, None, None, None]).astype(np.float32)
    state[f"{conv}.bias"] = ((bias - mean) * factor + beta).astype(np.float32)
