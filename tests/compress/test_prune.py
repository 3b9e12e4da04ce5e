"""Pruning: what is measured, and that what does not matter can be taken out."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from binsr_jax import models
from binsr_jax.commands import main
from binsr_jax.compress import importance as importance_module
from binsr_jax.compress.importance import METHODS, explicit_weight_scales, feature_axes, importance
from binsr_jax.compress.prune import calibration_batch, prune, without_channels, without_units
from binsr_jax.config import config_to_json, default
from binsr_jax.deploy.model_file import load_model_file
from binsr_jax.deploy.pack import pack
from binsr_jax.errors import UserError
from binsr_jax.training.state import create_state, make_optimizer
from binsr_jax.training.trainable import Network, load_trainable, save_trainable
from binsr_jax.training.trained import load_model
from binsr_jax.training.transfer import initialised

FEATURES = 6


def config_of(**fields):
    config = default()
    config.model.update({"features": FEATURES, "blocks": 2, "amplification": 16.0, **fields})
    return config.lock()


def drawn(config, seed=0):
    """A network whose parameters are all drawn, so that none is special."""
    rng = np.random.default_rng(seed)
    flat: dict[Any, Any] = flatten_dict(models.shapes(config)["params"])
    sizes = {"kernel": 0.3, "slope": 0.2, "binary_scale": 1.0, "residual_scale": 1.0}
    params = {
        path: jnp.asarray(rng.normal(0, sizes.get(path[-1], 0.5), leaf.shape), jnp.float32)
        for path, leaf in flat.items()
    }
    return {"params": unflatten_dict(params)}


def changed(variables, changes):
    """The variables with others where ``changes`` has a value for the path."""
    flat: dict[Any, Any] = flatten_dict(variables["params"])
    new = {path: jnp.broadcast_to(jnp.float32(v), flat[path].shape) for path, v in changes.items()}
    return {"params": unflatten_dict({**flat, **new})}


def output(config, variables, lq):
    y = jax.jit(models.build(config).apply)(variables, jnp.asarray(lq))
    assert isinstance(y, jax.Array)
    return np.asarray(y)


@pytest.fixture(scope="module")
def lq():
    return np.random.default_rng(3).random((2, 24, 22, 3), np.float32)


@pytest.mark.parametrize("attention", ["none", "spatial"])
def test_units_without_effect_can_be_taken_out(lq, attention):
    config = config_of(residual_attention=attention)
    changes: dict[Any, float] = {}
    for unit in ("body_0", "body_3"):
        changes |= {(unit, "binary_scale"): 0.0, (unit, "residual_scale"): 1.0}
        if attention == "spatial":
            place = (unit, "residual_attention", "map")
            changes |= {(*place, "kernel"): 0.0, (*place, "bias"): 50.0}
    variables = changed(drawn(config), changes)
    smaller, rest = without_units(config, variables, [1, 2])
    assert smaller.model.blocks == 1
    before, after = output(config, variables, lq), output(smaller, rest, lq)
    np.testing.assert_allclose(after, before, atol=1e-6)
    # The others do matter.
    _, wrong = without_units(config, variables, [0, 1])
    assert np.abs(output(smaller, wrong, lq) - before).max() > 1e-3


def silent(config, variables, channel):
    """The variables of the same network with a channel that is 0 everywhere."""
    flat: dict[Any, Any] = flatten_dict(variables["params"])
    axes, new = feature_axes(config), dict(flat)
    for path, value in flat.items():
        ends = path[-1] in ("kernel", "bias", "shift_in", "shift_out", "scale")
        if ends and "residual_attention" not in path and axes[path] and axes[path][-1]:
            repeats = axes[path][-1]
            closed = slice(channel * repeats, (channel + 1) * repeats)
            new[path] = jnp.asarray(value).at[..., closed].set(0.0)
        if path[-1] == "threshold":  # so that its sign is -1 everywhere
            new[path] = jnp.asarray(value).at[channel].set(0.7)
    return {"params": unflatten_dict(new)}


@pytest.mark.parametrize(
    "fields",
    [
        {"residual_attention": "spatial"},
        {"weight_scale": "learnable", "unit": "bbcu", "name": "srresnet"},
    ],
)
def test_a_channel_of_zeros_can_be_taken_out(lq, fields):
    config = config_of(blocks=1, **fields)
    variables = silent(config, drawn(config, 1), channel=2)
    kept = [0, 1, 3, 4, 5]
    smaller, rest = without_channels(config, variables, kept, lq)
    assert smaller.model.features == 5
    shapes: dict[Any, Any] = flatten_dict(models.shapes(smaller)["params"])
    found: dict[Any, Any] = flatten_dict(rest["params"])
    assert {path: leaf.shape for path, leaf in shapes.items()} == {
        path: value.shape for path, value in found.items()
    }
    before, after = output(config, variables, lq), output(smaller, rest, lq)
    # At the border padding has no sign, so the channel's is not the same everywhere.
    inner = (slice(None), slice(14, -14), slice(14, -14))
    np.testing.assert_allclose(after[inner], before[inner], atol=2e-5)
    # What the channel's signs add is in the shifts.
    flat: dict[Any, Any] = flatten_dict(variables["params"])
    shift = ("body_0", "rprelu", "shift_in")
    assert np.abs(found[shift] - np.delete(flat[shift], 2)).max() > 1e-3


def test_scales_become_parameters_and_the_network_stays(lq):
    for fields in ({}, {"weight_scale": "learnable"}, {"weight_scale": "libra"}):
        config = config_of(blocks=1, **fields)
        variables = drawn(config, 2)
        explicit, params = explicit_weight_scales(config, variables)
        ours = output(explicit, {"params": unflatten_dict(params)}, lq)
        np.testing.assert_allclose(ours, output(config, variables, lq), atol=1e-5)


@pytest.fixture(scope="module")
def measured():
    """A network with a unit and a channel that do not matter, and a batch."""
    config = config_of()
    variables = drawn(config, 4)
    variables = changed(variables, {("body_2", "binary_scale"): 0.0})
    variables = changed(variables, {("body_2", "residual_scale"): 1.0})
    flat: dict[Any, Any] = flatten_dict(variables["params"])
    return config, silent(config, variables, 1), calibration_batch(config), flat


@pytest.mark.parametrize("method", METHODS)
def test_what_has_no_effect_has_no_importance(measured, method):
    config, variables, batch, _ = measured
    found = importance(config, variables, batch, method)
    assert (found.units.shape, found.channels.shape) == ((4,), (FEATURES,))
    assert found.units[2] == pytest.approx(0, abs=1e-6)
    assert (np.delete(found.units, 2) > found.units[2]).sum() >= 2
    if method != "loss":
        assert found.channels[1] == pytest.approx(0, abs=1e-6)
        assert (np.delete(found.channels, 1) > 0).all()


def test_the_measures_by_hand(measured):
    config, variables, batch, _ = measured
    flat: dict[Any, Any] = flatten_dict(variables["params"])
    model = models.build(config)
    sizes = np.stack(
        [
            np.abs(flat[f"body_{i}", "binary_scale"])
            * np.abs(flat[f"body_{i}", "conv", "kernel"]).mean((0, 1, 2))
            for i in range(4)
        ]
    )
    found = importance(config, variables, batch, "scale")
    np.testing.assert_allclose(found.units, sizes.mean(1), rtol=1e-5)
    np.testing.assert_allclose(found.channels, sizes.sum(0), rtol=1e-5)

    def loss(params):
        y = model.apply({"params": unflatten_dict(params)}, batch["lq"])
        return jnp.abs(jnp.asarray(y) - batch["hq"]).mean()

    # The gate of a branch and its factor multiply one another: their derivatives are related.
    gradient = jax.jit(jax.grad(loss))(flat)
    expected = [
        np.abs(gradient[f"body_{i}", "binary_scale"] * flat[f"body_{i}", "binary_scale"])
        for i in range(4)
    ]
    units = importance(config, variables, batch, "taylor").units
    np.testing.assert_allclose(units, expected, rtol=1e-3, atol=1e-8)

    removed = changed(variables, {("body_0", "binary_scale"): 0.0})
    removed = changed(removed, {("body_0", "residual_scale"): 1.0})
    more = loss(flatten_dict(removed["params"])) - loss(flat)
    left_out = importance(config, variables, batch, "loss").units
    np.testing.assert_allclose(left_out[0], max(0, float(more)), atol=1e-6)


def test_a_pruned_network_packs_and_goes_on(tmp_path, capsys):
    config = config_of(residual_attention="se")
    source = tmp_path / "whole.safetensors"
    provenance = {"steps": 7, "scores": {"Set5/psnr": 30.0}}
    save_trainable(source, Network(config, drawn(config, 5), provenance))
    small = tmp_path / "small.safetensors"
    command = ["prune", "--workdir", str(source), "--blocks", "1", "--features", "4"]
    assert main([*command, "-o", str(small), "--by", "scale"]) == 0
    printed = capsys.readouterr().out
    assert "1 blocks of 4 channels" in printed
    assert "units kept: " in printed
    network = load_trainable(small)
    assert (network.config.model.blocks, network.config.model.features) == (1, 4)
    assert network.provenance == {"steps": 7}

    pack(small, tmp_path / "small.binsr")
    packed = load_model_file(tmp_path / "small.binsr")
    assert packed.config.model.features == 4
    pack(source, tmp_path / "whole.binsr")
    sizes = [(tmp_path / f"{name}.binsr").stat().st_size for name in ("small", "whole")]
    assert sizes[0] < sizes[1]

    run = tmp_path / "run"
    assert main([*command, "-o", str(run), "--by", "scale"]) == 0
    stored, _, variables, _ = load_model(run)
    assert stored.model.features == 4
    again = network.config.copy_and_resolve_references().unlock()
    again.train.init_from = str(small)
    optimizer = make_optimizer(again.train)
    state = initialised(create_state(again, models.build(again), optimizer), again)
    jax.tree.map(np.testing.assert_array_equal, state.params, network.variables["params"])
    kernels = variables["params"]["tail"]["kernel"], state.params["tail"]["kernel"]
    np.testing.assert_allclose(*kernels, atol=1e-6)


def test_nothing_is_lost_where_all_is_kept():
    config = config_of(blocks=1)
    network = Network(config, drawn(config, 6), {})
    pruned = prune(network, blocks=1, features=FEATURES, method="scale")
    assert (pruned.units, pruned.channels) == ([0, 1], list(range(FEATURES)))
    assert config_to_json(pruned.network.config) == config_to_json(config)


def test_what_cannot_be_pruned_is_said(tmp_path, capsys):
    config = config_of(unit="residual", upsampler="float", body_end="conv")
    network = Network(config, drawn(config), {})
    with pytest.raises(UserError, match="Networks of the unit residual cannot be pruned"):
        prune(network, blocks=1)
    network = Network(config_of(), drawn(config_of()), {})
    with pytest.raises(UserError, match="The network has 2 blocks, of which 1 to that many"):
        prune(network, blocks=3)
    with pytest.raises(UserError, match="not 0"):
        prune(network, features=0)
    assert main(["prune", "--workdir", "x", "-o", str(tmp_path / "y")]) == 1
    assert "--blocks N, --features N, or both" in capsys.readouterr().err


def test_a_sigmoid_is_1_at_the_neutral_bias():
    assert jax.nn.sigmoid(jnp.float32(importance_module._NEUTRAL)) == 1.0
