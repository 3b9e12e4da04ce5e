"""SRResNet, binary (BBCU-L and BBCU-M) and float, against the reference."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from official import BBCU_L, BBCU_M, Reference, check_network, model_config, parameters, shapes

from binsr_jax.models import network
from binsr_jax.ops.upsampling import upsample_bilinear

OFFICIAL = {"bbcul": BBCU_L, "bbcum": BBCU_M}
SRRESNET = {**BBCU_L, "unit": "residual"}


def test_networks_equal_the_reference(reference_dir, reference):
    names = [path.stem for path in reference_dir.glob("4_bbcu*.npz")]
    assert names
    for name in names:
        check_network(Reference(reference(name), OFFICIAL[name.split("_")[1]]), name)


def test_parameter_counts_equal_the_official(reference_dir):
    counts = json.loads((reference_dir / "5_parameter_counts.json").read_text())
    found = [name for name in counts if name.startswith("bbcu")]
    assert found
    for name in found:
        match = re.fullmatch(r"(bbcul|bbcum)_x(\d)", name)
        assert match
        ours = shapes(model_config(**OFFICIAL[match[1]]), int(match[2]))
        assert parameters(ours) == counts[name]["all"], name


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("fields", [BBCU_L, BBCU_M, SRRESNET], ids=["l", "m", "float"])
def test_every_scale(scale, fields):
    model = network(model_config(**fields, features=6, blocks=2), scale)
    x = jax.ShapeDtypeStruct((2, 5, 7, 3), jnp.float32)
    y, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
    assert (y.shape, y.dtype) == ((2, 5 * scale, 7 * scale, 3), jnp.float32)


def test_training_starts_near_the_enlarged_image():
    """0.1 of He's deviation and zero biases outside the body; PyTorch's default in the body."""
    model = network(model_config(**BBCU_L, features=32, blocks=1, amplification=65.0), 2)
    x = jax.random.uniform(jax.random.key(0), (1, 5, 7, 3))
    y, variables = jax.jit(model.init_with_output)(jax.random.key(1), x)
    assert 0 < np.abs(y - upsample_bilinear(x, 2)).max() < 0.1
    params = variables["params"]
    layers = (params["head"], params["tail"], params["upsampler_0"]["conv"])
    for layer in (*layers, params["hr_conv"]["conv"]):
        fan_in = np.prod(layer["kernel"].shape[:3])
        assert np.std(layer["kernel"]) == pytest.approx(0.1 * (2 / fan_in) ** 0.5, rel=0.1)
        assert not np.any(layer["bias"])
    assert np.abs(params["body_0"]["conv"]["kernel"]).max() == pytest.approx(288**-0.5, rel=0.01)
