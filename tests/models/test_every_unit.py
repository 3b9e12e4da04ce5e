"""Every unit in every network, for training and packed."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from official import model_config

from binsr_jax.models import MODELS, network
from binsr_jax.nn.binary import BinaryConv
from binsr_jax.nn.packed import SignConv
from binsr_jax.nn.units import UNITS


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_fits_a_network(name, unit):
    scale = 1 if name == "dncnn" else 2
    config = model_config(name=name, unit=unit, features=4, blocks=2, hr_conv="binary")
    x = jax.ShapeDtypeStruct((2, 4, 5, 3), jnp.float32)
    variables = {}
    for conv in (BinaryConv, SignConv):
        model = network(config, scale, conv=conv)
        variables = jax.eval_shape(model.init, jax.random.key(0), x)
        y = jax.eval_shape(model.apply, variables, x)
        assert (y.shape, y.dtype) == ((2, 4 * scale, 5 * scale, 3), jnp.float32)
    # A packed network has no variables besides its parameters.
    assert variables.keys() == {"params"}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        *(("edsr", part) for part in ("head", "upsampler", "tail")),
        *(("srresnet", part) for part in ("head", "upsampler", "hr_conv", "tail")),
    ],
)
def test_each_part_is_binary_on_its_own(name, part):
    floats = {"upsampler": "float", "hr_conv": "float", "unit": "residual", "body_end": "conv"}
    x = jax.ShapeDtypeStruct((1, 3, 3, 3), jnp.float32)

    def binary_parts(**fields):
        config = model_config(**{**floats, "name": name, "features": 4, "blocks": 2, **fields})
        model = network(config, 2, conv=SignConv)
        params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
        return {
            place.split("_0")[0]
            for place, variables in params.items()
            if any(leaf.dtype == jnp.int8 for leaf in jax.tree.leaves(variables))
        }

    assert binary_parts() == set()
    assert binary_parts(**{part: "binary"}) == {part}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("edsr", {"head", "upsampler", "tail"}),
        ("srresnet", {"head", "upsampler", "hr_conv", "tail"}),
        ("dncnn", {"head", "tail"}),
    ],
)
def test_all_binary_parts_receive_the_progress(name, parts):
    # Without it the gradient of balanced weights would stay as at the start of training.
    fields = {"unit": "residual", "body_end": "conv", "weight_scale": "libra"}
    config = model_config(
        **fields, name=name, features=4, blocks=2, **dict.fromkeys(parts, "binary")
    )
    received = {}

    def record(call, args, kwargs, context):
        if isinstance(context.module, BinaryConv) and context.method_name == "__call__":
            received[context.module.path[0].split("_0")[0]] = kwargs["progress"]
        return call(*args, **kwargs)

    def initial(x):
        return network(config, 1 if name == "dncnn" else 2).init(jax.random.key(0), x, True, 0.25)

    with nn.intercept_methods(record):
        jax.eval_shape(initial, jax.ShapeDtypeStruct((1, 3, 3, 3), jnp.float32))
    assert received == dict.fromkeys(parts, 0.25)
