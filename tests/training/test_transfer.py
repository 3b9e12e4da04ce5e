"""Starting from another run's parameters, and learning from a teacher."""

import dataclasses
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from binsr_jax import models
from binsr_jax.errors import UserError
from binsr_jax.training.checkpoint import Checkpoints
from binsr_jax.training.devices import make_mesh, place_batch
from binsr_jax.training.loop import train
from binsr_jax.training.scores import Validation
from binsr_jax.training.state import create_state, make_optimizer
from binsr_jax.training.trained import load_model
from binsr_jax.training.transfer import initialised, make_teacher, sources

FLOAT = {
    "model.unit": "residual",
    "model.body_end": "conv",
    "model.upsampler": "float",
    "model.residual_attention": "none",
}


pytestmark = pytest.mark.usefixtures("shared_steps")


def _state(config):
    return create_state(config, models.build(config), make_optimizer(config.train))


@pytest.fixture
def trained(tiny, tmp_path):
    """Makes a work dir with one checkpoint: ``trained("name", **fields)`` -> its path."""

    def make(name, **fields):
        config = tiny(**fields, seed=7)
        with Checkpoints(tmp_path / name) as checkpoints:
            checkpoints.save(dataclasses.replace(_state(config), step=jnp.int32(5)), config, "data")
        return str(tmp_path / name)

    return make


def _taken(fresh, started):
    """The names of the parameters that another run gave."""
    before: dict[str, Any] = flatten_dict(fresh.params, sep="/")
    after: dict[str, Any] = flatten_dict(started.params, sep="/")
    return {name for name in before if not np.array_equal(before[name], after[name])}


def test_the_same_network_gives_every_parameter(tiny, trained, caplog):
    workdir = trained("same")
    config = tiny(**{"train.init_from": workdir, "train.ema": 0.9})
    with caplog.at_level("INFO", logger="absl"):
        state = initialised(_state(config), config)
    jax.tree.map(np.testing.assert_array_equal, state.params, load_model(workdir)[2]["params"])
    jax.tree.map(np.testing.assert_array_equal, state.ema, state.params)
    assert int(state.step) == 0
    assert "(step 5)" in caplog.text
    assert "Initialised anew: none" in caplog.text
    assert "differs" not in caplog.text


def test_parameters_that_compute_something_else_here_are_said_to(tiny, trained, caplog):
    workdir = trained("skipping", **{"model.image_skip": "bilinear"})
    config = tiny(**{"train.init_from": workdir})
    with caplog.at_level("INFO", logger="absl"):
        initialised(_state(config), config)
    assert "Initialised anew: none" in caplog.text
    assert f"that of {workdir}: model.image_skip is none here, bilinear there." in caplog.text


@pytest.mark.parametrize(("scale", "shared"), [(4, True), (3, False)])
def test_another_scale_gives_all_but_the_upsampling_that_differs(
    tiny, trained, caplog, scale, shared
):
    config = tiny(**{"train.init_from": trained("x2"), "scale": scale, "data.patch": 12})
    fresh = _state(config)
    with caplog.at_level("INFO", logger="absl"):
        taken = _taken(fresh, initialised(fresh, config))
    assert {"head/kernel", "body_1/conv/kernel", "tail/bias"} <= taken
    assert ("upsampler_0/conv/kernel" in taken) == shared
    assert "upsampler_1/conv/kernel" not in taken
    anew = caplog.text.split("Initialised anew: ")[1]
    assert f"upsampler_{int(shared)}/conv/kernel" in anew
    assert "head/kernel" not in anew


@pytest.mark.parametrize("weight_scale", ["mean", "learnable"])
def test_a_float_network_gives_latent_weights_and_their_scales(tiny, trained, weight_scale):
    workdir = trained("float", **FLOAT, **{"model.blocks": 2})
    config = tiny(
        **{
            "train.init_from": workdir,
            "model.blocks": 2,
            "model.body_end": "conv",
            "model.weight_scale": weight_scale,
        }
    )
    params = initialised(_state(config), config).params
    source = load_model(workdir)[2]["params"]
    places = {f"body_{2 * i + j}": (f"body_{i}", f"conv_{j}") for i in (0, 1) for j in (0, 1)}
    places["upsampler_0"] = ("upsampler_0", "conv")
    for name, (block, convolution) in places.items():
        kernel = source[block][convolution]["kernel"]
        np.testing.assert_array_equal(params[name]["conv"]["kernel"], kernel)
        if weight_scale == "learnable":
            mean = np.abs(kernel).mean((0, 1, 2))
            np.testing.assert_allclose(params[name]["conv"]["scale"], mean, rtol=1e-6)
    np.testing.assert_array_equal(params["head"]["kernel"], source["head"]["kernel"])


