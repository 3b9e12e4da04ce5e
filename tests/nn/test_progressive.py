"""Progressive binarisation: from the hard tanh to the sign, only in training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from binsr_jax import models
from binsr_jax.config import default
from binsr_jax.errors import UserError
from binsr_jax.nn.binary import BinaryConv, RSign
from binsr_jax.nn.packed import PackedConv
from binsr_jax.nn.units.base import unit_progress


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_the_sign_is_blended_in(progress):
    x = jnp.array([[-3.0, -0.5, 0.25, 7.0]])
    variables = {"params": {"threshold": jnp.array([0.0, -1.0, 0.0, 0.5])}}
    y: Any = RSign().apply(variables, x, progress, blend=True)
    soft, signs = np.array([-1, 0.5, 0.25, 1]), np.array([-1, 1, 1, 1])
    np.testing.assert_allclose(y, [(1 - progress) * soft + progress * signs], rtol=1e-6)
    if progress == 1:
        np.testing.assert_array_equal(y, RSign().apply(variables, x))


def test_units_become_binary_together_or_in_turn():
    def of_all(progress, way):
        return [float(unit_progress(progress, way, 0.5, i, 4)) for i in range(4)]

    assert of_all(0.25, "together") == [0.5] * 4
    assert of_all(0.3125, "in_turn") == [1, 1, 0.5, 0]
    assert of_all(0.0, "in_turn") == [0] * 4
    assert of_all(0.5, "in_turn") == of_all(0.9, "together") == [1] * 4
    assert unit_progress(0.3, "none", 0.5, 2, 4) == 0.3


@pytest.mark.parametrize("weight_scale", ["mean", "learnable"])
def test_the_convolution_in_floats_equals_that_of_signs(weight_scale):
    x = jnp.sign(jax.random.normal(jax.random.key(0), (2, 5, 6, 9)))
    conv = BinaryConv(4, weight_scale=weight_scale)
    variables = conv.init(jax.random.key(1), x)

    def value_and_gradients(signs):
        def energy(variables, x):
            y: Any = conv.apply(variables, x, signs)
            return jnp.square(y).mean()

        return jax.value_and_grad(energy, (0, 1))(variables, x)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        value_and_gradients(True),
        value_and_gradients(False),
    )


def _network(**fields):
    config = default()
    config.model.update({"features": 8, "blocks": 2, "amplification": 16.0, **fields})
    return models.build(config), models.build(config, conv=PackedConv)


@pytest.mark.parametrize("unit", ["bbcu", "attention"])
@pytest.mark.parametrize("progressive", ["together", "in_turn"])
def test_a_network_is_binary_when_the_way_is_done_and_whenever_it_is_scored(unit, progressive):
    x = jax.random.uniform(jax.random.key(0), (1, 9, 8, 3))
    network, packed = _network(unit=unit, progressive=progressive)
    plain, plain_packed = _network(unit=unit)
    variables = plain.init(jax.random.key(1), x)
    shapes = (jax.eval_shape(n.init, jax.random.key(1), x) for n in (packed, plain_packed))
    assert next(shapes) == next(shapes)

    @jax.jit
    def in_training(progress):
        return network.apply(variables, x, True, progress)

    binary = jax.jit(plain.apply)(variables, x)
    for progress in (0.5, 1.0):
        np.testing.assert_allclose(in_training(progress), binary, atol=1e-5)
    early, late = (np.abs(in_training(p) - binary).max() for p in (0.0, 0.45))
    assert early > 1e-3
    assert late > 1e-4
    scored = jax.jit(lambda progress: network.apply(variables, x, False, progress))(0.0)
    np.testing.assert_allclose(scored, binary, atol=1e-6)


@pytest.mark.parametrize("fields", [{"progressive": "later"}, {"progressive_until": 0.0}])
def test_a_way_that_there_is_not_is_refused(fields):
    with pytest.raises(UserError, match=r"config\.model\.progressive"):
        _network(**fields)
