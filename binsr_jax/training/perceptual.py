"""The perceptual loss: a distance in the features of VGG19, with weights from the user's file."""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from binsr_jax.errors import UserError
from binsr_jax.files import expanded
from binsr_jax.models.torch_files import read_state
from binsr_jax.models.vgg import VGG19
from binsr_jax.settings import TrainConfig

# The convolutions in order, with their numbers in torchvision's list of layers.
_CONVS = [f"conv{block}_{i}" for block, n in enumerate((2, 2, 4, 4, 4), 1) for i in range(1, n + 1)]
_TORCHVISION = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)


def perceptual_layers(train: TrainConfig) -> dict[str, float]:
    """The layers of ``config.train.perceptual_layers`` and their weights.

    Raises:
        UserError: The text is not a list of VGG19 convolutions with weights.
    """
    layers = {}
    for text in train.perceptual_layers:
        match = re.fullmatch(r"(conv[1-5]_[1-4])=([0-9.eE+-]+)", str(text))
        try:
            weight = float(match[2]) if match and match[1] in _CONVS else math.nan
        except ValueError:
            weight = math.nan
        if not match or not 0 <= weight < math.inf:
            raise UserError(
                f"config.train.perceptual_layers has {text!r}, but needs a convolution of VGG19 "
                "and its weight, such as 'conv5_4=1'."
            )
        layers[match[1]] = weight
    if not layers:
        raise UserError("config.train.perceptual_layers is empty: name layers such as 'conv5_4=1'.")
    return layers


def vgg_shapes(train: TrainConfig) -> dict[str, Any]:
    """The shapes of the arrays that ``load_vgg`` returns."""
    image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    network = VGG19(tuple(perceptual_layers(train)))
    return jax.eval_shape(network.init, jax.random.key(0), image)["params"]


def load_vgg(train: TrainConfig) -> dict[str, Any]:
    """The parameters of VGG19, up to the last layer that is needed.

    Args:
        train: ``config.train``; its ``perceptual_file`` holds the weights, named as in torchvision
            (``features.0.weight``) or by layer (``conv1_1.weight``).

    Raises:
        UserError: There is no such file, or it lacks these weights.
    """
    if not train.perceptual_file:
        raise UserError(
            "config.train.perceptual_weight needs the weights of VGG19, which do not come with "
            "binsr-jax: save torchvision's (vgg19-dcbb9e9d.pth) and name the file with "
            "--config.train.perceptual_file."
        )
    path = expanded(train.perceptual_file)
    state = {re.sub(r"^vgg_net\.", "", name): array for name, array in read_state(path).items()}
    layers = perceptual_layers(train)
    needed = _CONVS[: 1 + max(map(_CONVS.index, layers))]
    shapes = vgg_shapes(train)
    params = {}
    for conv in needed:
        number = _TORCHVISION[_CONVS.index(conv)]
        names = (f"{conv}.", f"features.{number}.", f"{number}.")
        name = next((name for name in names if f"{name}weight" in state), names[1])
        kernel, bias = state.get(f"{name}weight"), state.get(f"{name}bias")
        shape = shapes[conv]["kernel"].shape
        if kernel is None or bias is None or kernel.shape != (shape[3], shape[2], *shape[:2]):
            raise UserError(
                f"{path} lacks the weights of VGG19: {name}weight of shape "
                f"{(shape[3], shape[2], *shape[:2])} and its bias are missing or of another shape."
            )
        params[conv] = {"kernel": np.moveaxis(kernel, (0, 1), (-1, -2)), "bias": bias}
    return params


def perceptual_distance(
    params: Any, layers: dict[str, float], output: jax.Array, target: jax.Array
) -> jax.Array:
    """The weighted sum over layers of the mean absolute difference of features.

    Johnson et al., "Perceptual Losses for Real-Time Style Transfer and Super-Resolution". Features
    are taken before the activation, as in ESRGAN.

    Args:
        params: The result of ``load_vgg``.
        layers: Weights by layer.
        output: ``[B, H, W, 3]`` in about 0..1.
        target: Of the same shape; no gradient flows to it.
    """
    network = VGG19(tuple(layers))
    ours, theirs = (network.apply({"params": params}, x) for x in (output, target))
    assert isinstance(ours, dict)
    assert isinstance(theirs, dict)
    distance = jnp.zeros((), jnp.float32)
    for name, weight in layers.items():
        distance += weight * jnp.abs(ours[name] - jax.lax.stop_gradient(theirs[name])).mean()
    return distance
