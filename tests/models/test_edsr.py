"""EDSR, float and binary, against the reference: outputs, gradients, parameter counts."""

import json
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from binsr_jax import config as config_lib
from binsr_jax.errors import UserError
from binsr_jax.models import build
from binsr_jax.models.edsr import DIV2K_MEAN
from binsr_jax.models.torch_weights import from_torch
from binsr_jax.ops.image import upsample_bilinear

OFFICIAL_KINDS = {"None": "none", "SE": "se", "Spat": "spatial"}


def model_config(**fields) -> config_lib.Config:
    model = config_lib.default().model
    model.update(fields)
    return model


FLOAT_EDSR = {
    "unit": "residual",
    "head_activation": "none",
    "body_end": "conv",
    "upsampler": "float",
}


def official_attention(name: str) -> dict[str, str]:
    """BinEDSRSpatSE is spatial attention on the residual branch and SE on the binary one."""
    match = re.fullmatch(r"BinEDSR(?:(None|SE|Spat)(None|SE|Spat))?", name)
    assert match, name
    return {
        "residual_attention": OFFICIAL_KINDS[match[1] or "None"],
        "binary_attention": OFFICIAL_KINDS[match[2] or "None"],
    }


def nhwc(array: np.ndarray) -> np.ndarray:
    return array.transpose(0, 2, 3, 1)


def parameters(tree) -> int:
    return sum(np.size(leaf) for leaf in jax.tree.leaves(tree))


def shapes(config: config_lib.Config, scale: int):
    image = jnp.zeros((1, 4, 4, 3))
    return jax.eval_shape(build(config, scale).init, jax.random.key(0), image)["params"]


class Reference:
    """One network of the reference arrays, in our layout."""

    def __init__(self, name: str, arrays: Mapping[str, np.ndarray]):
        self.x, self.target, self.y, self.grad_x = (
            nhwc(arrays[key]) for key in ("x", "target", "y", "grad_x")
        )
        self.loss = float(arrays["l1_loss"])
        self.state = {k[6:]: v for k, v in arrays.items() if k.startswith("param/")}
        self.grads = {k[5:]: v for k, v in arrays.items() if k.startswith("grad/")}
        self.scale = self.y.shape[1] // self.x.shape[1]
        # EDSR-PyTorch works in 0..255 and has no amplification of its own: k = 255 between 0..1.
        self.range = 255.0 if name.startswith("5_edsr") else 1.0
        is_block = re.compile(r"body\.(\d+)\.(?:body|conv1)")
        blocks = {m[1] for key in self.state if (m := is_block.match(key))}
        heads = ("conv_first.weight", "head.0.weight")
        head = next(array for key, array in self.state.items() if key in heads)
        binary = any("binary_conv" in key for key in self.state)
        hidden = next((len(v) for k, v in self.state.items() if k.endswith("fc1.weight")), 4)
        residual_scale = re.search(r"res([\d.]+)$", name)
        self.config = model_config(
            features=len(head),
            blocks=len(blocks),
            amplification=self.amplification(),
            attention_hidden=hidden,
            residual_scale=float(residual_scale[1]) if residual_scale else 1.0,
        )
        self.config.update(official_attention(name.split("_")[-1]) if binary else FLOAT_EDSR)

    def amplification(self) -> float:
        """k, since the loss has the gradient sum(sign(y - target)) / (k n) of the tail's bias."""
        if self.range == 255.0:
            return 255.0
        signs = np.sign(self.y - self.target).sum((0, 1, 2)) / self.y.size
        gradient = self.grads["conv_last.bias"]
        largest = np.abs(gradient).argmax()
        return float(np.round(signs[largest] / gradient[largest], 2))


REFERENCE_NETWORKS = ("4_ovch_", "5_edsr_")


def test_networks_equal_the_reference(reference_dir, reference):
    names = [p.stem for p in reference_dir.glob("*.npz") if p.stem.startswith(REFERENCE_NETWORKS)]
    assert names
    for name in names:
        check_network(Reference(name, reference(name)), name)


