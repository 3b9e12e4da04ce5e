"""LPIPS, a distance between images as people see them, with weights from the user's file."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from binsr_jax.errors import UserError
from binsr_jax.models.torch_files import read_state

Distance = Callable[[np.ndarray, np.ndarray], float]

# The convolutions of AlexNet: their names in the package ``lpips``, and the shapes of their kernels
# in PyTorch's order, strides and paddings. A ReLU follows each.
_CONVS = (
    ("net.slice1.0", (64, 3, 11, 11), 4, 2),
    ("net.slice2.3", (192, 64, 5, 5), 1, 2),
    ("net.slice3.6", (384, 192, 3, 3), 1, 1),
    ("net.slice4.8", (256, 384, 3, 3), 1, 1),
    ("net.slice5.10", (256, 256, 3, 3), 1, 1),
)
_POOLED = (1, 2)  # the convolutions before which the largest of 3 by 3 features are taken
# Statistics of ImageNet, for images in -1..1, with as many digits as in the package.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_SMALLEST = 31  # pixels of a side: with fewer, nothing is left after the second pooling


def load_lpips(path: Path) -> Distance:
    """LPIPS (Zhang et al. 2018, version 0.1, AlexNet) as a function of two images; 0 is equal.

    The images are uint8 ``[H, W, C]``, RGB or grey. They are compared whole, without cropping a
    border.

    Args:
        path: The state of ``lpips.LPIPS(net="alex")``, in any form that ``read_state`` reads.

    Raises:
        UserError: There is no such file, or it lacks these weights.
    """
    state = read_state(path)
    wanted: dict[str, tuple[int, ...]] = {}
    for i, (name, shape, _, _) in enumerate(_CONVS):
        wanted |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        wanted[f"lin{i}.model.1.weight"] = (1, shape[0], 1, 1)
    for name, shape in wanted.items():
        if name not in state or state[name].shape != shape:
            raise UserError(
                f'{path} lacks the weights of lpips.LPIPS(net="alex"): {name} of shape {shape} is '
                "missing or of another shape."
            )
    weights = {name: jnp.asarray(state[name]) for name in wanted}
    compiled = jax.jit(_distance)

    def distance(a: np.ndarray, b: np.ndarray) -> float:
        if min(a.shape[:2]) < _SMALLEST:
            raise UserError(
                f"LPIPS needs images of {_SMALLEST} pixels a side, and one has "
                f"{a.shape[1]}x{a.shape[0]}: leave --lpips out."
            )
        pair = np.stack([np.broadcast_to(image, (*image.shape[:2], 3)) for image in (a, b)])
        return float(compiled(weights, pair))

    return distance


def _distance(weights: dict[str, jax.Array], pair: jax.Array) -> jax.Array:
    """The distance of two images, uint8 ``[2, H, W, 3]``."""
    x = (pair.astype(jnp.float32) / 127.5 - 1 - jnp.array(_SHIFT)) / jnp.array(_SCALE)
    x = jnp.moveaxis(x, -1, 1)
    total = jnp.zeros(())
    for i, (name, _, stride, padding) in enumerate(_CONVS):
        if i in _POOLED:
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 1, 3, 3), (1, 1, 2, 2), "VALID")
        x = jax.lax.conv_general_dilated(
            x,
            weights[f"{name}.weight"],
            (stride, stride),
            [(padding, padding)] * 2,
            precision=jax.lax.Precision.HIGHEST,
        )
        x = jax.nn.relu(x + weights[f"{name}.bias"][:, None, None])
        ours, theirs = x / (jnp.sqrt((x**2).sum(axis=1, keepdims=True)) + 1e-10)
        head = weights[f"lin{i}.model.1.weight"][0]
        total += (head * (ours - theirs) ** 2).sum(axis=0).mean()
    return total
