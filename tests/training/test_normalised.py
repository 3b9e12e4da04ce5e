"""Units with batch normalisation: what becomes of their statistics from training to packing."""

import os
import signal

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from binsr_jax import models
from binsr_jax.deploy.pack import pack_params
from binsr_jax.evaluation.benchmark import restorer
from binsr_jax.nn.packed import PackedConv
from binsr_jax.training.checkpoint import Checkpoints
from binsr_jax.training.devices import make_mesh, place_batch, place_state
from binsr_jax.training.loop import train
from binsr_jax.training.scores import Validation
from binsr_jax.training.state import create_state, make_optimizer
from binsr_jax.training.step import make_step
from binsr_jax.training.trained import load_model

SMALL = {
    "model.features": 4,
    "model.residual_attention": "none",
    "model.body_end": "conv",
    "model.upsampler": "float",
}


def _images(count, side):
    return np.random.default_rng(side).random((count, side, side, 3), np.float32)


@pytest.mark.parametrize(("unit", "parallel"), [("reactnet", "mesh"), ("bnn", "pmap")])
def test_trained_resumed_scored_and_packed(tiny, tmp_path, unit, parallel):
    fields = {"model.unit": unit, "train.ema": 0.5, "train.batch": 4, "eval.every": 2}
    config = tiny(**SMALL, **fields, parallel=parallel, devices=2)
    model = models.build(config)
    image = _images(1, 12)[0]
    pictures = {}

    def score(variables, step):
        pictures[step] = restorer(model, variables)(image)
        return Validation({"samples/psnr": 20.0}, {}, {})

    def score_and_stop(variables, step):
        os.kill(os.getpid(), signal.SIGTERM)
        return score(variables, step)

    assert train(config, str(tmp_path / "once"), score) == 0
    once = pictures.copy()
    assert train(config, str(tmp_path / "twice"), score_and_stop) == 128 + signal.SIGTERM
    assert load_model(tmp_path / "twice", "latest")[3] == 2
    assert train(config, str(tmp_path / "twice"), score) == 0

    states = []
    for name in ("once", "twice"):
        with Checkpoints(tmp_path / name, read_only=True) as checkpoints:
            states.append(checkpoints.restore(4, jax.eval_shape(lambda: _fresh(config, model))))
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert pictures.keys() == once.keys() == {2, 4}
    jax.tree.map(np.testing.assert_array_equal, once, pictures)

    # The parameters that are scored are averages over the steps; the statistics are as they are.
    variables: dict = load_model(tmp_path / "once", "latest")[2]
    jax.tree.map(np.testing.assert_array_equal, variables["params"], states[0].ema)
    statistics = states[0].collections["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, variables["batch_stats"], statistics)
    for path, value in flatten_dict(statistics).items():
        assert np.all(value != (0.0 if path[-1] == "mean" else 1.0))  # where they start

    # A packed network has no statistics but the running ones that are folded into it.
    packed = models.build(config, conv=PackedConv)
    params = {"params": pack_params(config, variables)}
    np.testing.assert_array_equal(restorer(packed, params)(image), once[4])
    others = jax.tree.map(lambda leaf: leaf + 1, statistics)
    assert (restorer(model, {**variables, "batch_stats": others})(image) != once[4]).any()


def _fresh(config, model):
    return create_state(config, model, make_optimizer(config.train))


def test_statistics_of_several_devices(tiny):
    """Of the whole batch over a mesh; under pmap the means of those of each device's part.

    So under pmap the mean of what comes before all normalisation is that of the batch, and its
    variance less, by that of the parts' means; what comes after is normalised otherwise.
    """
    batch = {"lq": _images(8, 8), "hq": _images(8, 16)}
    statistics, fresh = {}, None
    for parallel in ("mesh", "pmap"):
        config = tiny(**SMALL, **{"model.unit": "reactnet"}, parallel=parallel, devices=4)
        model, mesh = models.build(config), make_mesh(config)
        step = make_step(config, model, make_optimizer(config.train), mesh)
        fresh = fresh or jax.tree.map(np.asarray, _fresh(config, model))
        state = place_state(fresh, mesh)
        state, _ = step(state, place_batch(config, batch, mesh))
        statistics[parallel] = jax.device_get(state.collections["batch_stats"])

    @jax.jit
    def after(images):
        return model.apply(fresh.variables, images, train=True, mutable=["batch_stats"])[1][
            "batch_stats"
        ]

    def assert_close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)

    jax.tree.map(assert_close, statistics["mesh"], after(batch["lq"]))
    parts = [after(part) for part in np.split(batch["lq"], 4)]
    means = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *parts)
    jax.tree.map(assert_close, statistics["pmap"], means)

    whole, split = (statistics[p]["body_0"]["conv"]["norm"] for p in ("mesh", "pmap"))
    assert_close(whole["mean"], split["mean"])
    between = np.var([10 * part["body_0"]["conv"]["norm"]["mean"] for part in parts], axis=0)
    assert_close(10 * (whole["var"] - split["var"]), between)
    assert between.min() > 0
