"""Losses and parameters of five training steps by the papers' recipe, against the reference's."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from official import BBCU_L, BBCU_M, nhwc, shapes, size_of

from binsr_jax import config as config_lib
from binsr_jax.models import build, network
from binsr_jax.models.torch_weights import from_torch
from binsr_jax.training.devices import make_mesh, place_batch, place_state
from binsr_jax.training.state import TrainState, make_optimizer
from binsr_jax.training.step import make_step

OFFICIAL = {"bbcul": BBCU_L, "bbcum": BBCU_M}
BETAS = {"b99": 0.99, "b999": 0.999}


def named(arrays, prefix):
    return {key[len(prefix) :]: a for key, a in arrays.items() if key.startswith(prefix)}


def amplification(model, scale, params, batch, loss) -> float:
    """The one of the usual k with which the first loss is closest to the reference's."""

    def off(k):
        model.amplification = k
        y = jax.jit(network(model, scale).apply)({"params": params}, batch["lq"])
        return abs(float(jnp.abs(jnp.asarray(y) - batch["hq"]).mean()) - loss)

    return min((130.0, 130.0 * model.features / 64), key=off)


@pytest.mark.parametrize("kind", OFFICIAL)
def test_steps_equal_the_reference(reference_dir, reference, kind):
    names = [path.stem for path in reference_dir.glob(f"7_train_{kind}*.npz")]
    assert names
    for name in names:
        arrays = reference(name)
        text = reference_dir / "GOLDEN.md"
        pattern = rf"\*\*{name}\.npz\*\*.* k ([\d.]+\d)"
        described = re.findall(pattern, text.read_text()) if text.is_file() else []
        batch = {"lq": nhwc(arrays["x"]), "hq": nhwc(arrays["target"])}
        scale = batch["hq"].shape[1] // batch["lq"].shape[1]
        initial = named(arrays, "init/")
        config = config_lib.default()
        config.model.update({**size_of(initial), **OFFICIAL[kind]})
        config.scale, config.devices = scale, 1
        config.train.learning_rate, config.train.schedule = 1e-4, "constant"
        template = shapes(config.model, scale)
        params = jax.tree.map(jnp.asarray, from_torch(initial, template))
        config.model.amplification = (
            float(described[0])
            if described
            else amplification(config.model, scale, params, batch, arrays["b99/losses"][0])
        )
        for betas, beta2 in BETAS.items():
            config.train.beta2 = beta2
            losses, final = steps(config, params, batch)
            np.testing.assert_allclose(losses, arrays[f"{betas}/losses"], rtol=2e-6)
            expected: dict[Any, Any] = flatten_dict(
                from_torch(named(arrays, f"{betas}/final/"), template)
            )
            ours: dict[Any, Any] = flatten_dict(final)
            rounding = float(arrays[f"{betas}/max_param_diff_to_float64"])  # the reference's own
            for path, value in expected.items():
                np.testing.assert_allclose(
                    ours[path],
                    value,
                    rtol=0,
                    atol=2e-6 + 5 * rounding,
                    err_msg=f"{name} {betas} {path}",
                )


def steps(config, params, batch):
    """The losses before each of five steps and after them, and the parameters after them."""
    model, optimizer, mesh = (
        build(config),
        make_optimizer(config.train),
        make_mesh(config),
    )
    step = make_step(config, model, optimizer, mesh)
    state = TrainState(jnp.zeros((), jnp.int32), params, {}, optimizer.init(params), None)
    state = place_state(jax.tree.map(np.asarray, state), mesh)
    losses, final = [], None
    for _ in range(6):
        final = jax.device_get(state.params)
        state, metrics = step(state, place_batch(config, batch, mesh))
        losses.append(float(metrics["loss"]))
    return losses, final
