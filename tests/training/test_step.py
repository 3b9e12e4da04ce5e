"""One step: its arithmetic, one compilation, and equal results however many devices share it."""

import json
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from binsr_jax import models
from binsr_jax.config import config_to_json
from binsr_jax.errors import UserError
from binsr_jax.training.devices import make_mesh, place_batch, place_state
from binsr_jax.training.state import create_state, make_optimizer
from binsr_jax.training.step import make_gradient, make_step


def _batch(seed: int, size: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "lq": rng.random((size, 8, 8, 3), np.float32),
        "hq": rng.random((size, 16, 16, 3), np.float32),
    }


def _run(config, steps=3, model=None):
    """Metrics of each step and the last state, as numpy."""
    model = models.build(config) if model is None else model
    mesh, optimizer = make_mesh(config), make_optimizer(config.train)
    step = make_step(config, model, optimizer, mesh)
    state = place_state(jax.tree.map(np.asarray, create_state(config, model, optimizer)), mesh)
    history = []
    for i in range(steps):
        state, metrics = step(state, place_batch(config, _batch(i), mesh))
        history.append(jax.device_get(metrics))
    return history, jax.device_get(state)


@pytest.fixture(scope="module")
def run_alone():
    """``_run`` of a config, once for all that compare with it."""
    runs = {}

    def run(config):
        key = json.dumps(config_to_json(config))
        if key not in runs:
            runs[key] = _run(config)
        return runs[key]

    return run


def _assert_same_run(a, b):
    """Histories and states are equal up to the rounding of sums."""
    for one, other in zip(a[0], b[0], strict=True):
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-5)
        np.testing.assert_allclose(one["gradient_norm"], other["gradient_norm"], rtol=1e-4)
    for one, other in zip(jax.tree.leaves(a[1]), jax.tree.leaves(b[1]), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


class Scale(nn.Module):
    """The enlarged image times a parameter, and a counter among the other variables."""

    @nn.compact
    def __call__(self, x, train, progress):
        factor = self.param("factor", lambda _: jnp.full((), 0.5, jnp.float32))
        seen = self.variable("batch_stats", "progress", lambda: jnp.zeros((), jnp.float32))
        if train:
            seen.value = progress
        return factor * jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


@pytest.mark.parametrize("parallel", ["mesh", "pmap"])
@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_two_steps_of_adam_by_hand(tiny, parallel, loss):
    config = tiny(
        **{
            "train.loss": loss,
            "train.ema": 0.9,
            "train.epsilon": 1e-3,
            "parallel": parallel,
            "devices": 4,
        }
    )
    history, state = _run(config, steps=2, model=Scale())

    w, m, v, ema = 0.5, 0.0, 0.0, 0.5
    for i in range(2):
        batch = {name: array.astype(np.float64) for name, array in _batch(i).items()}
        x = batch["lq"].repeat(2, axis=1).repeat(2, axis=2)
        error = w * x - batch["hq"]
        value, slope = (
            (np.abs(error).mean(), (np.sign(error) * x).mean())
            if loss == "l1"
            else ((error**2).mean(), (2 * error * x).mean())
        )
        m, v = 0.9 * m + 0.1 * slope, 0.99 * v + 0.01 * slope**2
        corrected = (m / (1 - 0.9 ** (i + 1)), v / (1 - 0.99 ** (i + 1)))
        w -= 1e-3 * corrected[0] / (np.sqrt(corrected[1]) + 1e-3)
        d = min(0.9, (1 + i) / (10 + i))
        ema = d * ema + (1 - d) * w
        assert history[i]["loss"] == pytest.approx(value, rel=1e-5)
        assert history[i]["gradient_norm"] == pytest.approx(abs(slope), rel=1e-4)
        assert history[i]["learning_rate"] == pytest.approx(1e-3)
    assert state.params["factor"] == pytest.approx(w, rel=1e-6)
    assert state.ema["factor"] == pytest.approx(ema, rel=1e-6)
    assert state.collections["batch_stats"]["progress"] == pytest.approx(1 / config.train.steps)
    assert state.step == 2


def _flat(params: Any) -> Any:
    return flatten_dict(params)


@pytest.mark.parametrize("unit", ["attention", "residual"])
def test_latent_weights_are_clipped_and_nothing_else(tiny, unit):
    fields = {"model.unit": unit, "model.upsampler": "float", "train.learning_rate": 2.0}
    free, clipped = (
        _flat(_run(tiny(**fields, **{"train.clip_weights": clip}), steps=1)[1].params)
        for clip in (False, True)
    )
    binary = {name for name in free if unit == "attention" and name[0].startswith("body")}
    binary = {name for name in binary if name[1:] == ("conv", "kernel")}
    assert bool(binary) == (unit == "attention")
    for name, values in free.items():
        assert np.abs(values).max() > 1 or name not in binary
        expected = np.clip(values, -1, 1) if name in binary else values
        np.testing.assert_array_equal(clipped[name], expected)


@pytest.mark.parametrize(
    ("unit", "parallel", "devices"),
    [
        ("residual", "mesh", 8),
        *(("attention", "mesh", devices) for devices in (2, 4, 8)),
        *(("attention", "pmap", devices) for devices in (1, 2, 4, 8)),
    ],
)
def test_devices_share_a_batch_with_equal_results(tiny, run_alone, unit, parallel, devices):
    # Sums over devices round in another order. Adam divides by the gradient's size, so with its
    # usual epsilon the rounding of a gradient near 0 would become a full step.
    fields = {"model.unit": unit, "train.ema": 0.9, "train.epsilon": 1e-2}
    alone = run_alone(tiny(**fields))
    shared = _run(tiny(**fields, devices=devices, parallel=parallel))
    _assert_same_run(shared, alone)


@pytest.mark.parametrize(
    "fields",
    [
        {"train.accumulate": 2, "devices": 4},
        {"train.accumulate": 4, "devices": 2, "parallel": "pmap"},
        {"train.scan": True, "train.remat": True},
    ],
    ids=str,
)
def test_a_step_worked_in_another_way_is_the_same_step(tiny, run_alone, fields):
    common = {"train.ema": 0.9, "train.epsilon": 1e-2}
    _assert_same_run(_run(tiny(**common, **fields)), run_alone(tiny(**common)))


def test_statistics_go_from_part_to_part(tiny):
    class Mean(nn.Module):
        """A running mean of the batches, which the output does not depend on."""

        @nn.compact
        def __call__(self, x, train, progress):
            y = nn.BatchNorm(not train, momentum=0.5, use_bias=False, use_scale=False)(x)
            factor = self.param("factor", lambda _: jnp.full((), 0.5, jnp.float32))
            return factor * jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2) + 0 * y.sum()

    config = tiny(**{"train.accumulate": 2})
    _, state = _run(config, steps=1, model=Mean())
    expected = np.zeros(3)
    for part in range(2):  # every second image
        expected = 0.5 * expected + 0.5 * _batch(0)["lq"][part::2].mean((0, 1, 2))
    stored = jax.tree.leaves(state.collections["batch_stats"])[0]
    np.testing.assert_allclose(stored, expected, rtol=1e-5)