def check_network(net: Reference, name: str) -> None:
    model = build(net.config, net.scale)
    params = from_torch(net.state, shapes(net.config, net.scale))
    params = jax.tree.map(jnp.asarray, params)

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
    expected = flatten_dict(from_torch(complete(net), dparams))
    ours: dict[Any, Any] = flatten_dict(dparams)
    for path, gradient in expected.items():
        ours_of_path = ours[path]
        if is_shared(path):
            # The reference has one attention module for all units of the body.
            ours_of_path = sum(g for p, g in ours.items() if is_shared(p) and p[1:] == path[1:])
        assert_close(ours_of_path, gradient, f"{name} {path}")


def is_shared(path: tuple[str, ...]) -> bool:
    return path[0].startswith("body_") and path[0] != "body_end" and path[1].endswith("_attention")


def complete(net: Reference) -> dict[str, np.ndarray]:
    """The gradients under all names: a shared module's are listed under its first name only."""
    first = {}
    for name in net.state:
        if name in net.grads:
            first.setdefault(name.split(".", 4)[-1], net.grads[name])
    return {
        name: net.grads[name] if name in net.grads else first[name.split(".", 4)[-1]]
        for name in net.state
        if not name.startswith(("sub_mean", "add_mean"))
    }


def assert_close(ours, reference, name=""):
    """Equal but for the order of float32 sums: 2e-5 of the largest element."""
    scale = float(np.abs(reference).max())
    np.testing.assert_allclose(ours, reference, rtol=1e-3, atol=2e-5 * scale + 1e-9, err_msg=name)


def test_parameter_counts_equal_the_official(reference_dir):
    counts = json.loads((reference_dir / "5_parameter_counts.json").read_text())
    for name, count in counts.items():
        if match := re.fullmatch(r"edsr_(baseline|full)_x(\d)", name):
            full = {"features": 256, "blocks": 32} if match[1] == "full" else {}
            ours = parameters(shapes(model_config(**FLOAT_EDSR, **full), int(match[2])))
            assert ours == count["without_mean_shift"], name
        elif match := re.fullmatch(r"ovch_(\w+)_x(\d)", name):
            float_net = match[1] == "EDSR"
            fields = FLOAT_EDSR if float_net else official_attention(match[1])
            params = shapes(model_config(**fields), int(match[2]))
            # The reference counts the one attention module that its 32 body units share once.
            shared = {p: s for p, s in flatten_dict(params).items() if is_shared(p)}
            repeated = parameters([s for p, s in shared.items() if p[0] != "body_0"])
            assert parameters(params) - repeated == count["all"], name


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("fields", [FLOAT_EDSR, {"residual_attention": "se"}], ids=["float", "bin"])
@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 1, 1)])
def test_every_scale_channel_number_and_size(scale, fields, shape):
    model = build(model_config(features=5, blocks=1, **fields), scale, channels=shape[-1])
    x = jax.random.uniform(jax.random.key(0), shape)
    y, _ = model.init_with_output(jax.random.key(1), x)
    assert y.shape == (shape[0], scale * shape[1], scale * shape[2], shape[3])
    assert y.dtype == jnp.float32
    assert np.isfinite(y).all()


def test_with_an_image_skip_training_starts_at_the_enlarged_image():
    model = build(model_config(features=4, blocks=2, image_skip="bilinear"), 2)
    x = jax.random.uniform(jax.random.key(0), (1, 6, 5, 3))
    y, _ = model.init_with_output(jax.random.key(1), x)
    np.testing.assert_allclose(y, upsample_bilinear(x, 2), atol=1e-6)


def test_a_grey_network_subtracts_no_mean():
    assert len(DIV2K_MEAN) == 3
    model = build(model_config(features=4, blocks=1, image_skip="bilinear"), 2, channels=1)
    y, _ = model.init_with_output(jax.random.key(1), jnp.full((1, 3, 3, 1), 0.25))
    np.testing.assert_allclose(y, 0.25, atol=1e-6)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("unit", "bbcv", "bbcu"),
        ("residual_attention", "SE", "se"),
        ("upsampler", "nearest", "float"),
        ("features", 0, "above 0"),
        ("name", "edrs", "edsr"),
    ],
)
def test_a_wrong_field_names_the_right_values(field, value, named):
    with pytest.raises(UserError, match=f"config.model.{field} is .*{named}"):
        build(model_config(**{field: value}), 2)
