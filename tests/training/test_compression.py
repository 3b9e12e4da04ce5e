"""Training with rounded floats, and with a penalty of scales."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from binsr_jax import models
from binsr_jax.errors import UserError
from binsr_jax.ops.binarize import mean_weight_scale
from binsr_jax.ops.quantise import rounded
from binsr_jax.training.compression import sparsity_penalty, with_rounding
from binsr_jax.training.loop import train
from binsr_jax.training.scores import Validation
from binsr_jax.training.state import create_state, make_optimizer
from binsr_jax.training.step import make_gradient


def state_of(config):
    return create_state(config, models.build(config), make_optimizer(config.train))


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "lq": jnp.asarray(rng.random((2, 6, 6, 3)), jnp.float32),
        "hq": jnp.asarray(rng.random((2, 12, 12, 3)), jnp.float32),
    }


def test_all_but_latent_weights_is_rounded(tiny):
    config = tiny(**{"train.floats": "int8"})
    params = state_of(config).params
    flat: dict[Any, Any] = flatten_dict(params)
    found: dict[Any, Any] = flatten_dict(with_rounding(config, params))
    latent = models.binary_kernels(config)
    assert latent
    for path, value in flat.items():
        expected = value if path in latent else rounded(value, "int8")
        np.testing.assert_array_equal(found[path], expected)
    assert (found["head", "kernel"] != flat["head", "kernel"]).any()
    assert with_rounding(tiny(), params) is params


def test_a_steps_gradient_is_that_at_the_rounded_parameters(tiny):
    config, plain = tiny(**{"train.floats": "int8"}), tiny()
    state = state_of(config)
    model = models.build(config)
    loss, _, gradient, _ = jax.jit(make_gradient(config, model))(state, batch(), {})
    own = with_rounding(config, state.params)
    at = dataclasses.replace(state_of(plain), params=own)
    expected_loss, _, expected, _ = jax.jit(make_gradient(plain, model))(at, batch(), {})
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # noqa: E731
    jax.tree.map(compare, gradient, expected)


def test_validations_are_of_rounded_parameters(tiny, tmp_path):
    seen = []

    def validate(variables, step):
        seen.append(variables["params"])
        return Validation({"samples/psnr": 20.0}, {}, {})

    config = tiny(**{"train.floats": "int8", "train.steps": 2})
    train(config, str(tmp_path), validate)
    kernel = jnp.asarray(seen[-1]["tail"]["kernel"])
    # Rounding again changes nothing but the last bits of the step.
    np.testing.assert_allclose(kernel, rounded(kernel, "int8"), rtol=1e-6)


@pytest.mark.parametrize("weight_scale", ["mean", "learnable"])
def test_the_penalty_is_the_mean_of_factors_and_of_scales(tiny, weight_scale):
    config = tiny(**{"model.weight_scale": weight_scale, "train.sparsity": 0.5})
    params = state_of(config).params
    flat: dict[Any, Any] = flatten_dict(params)
    factors = [value for path, value in flat.items() if path[-1] == "binary_scale"]
    scales = [mean_weight_scale(flat[path]) for path in models.binary_kernels(config)]
    expected = np.mean(np.abs(factors)) + np.mean(np.concatenate(scales))
    np.testing.assert_allclose(sparsity_penalty(config, params), expected, rtol=1e-6)
    model, state = models.build(config), state_of(config)
    loss, _, _, terms = jax.jit(make_gradient(config, model))(state, batch(), {})
    np.testing.assert_allclose(loss, terms["pixel"] + 0.5 * expected, rtol=1e-6)


def test_the_penalty_makes_them_smaller(tiny, tmp_path):
    def validate(variables, step):
        return Validation({"samples/psnr": 20.0}, {}, {})

    found = {}
    for weight in (0.0, 10.0):
        config = tiny(**{"train.sparsity": weight, "train.steps": 6, "train.log_every": 1})
        train(config, str(tmp_path / str(weight)), validate)
        log = (tmp_path / str(weight) / "log.jsonl").read_text().splitlines()
        found[weight] = [row for row in map(json.loads, log) if "loss" in row]
    assert "scales" not in found[0.0][0]
    assert found[10.0][-1]["scales"] < found[10.0][0]["scales"] - 2e-3


def test_a_float_network_has_nothing_to_make_sparse(tiny):
    fields = {"model.unit": "residual", "model.upsampler": "float", "model.body_end": "conv"}
    config = tiny(**fields, **{"model.residual_attention": "none"})
    with pytest.raises(UserError, match="no binary convolutions"):
        sparsity_penalty(config, state_of(config).params)
