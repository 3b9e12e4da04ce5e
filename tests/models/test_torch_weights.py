"""Conversion of PyTorch weights; weights that do not fit are refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from binsr_jax import config as config_lib
from binsr_jax.errors import UserError
from binsr_jax.models import network
from binsr_jax.models.torch_weights import from_torch


@pytest.fixture
def params():
    model = config_lib.default().model
    model.update(features=4, blocks=1, unit="bbcu", upsampler="float")
    image = jnp.zeros((1, 2, 2, 3))
    return jax.eval_shape(network(model, 2).init, jax.random.key(0), image)["params"]


@pytest.fixture
def state():
    """A PyTorch state of the network of ``params``, written by hand."""

    def unit(prefix):
        return {
            f"{prefix}.move0.bias": np.full((1, 4, 1, 1), 0.5, np.float32),
            f"{prefix}.binary_conv.weight": np.arange(144, dtype=np.float32).reshape(4, 4, 3, 3),
            f"{prefix}.relu.pr_bias0.bias": np.ones((1, 4, 1, 1), np.float32),
            f"{prefix}.relu.pr_prelu.weight": np.ones(4, np.float32),
            f"{prefix}.relu.pr_bias1.bias": np.ones((1, 4, 1, 1), np.float32),
        }

    return {
        "conv_first.weight": np.arange(108, dtype=np.float32).reshape(4, 3, 3, 3),
        "conv_first.bias": np.zeros(4, np.float32),
        **unit("body.0.body.0"),
        **unit("body.0.body.1"),
        **unit("conv_after_body"),
        "upconv1.weight": np.zeros((16, 4, 3, 3), np.float32),
        "upconv1.bias": np.zeros(16, np.float32),
        "conv_last.weight": np.zeros((3, 4, 3, 3), np.float32),
        "conv_last.bias": np.zeros(3, np.float32),
    }


def test_layouts_and_signs(state, params):
    ours = from_torch(state, params)
    assert jax.tree.map(np.shape, ours) == jax.tree.map(np.shape, params)
    # Element o=2, i=1, y=0, x=2 of PyTorch's [o, i, y, x].
    assert ours["head"]["kernel"][0, 2, 1, 2] == state["conv_first.weight"][2, 1, 0, 2]
    np.testing.assert_array_equal(ours["body_1"]["rsign"]["threshold"], -0.5)
    np.testing.assert_array_equal(ours["body_end"]["rprelu"]["shift_in"], -1)
    np.testing.assert_array_equal(ours["body_end"]["rprelu"]["shift_out"], 1)


def test_names_without_a_place_are_listed(state, params):
    with pytest.raises(UserError, match=r"no place for conv_hr\.weight"):
        from_torch({**state, "conv_hr.weight": np.zeros((4, 4, 3, 3), np.float32)}, params)


def test_parameters_without_a_value_are_listed(state, params):
    del state["conv_last.bias"]
    with pytest.raises(UserError, match="no value for tail/bias"):
        from_torch(state, params)


def test_other_shapes_are_named(state, params):
    state["conv_first.weight"] = np.zeros((8, 3, 3, 3), np.float32)
    with pytest.raises(UserError, match=r"head/kernel has shape .*8.*\(3, 3, 3, 4\)"):
        from_torch(state, params)


def test_another_mean_is_refused(state, params):
    with pytest.raises(UserError, match=r"sub_mean\.bias is not the mean of DIV2K"):
        from_torch({**state, "sub_mean.bias": np.zeros(3, np.float32)}, params)