def test_bfloat16_products_give_nearly_the_same_gradient(tiny):
    # Three significant digits in the products' factors; all else is float32.
    losses, gradients = [], []
    for compute in ("float32", "bfloat16"):
        config = tiny(**{"model.unit": "bbcu", "train.compute": compute})
        model = models.build(config)
        state = create_state(config, model, make_optimizer(config.train))
        loss, _, gradient, _ = jax.jit(make_gradient(config, model))(state, _batch(0), {})
        losses.append(float(loss))
        gradients.append(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)]))
    assert gradients[1].dtype == np.float32
    assert 0 < abs(losses[1] / losses[0] - 1) < 1e-2
    error = np.linalg.norm(gradients[1] - gradients[0]) / np.linalg.norm(gradients[0])
    assert 0 < error < 0.1


def test_only_the_inputs_of_units_are_kept_if_asked(tiny):
    programs = []
    for remat in (False, True):
        config = tiny(**{"train.remat": remat, "model.unit": "bbcu"})
        model = models.build(config)
        state = create_state(config, model, make_optimizer(config.train))
        programs.append(jax.jit(make_gradient(config, model)).lower(state, _batch(0), {}).as_text())
    # What follows the units needs the output of the last one, which is worked out again.
    plain, remat = (program.count("call @_forward") for program in programs)
    assert remat == plain + 1
    assert [program.count("optimization_barrier") for program in programs] == [0, 1]


@pytest.mark.parametrize("parallel", ["mesh", "pmap"])
def test_the_step_compiles_once(tiny, parallel, caplog):
    config = tiny(parallel=parallel, devices=2)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        _run(config, steps=4)
    name = "step" if parallel == "mesh" else "_fun"
    compiled = [r.message for r in caplog.records if f"Compiling jit({name})" in r.message]
    assert len(compiled) == 1


@pytest.mark.parametrize("parallel", ["mesh", "pmap"])
def test_the_step_donates_its_state(tiny, parallel):
    config = tiny(parallel=parallel, devices=2)
    model, mesh = models.build(config), make_mesh(config)
    optimizer = make_optimizer(config.train)
    step = make_step(config, model, optimizer, mesh)
    state = place_state(jax.tree.map(np.asarray, create_state(config, model, optimizer)), mesh)
    step(state, place_batch(config, _batch(0), mesh))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize(
    ("fields", "numbers"),
    [
        ({"train.batch": 12, "devices": 0}, ("12", "8")),
        ({"train.batch": 9, "devices": 2}, ("9", "2")),
        ({"devices": 9}, ("9", "8")),
        ({"train.batch": 12, "devices": 2, "train.accumulate": 4}, ("12", "2", "4", "8")),
    ],
)
def test_a_batch_that_does_not_divide_is_refused_with_the_numbers(tiny, fields, numbers):
    with pytest.raises(UserError) as refused:
        make_mesh(tiny(**fields))
    assert all(number in str(refused.value) for number in numbers)
