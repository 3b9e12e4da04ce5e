"""The networks of the reference arrays, and the comparison of ours with them."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from binsr_jax import config as config_lib
from binsr_jax.models import network
from binsr_jax.models.torch_weights import from_torch

FLOAT_EDSR = {
    "unit": "residual",
    "head_activation": "none",
    "body_end": "conv",
    "upsampler": "float",
}
BBCU_L = {
    "name": "srresnet",
    "unit": "bbcu",
    "upsampler": "float",
    "hr_conv": "float",
    "image_skip": "bilinear",
}
BBCU_M = {**BBCU_L, "upsampler": "binary", "hr_conv": "binary"}
DNCNN = {"name": "dncnn", "unit": "float", "head_activation": "relu", "amplification": 1.0}
BINARY_DENOISER = {
    "name": "dncnn",
    "unit": "bbcu",
    "head_activation": "relu",
    "bias": "none",
}
BINARY_DEBLOCKER = {**BINARY_DENOISER, "bias": "all"}


def model_config(**fields) -> config_lib.ModelConfig:
    model = config_lib.default().model
    model.update(fields)
    return model


def shapes(config: config_lib.ModelConfig, scale: int, channels: int = 3) -> Any:
    image = jnp.zeros((1, 4, 4, channels))
    return jax.eval_shape(network(config, scale, channels).init, jax.random.key(0), image)["params"]


def parameters(tree) -> int:
    return sum(np.size(leaf) for leaf in jax.tree.leaves(tree))


def nhwc(array: np.ndarray) -> np.ndarray:
    return array.transpose(0, 2, 3, 1)


class Reference:
    """One network of the reference arrays, in our layout.

    ``fields`` of ``config.model`` give its kind. Features, blocks and k are found from the arrays.
    """

    def __init__(
        self, arrays: Mapping[str, np.ndarray], fields: Mapping[str, Any], value_range: float = 1.0
    ):
        self.x, self.target, self.y, self.grad_x = (
            nhwc(arrays[key]) for key in ("x", "target", "y", "grad_x")
        )
        self.range = value_range
        self.loss = float(arrays["l1_loss"])
        self.state = {k[6:]: v for k, v in arrays.items() if k.startswith("param/")}
        self.grads = {k[5:]: v for k, v in arrays.items() if k.startswith("grad/")}
        self.scale = self.y.shape[1] // self.x.shape[1]
        self.channels = self.x.shape[-1]
        self.config = model_config(**{**size_of(self.state), **fields})
        if "amplification" not in fields:
            self.config.amplification = self._amplification()

    def _amplification(self) -> float:
        """k, from a gradient that is known apart from its factor 1 / k.

        The gradient at the tail's output is ``g = +-sign(y - target) / (k size)``. The gradient of
        the tail's bias is the sum of g over the image. Without a bias, the gradient of the last
        unit's last shift is the sum of g convolved with the transposed kernel.
        """
        g = np.sign(self.y - self.target) / self.y.size
        layers = [
            name for name in self.grads if re.fullmatch(r"(conv_last|model\.\d+)\.bias", name)
        ]
        if layers:
            known, gradient = g.sum((0, 1, 2)), self.grads[max(layers, key=_number)]
        else:
            kernel = self.state[max((n for n in self.state if _is_layer(n)), key=_number)]
            shifts = [name for name in self.grads if name.endswith("relu.pr_bias1.bias")]
            gradient = self.grads[max(shifts, key=_number)].ravel()
            height, width = g.shape[1:3]
            known = np.zeros(len(gradient))
            for i in range(3):  # a tap off the centre misses a row or column of the features
                for j in range(3):
                    seen = g[
                        :,
                        max(0, 1 - i) : height - max(0, i - 1),
                        max(0, 1 - j) : width - max(0, j - 1),
                    ]
                    known += seen.sum((0, 1, 2)) @ kernel[:, :, i, j]
        largest = np.abs(gradient).argmax()
        k = abs(float(known[largest] / gradient[largest]))
        rule = round(k * 32) / 32  # the papers' k = 130 n / 64 is a multiple of 1/32
        return rule if abs(rule - k) < 2e-5 * k else k

    def params(self) -> Any:
        return jax.tree.map(
            jnp.asarray, from_torch(self.state, shapes(self.config, self.scale, self.channels))
        )


def size_of(state: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The features and blocks of a PyTorch state."""
    heads = ("conv_first.weight", "head.0.weight", "model.0.weight")
    head = next(array for name, array in state.items() if name in heads)
    part = re.compile(r"(body\.\d+\.(?:body|conv1)|model\.\d+)")
    parts = {match[1] for name in state if (match := part.match(name))}
    ends = 2 if "model.0.weight" in state else 0  # DnCNN's first and last layer
    return {"features": len(head), "blocks": len(parts) - ends}


def _number(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def _is_layer(name: str) -> bool:
    return re.fullmatch(r"model\.\d+\.weight", name) is not None


def check_network(
    net: Reference, name: str, gradients: Mapping[str, np.ndarray] | None = None
) -> None:
    """Compares output, loss and all gradients, by default with the network's own."""
    model = network(net.config, net.scale, net.channels)
    params = net.params()

    @jax.jit
    def loss(params, x):
        y = net.range * jnp.asarray(model.apply({"params": params}, x / net.range))
        return jnp.abs(y - net.target).mean(), y

    (value, y), (dparams, dx) = jax.value_and_grad(loss, (0, 1), has_aux=True)(
        params, jnp.asarray(net.x)
    )
    assert_close(y, net.y, name)
    assert_close(value, net.loss, name)
    assert_close(dx, net.grad_x, name)
    expected = flatten_dict(from_torch(net.grads if gradients is None else gradients, dparams))
    ours: dict[Any, Any] = flatten_dict(dparams)
    for path, gradient in expected.items():
        ours_of_path = ours[path]
        if is_shared(path):
            # In the reference all units of the body share one attention module.
            ours_of_path = sum(g for p, g in ours.items() if is_shared(p) and p[1:] == path[1:])
        assert_close(ours_of_path, gradient, f"{name} {path}")


def is_shared(path: tuple[str, ...]) -> bool:
    return path[0].startswith("body_") and path[0] != "body_end" and path[1].endswith("_attention")


def assert_close(ours, reference, name=""):
    """Asserts equality to 2e-5 of the largest element, since float32 sums differ in their order."""
    scale = float(np.abs(reference).max())
    np.testing.assert_allclose(ours, reference, rtol=1e-3, atol=2e-5 * scale + 1e-9, err_msg=name)
