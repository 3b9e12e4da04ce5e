"""The features of VGG19, which DFDNet and the perceptual loss use."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

# Statistics of ImageNet, on which VGG19 was trained: RGB in 0..1.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

# Blocks of convolutions and their features; between two blocks the image is halved.
_BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))


class VGG19(nn.Module):
    """Maps images ``[B, h, w, 3]`` in 0..1 to features by layer names.

    Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition".

    Attributes:
        layers: The requested layers: ``"conv5_4"`` is before the ReLU of the fourth convolution of
            the fifth block, ``"relu5_4"`` after it. Layers after the last requested one are not
            computed.
    """

    layers: Sequence[str]

    @nn.compact
    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        x = (x - jnp.asarray(MEAN, x.dtype)) / jnp.asarray(STD, x.dtype)
        found: dict[str, jax.Array] = {}
        for block, (convolutions, features) in enumerate(_BLOCKS, 1):
            if block > 1:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            for number in range(1, convolutions + 1):
                place = f"{block}_{number}"
                x = nn.Conv(features, (3, 3), name=f"conv{place}")(x)
                found |= {f"conv{place}": x, f"relu{place}": (x := nn.relu(x))}
                if not set(self.layers) - found.keys():
                    return {layer: found[layer] for layer in self.layers}
        raise ValueError(f"VGG19 has no layers {set(self.layers) - found.keys()}")
