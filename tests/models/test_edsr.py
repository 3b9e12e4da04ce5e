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
from official import (
    FLOAT_EDSR,
    Reference,
    check_network,
    is_shared,
    model_config,
    parameters,
    shapes,
)

from binsr_jax.errors import UserError
from binsr_jax.models import network
from binsr_jax.models.edsr import DIV2K_MEAN
from binsr_jax.ops.upsampling import upsample_bilinear

OFFICIAL_KINDS = {"None": "none", "SE": "se", "Spat": "spatial"}


def official_attention(name: str) -> dict[str, str]:
    """The fields of a name: BinEDSRSpatSE has residual attention Spat and binary attention SE."""
    match = re.fullmatch(r"BinEDSR(?:(None|SE|Spat)(None|SE|Spat))?", name)
    assert match, name
    return {
        "residual_attention": OFFICIAL_KINDS[match[1] or "None"],
        "binary_attention": OFFICIAL_KINDS[match[2] or "None"],
    }


def edsr_reference(name: str, arrays: Mapping[str, np.ndarray]) -> Reference:
    """The network of the reference arrays with this name."""
    # EDSR-PyTorch computes in 0..255 without an amplification, which is k = 255 for 0..1.
    if name.startswith("5_edsr"):
        residual_scale = re.search(r"res([\d.]+)$", name)
        fields = {**FLOAT_EDSR, "amplification": 255.0}
        if residual_scale:
            fields["residual_scale"] = float(residual_scale[1])
        return Reference(arrays, fields, 255.0)
    if not any("binary_conv" in key for key in arrays):
        return Reference(arrays, FLOAT_EDSR)
    hidden = next((len(v) for k, v in arrays.items() if k.endswith("fc1.weight")), 4)
    return Reference(
        arrays, {"attention_hidden": hidden, **official_attention(name.split("_")[-1])}
    )


REFERENCE_NETWORKS = ("4_ovch_", "5_edsr_")


def test_networks_equal_the_reference(reference_dir, reference):
    names = [p.stem for p in reference_dir.glob("*.npz") if p.stem.startswith(REFERENCE_NETWORKS)]
    assert names
    for name in names:
        net = edsr_reference(name, reference(name))
        check_network(net, name, complete(net))


def complete(net: Reference) -> dict[str, np.ndarray]:
    """The gradients under all names; the file lists those of a shared module under its first."""
    first = {}
    for name in net.state:
        if name in net.grads:
            first.setdefault(name.split(".", 4)[-1], net.grads[name])
    return {
        name: net.grads[name] if name in net.grads else first[name.split(".", 4)[-1]]
        for name in net.state
        if not name.startswith(("sub_mean", "add_mean"))
    }


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
            # The reference counts the attention module once that its 32 body units share.
            shared = {p: s for p, s in flatten_dict(params).items() if is_shared(p)}
            repeated = parameters([s for p, s in shared.items() if p[0] != "body_0"])
            assert parameters(params) - repeated == count["all"], name


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("fields", [FLOAT_EDSR, {"residual_attention": "se"}], ids=["float", "bin"])
@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 1, 1)])
def test_every_scale_channel_number_and_size(scale, fields, shape):
    model = network(model_config(features=5, blocks=1, **fields), scale, channels=shape[-1])
    x = jax.random.uniform(jax.random.key(0), shape)
    y, _ = jax.jit(model.init_with_output)(jax.random.key(1), x)
    assert y.shape == (shape[0], scale * shape[1], scale * shape[2], shape[3])
    assert y.dtype == jnp.float32
    assert np.isfinite(y).all()


@pytest.mark.parametrize("upsampler", ["binary", "direct"])
def test_with_an_image_skip_training_starts_at_the_enlarged_image(upsampler):
    fields = {"features": 4, "blocks": 2, "image_skip": "bilinear", "upsampler": upsampler}
    model = network(model_config(**fields), 2)
    x = jax.random.uniform(jax.random.key(0), (1, 6, 5, 3))
    y, _ = jax.jit(model.init_with_output)(jax.random.key(1), x)
    np.testing.assert_allclose(y, upsample_bilinear(x, 2), atol=1e-6)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_without_an_upsampler_the_tail_makes_all_pixels_of_a_pixel(scale):
    model = network(model_config(features=4, blocks=1, upsampler="direct"), scale)
    x = jax.random.uniform(jax.random.key(0), (1, 5, 6, 3))
    y, made = jax.jit(model.init_with_output)(jax.random.key(1), x)
    variables: Any = made
    tail = variables["params"]["tail"]
    assert tail["kernel"].shape == (3, 3, 4, 3 * scale**2)
    bias = np.arange(3 * scale**2, dtype=np.float32)
    params = {**variables["params"], "tail": {**tail, "bias": bias}}
    moved: Any = jax.jit(model.apply)({"params": params}, x)
    change = model.amplification * (np.asarray(moved) - np.asarray(y))
    own = np.asarray(tail["bias"]).reshape(3, scale, scale)
    for i in range(scale):
        for j in range(scale):  # output (c s + i) s + j of the tail is pixel (i, j) of colour c
            expected = bias.reshape(3, scale, scale)[:, i, j] - own[:, i, j]
            np.testing.assert_allclose(change[0, 2 * scale + i, scale + j], expected, atol=1e-4)


def test_srresnet_has_an_upsampler():
    with pytest.raises(UserError, match="edsr alone"):
        network(model_config(name="srresnet", upsampler="direct"), 2)


def test_a_grey_network_subtracts_no_mean():
    assert len(DIV2K_MEAN) == 3
    model = network(model_config(features=4, blocks=1, image_skip="bilinear"), 2, channels=1)
    y, _ = jax.jit(model.init_with_output)(jax.random.key(1), jnp.full((1, 3, 3, 1), 0.25))
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
        network(model_config(**{field: value}), 2)