def test_a_network_with_nothing_in_common_is_refused(tiny, trained):
    config = tiny(**{"train.init_from": trained("wide", **FLOAT, **{"model.features": 12})})
    lonely = dataclasses.replace(_state(config), params={"other": jnp.zeros(3)})
    with pytest.raises(UserError, match=r"choose another config\.train\.init_from"):
        initialised(lonely, config)


def test_a_run_starts_from_another_and_resumes_without_it(tiny, tmp_path):
    def scores(variables, step):
        return Validation({"samples/psnr": 20.0}, {}, {})

    train(tiny(), str(tmp_path / "first"), scores)
    fields = {"train.init_from": str(tmp_path / "first"), "train.learning_rate": 1e-12}
    train(tiny(**fields), str(tmp_path / "second"), scores)
    first, second = (load_model(tmp_path / name)[2]["params"] for name in ("first", "second"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-8), first, second)
    gone = tiny(**{"train.init_from": str(tmp_path / "gone"), "train.steps": 5})
    assert train(gone, str(tmp_path / "second"), scores) == 0
    with pytest.raises(UserError, match="holds no checkpoint"):
        train(gone, str(tmp_path / "third"), scores)


@pytest.mark.parametrize("parallel", ["mesh", "pmap"])
def test_the_teachers_output_is_a_second_target(tiny, trained, parallel):
    workdir = trained("teacher", **FLOAT)
    config = tiny(**{"train.teacher": workdir, "parallel": parallel, "devices": 2})
    mesh = make_mesh(config)
    lq = np.random.default_rng(0).random((8, 6, 5, 3), np.float32)
    placed = place_batch(config, {"lq": lq}, mesh)["lq"]
    _, model, variables, _ = load_model(workdir)
    output = np.asarray(make_teacher(config, mesh)(placed)).reshape(8, 12, 10, 3)
    expected: Any = model.apply(variables, jnp.asarray(lq))
    np.testing.assert_allclose(output, expected, atol=1e-5)


def test_a_teacher_of_another_scale_is_refused(tiny, trained):
    config = tiny(**{"train.teacher": trained("x3", **{"scale": 3, "data.patch": 12})})
    with pytest.raises(UserError, match=r"config\.scale 3, but the student's is 2"):
        make_teacher(config, make_mesh(config))


@pytest.mark.parametrize("parallel", ["mesh", "pmap"])
def test_a_run_learns_from_its_teacher(tiny, trained, tmp_path, parallel):
    losses = {}
    for weight in (0.0, 1.0, 3.0):
        config = tiny(
            **{
                "train.teacher": trained("teacher", **FLOAT),
                "train.teacher_weight": weight,
                "train.steps": 1,
                "train.log_every": 1,
                "eval.sets": (),
                "parallel": parallel,
                "devices": 2,
            }
        )
        workdir = tmp_path / f"student{weight}"
        assert train(config, str(workdir), lambda variables, step: Validation({}, {}, {})) == 0
        row = (workdir / "log.jsonl").read_text().splitlines()[0]
        losses[weight] = float(row.split('"loss": ')[1].split(",")[0])
    # The first step's loss is linear in the weight.
    assert losses[1.0] > losses[0.0]
    assert losses[3.0] - losses[0.0] == pytest.approx(3 * (losses[1.0] - losses[0.0]), rel=1e-4)


def test_a_run_says_when_its_teacher_was_replaced(tiny, trained, tmp_path, caplog):
    config = tiny(
        **{
            "train.init_from": trained("start"),
            "train.teacher": trained("teacher", **FLOAT),
            "train.steps": 1,
            "eval.sets": (),
        }
    )

    def again() -> bool:
        caplog.clear()
        assert (
            train(config, str(tmp_path / "run"), lambda variables, step: Validation({}, {}, {}))
            == 0
        )
        return "The network of config.train.teacher has changed" in caplog.text

    assert not again()
    with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        networks = checkpoints.networks(1)
    assert networks == sources(config)
    assert not again()
    for name in ("start", "teacher"):
        shutil.rmtree(tmp_path / name)  # the first is not needed any more
    trained("teacher", **FLOAT | {"model.residual_scale": 0.5})
    assert again()
