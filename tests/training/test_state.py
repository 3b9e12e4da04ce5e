"""Schedules against arithmetic by hand, and the types of a fresh state."""

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from binsr_jax import models
from binsr_jax.training.settings import check_settings
from binsr_jax.training.state import create_state, learning_rate, make_optimizer


def _rates(config, steps):
    schedule = learning_rate(config.train)
    return [float(np.asarray(schedule(step))) for step in steps]


def test_constant_rate(tiny):
    config = tiny(**{"train.learning_rate": 0.5})
    assert _rates(config, [0, 1, 3]) == [0.5, 0.5, 0.5]


def test_multistep_rate_is_halved_at_the_milestones(tiny):
    config = tiny(
        **{"train.schedule": "multistep", "train.milestones": (10, 20), "train.steps": 30}
    )
    np.testing.assert_allclose(
        _rates(config, [0, 9, 10, 19, 20, 29]), [1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4, 2.5e-4], rtol=1e-6
    )


def test_milestones_count_from_the_first_step_also_with_a_warmup(tiny):
    config = tiny(
        **{
            "train.schedule": "multistep",
            "train.milestones": (10,),
            "train.warmup": 4,
            "train.steps": 30,
        }
    )
    expected = [0, 2.5e-4, 7.5e-4, 1e-3, 1e-3, 5e-4]
    np.testing.assert_allclose(_rates(config, [0, 1, 3, 4, 9, 10]), expected, rtol=1e-6)


def test_cosine_rate_falls_from_the_rate_to_the_final_rate(tiny):
    config = tiny(
        **{
            "train.schedule": "cosine",
            "train.final_rate": 1e-4,
            "train.warmup": 10,
            "train.steps": 110,
        }
    )
    quarter = 1e-4 + 9e-4 * (1 + np.cos(np.pi / 4)) / 2
    np.testing.assert_allclose(
        _rates(config, [5, 10, 35, 60, 110]), [5e-4, 1e-3, quarter, 5.5e-4, 1e-4], rtol=1e-5
    )


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_state_is_strongly_typed_and_a_function_of_the_seed(tiny, ema):
    config = tiny(**{"train.ema": ema})
    model, optimizer = models.build(config), make_optimizer(config.train)
    state, again = (create_state(config, model, optimizer) for _ in range(2))
    for leaf in jax.tree.leaves(state):
        assert not leaf.weak_type
        assert leaf.dtype in (jnp.float32, jnp.int32)
    assert int(state.step) == 0
    assert (state.ema is None) == (ema == 0)
    jax.tree.map(np.testing.assert_array_equal, state, again)
    other = create_state(tiny(seed=1), model, optimizer)
    pairs = zip(jax.tree.leaves(state.params), jax.tree.leaves(other.params), strict=True)
    assert any(not np.array_equal(a, b) for a, b in pairs)


def test_the_variables_to_score_are_the_averaged_ones(tiny):
    config = tiny(**{"train.ema": 0.5})
    model = models.build(config)
    state = create_state(config, model, make_optimizer(config.train))
    assert state.variables["params"] is state.ema
    assert dataclasses.replace(state, ema=None).variables["params"] is state.params


def test_gradients_are_clipped_to_a_global_norm(tiny):
    params = {"a": jnp.zeros(2, jnp.float32), "b": jnp.zeros((), jnp.float32)}
    gradients = {"a": jnp.array([3.0, 0.0]), "b": jnp.array(4.0)}
    moments = {}
    with jax.numpy_dtype_promotion("standard"):
        for norm in (0.0, 10.0, 1.0):
            optimizer = make_optimizer(tiny(**{"train.clip_norm": norm}).train)
            moments[norm] = optimizer.update(gradients, optimizer.init(params), params)[1]
    # After one step Adam's first moment is 0.1 of the gradient, here of norm 5.
    first = {norm: jax.tree.leaves(state)[1:3] for norm, state in moments.items()}
    for plain, high, low in zip(first[0.0], first[10.0], first[1.0], strict=True):
        np.testing.assert_allclose(high, plain)
        np.testing.assert_allclose(low, plain / np.float32(5), rtol=1e-6)
    structures = {jax.tree.structure(state) for state in moments.values()}
    assert len(structures) == 1  # so that a checkpoint fits whatever the clip


@pytest.mark.parametrize("unit", ["residual", "reactnet", "attention"])
def test_the_first_parameters_are_those_that_the_network_draws(tiny, unit):
    config = tiny(**{"model.unit": unit, "model.binary_attention": "se", "train.ema": 0.9})
    model = models.build(config)
    state = create_state(config, model, make_optimizer(config.train))
    draw = jax.jit(lambda key: model.init(key, jnp.zeros((1, 8, 8, 3))))
    expected = dict(draw(jax.random.key(config.seed)))
    for params in (state.params, state.ema):
        jax.tree.map(np.testing.assert_array_equal, params, expected["params"])
    assert len({leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)}) == len(
        jax.tree.leaves(state)
    )


class Loud(nn.Module):
    """A network that says so when it is run."""

    run: Callable[[], None]

    @nn.compact
    def __call__(self, x, train=False, progress=0.0):
        gain = self.param("gain", nn.initializers.ones, ())
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        return gain * x + jax.pure_callback(lambda: self.run() or np.float32(0), shape)


def test_a_state_is_made_without_running_the_network(tiny):
    config, runs = tiny(), []
    model = Loud(lambda: runs.append(1))
    state = create_state(config, model, make_optimizer(config.train))
    assert float(state.params["gain"]) == 1
    assert not runs
    jax.block_until_ready(jax.jit(model.apply)({"params": state.params}, jnp.zeros((1, 2, 2, 3))))
    assert runs


def test_the_warm_up_of_a_short_run_is_half_of_it(tiny):
    """The quick start's warm-up of 50 steps, of a run of 20."""
    config = tiny(
        **{
            "train.steps": 20,
            "train.warmup": 50,
            "train.schedule": "cosine",
            "train.learning_rate": 1.0,
        }
    )
    check_settings(config)
    rate = learning_rate(config.train)
    expected = [*(step / 10 for step in range(10)), *_half_cosine(10)]
    np.testing.assert_allclose(np.asarray([rate(step) for step in range(21)]), expected, atol=1e-6)


def _half_cosine(steps: int) -> list[float]:
    return [(1 + np.cos(np.pi * step / steps)) / 2 for step in range(steps + 1)]
