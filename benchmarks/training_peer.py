"""The peer of the training benchmark: the same EDSR in PyTorch.

The parameters are those of the Flax network in PyTorch's order of axes, so that loss and gradient
of the two can be compared before the timing.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from binsr_jax.config import Config
from binsr_jax.models.edsr import DIV2K_MEAN


class Sign(torch.autograd.Function):
    """The sign with the gradient of a piecewise parabola (attention paper, equation 6)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return torch.where(x > 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> torch.Tensor:
        (x,), (gradient,) = ctx.saved_tensors, grad_outputs
        return gradient * (2 - 2 * x.abs()).clamp(min=0)


def training_step(
    config: Config, params: Mapping[str, Any], batch: dict[str, np.ndarray], threads: int
) -> Callable[[], tuple[float, float]]:
    """A function that makes one update and returns the loss and the norm of its gradient."""
    torch.set_num_threads(threads)
    leaves: list[nn.Parameter] = []
    tree = _tensors(params, leaves)
    optimizer = torch.optim.Adam(
        leaves,
        lr=config.train.learning_rate,
        betas=(config.train.beta1, config.train.beta2),
        eps=config.train.epsilon,
    )
    low, high = (torch.from_numpy(batch[name].transpose(0, 3, 1, 2).copy()) for name in batch)

    def step() -> tuple[float, float]:
        optimizer.zero_grad(set_to_none=True)
        loss = F.l1_loss(_network(config, tree, low), high)
        loss.backward()
        norm = nn.utils.get_total_norm([leaf.grad for leaf in leaves if leaf.grad is not None])
        optimizer.step()
        return float(loss.detach()), float(norm)

    return step


def _tensors(tree: Mapping[str, Any], leaves: list[nn.Parameter]) -> dict[str, Any]:
    """The parameters as tensors that broadcast over ``[B, C, H, W]``, also listed in ``leaves``."""

    def convert(value: Any) -> Any:
        if isinstance(value, Mapping):
            return _tensors(value, leaves)
        array = np.asarray(value)
        if array.ndim == 2:
            array = array[None, None]
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.reshape(-1, 1, 1)
        leaves.append(nn.Parameter(torch.from_numpy(array.copy())))
        return leaves[-1]

    return {name: convert(value) for name, value in tree.items()}


def _network(config: Config, p: Mapping[str, Any], x: torch.Tensor) -> torch.Tensor:
    k = config.model.amplification
    mean = torch.tensor(DIV2K_MEAN).reshape(-1, 1, 1)
    y = features = F.leaky_relu(_conv(p["head"], k * (x - mean)), 0.1)
    for i in range(sum(name.startswith("body_") for name in p) - 1):
        y = _unit(p[f"body_{i}"], y)
    y = _conv(p["body_end"]["conv"], y) + features
    y = F.pixel_shuffle(_conv(p["upsampler_0"]["conv"], y), config.scale)
    return _conv(p["tail"], y) / k + mean


def _conv(p: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, p["kernel"], p["bias"].flatten(), padding=p["kernel"].shape[-1] // 2)


def _unit(p: Mapping[str, Any], x: torch.Tensor) -> torch.Tensor:
    if "conv_0" in p:
        return x + _conv(p["conv_1"], F.relu(_conv(p["conv_0"], x)))
    signs = Sign.apply(x - p["rsign"]["threshold"])
    w = p["conv"]["kernel"]
    # Straight through where |w| <= 1, with a detached scale (attention paper, equation 7).
    clipped = w.clamp(-1, 1)
    binary = w.detach().abs().mean((1, 2, 3), keepdim=True) * torch.where(w > 0, 1.0, -1.0)
    y = F.conv2d(signs, (binary - clipped).detach() + clipped, padding=1)
    p_act = p["rprelu"]
    y = F.prelu(y - p_act["shift_in"], p_act["slope"].flatten()) + p_act["shift_out"]
    if "binary_scale" not in p:
        return y + x
    y = p["binary_scale"] * _attended(p.get("binary_attention"), y)
    return y + p["residual_scale"] * _attended(p.get("residual_attention"), x)


def _attended(p: Mapping[str, Any] | None, x: torch.Tensor) -> torch.Tensor:
    if p is None:
        return x
    if "map" in p:
        return torch.sigmoid(_conv(p["map"], x)) * x
    y = F.relu(_conv(p["reduce"], x.mean((2, 3), keepdim=True)))
    return torch.sigmoid(_conv(p["expand"], y)) * x
