"""A packed network, made into a run that goes on from it."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from binsr_jax import pretrained
from binsr_jax.commands import main
from binsr_jax.config import default
from binsr_jax.deploy.model_file import load_model_file, save_model
from binsr_jax.deploy.pack import from_network, network_at, pack_params
from binsr_jax.deploy.unpack import read_network, unpack_params
from binsr_jax.deploy.upscaler import PRETRAINED
from binsr_jax.errors import UserError
from binsr_jax.training.trained import load_model

NETWORKS = [
    {"features": 33},
    {"features": 33, "weight_scale": "learnable", "binary_attention": "se"},
    {"unit": "bbcu", "scale": 4, "head": "binary", "tail": "binary", "bias": "all"},
    {"unit": "residual", "body_end": "conv", "upsampler": "float"},
]


@pytest.mark.parametrize("network", NETWORKS)
def test_packing_gives_back_what_was_unpacked(make_model, network):
    model = make_model(**network)
    packed = pack_params(model.config, {"params": unpack_params(model)})
    before: dict[tuple[str, ...], Any] = flatten_dict(model.params)
    after: dict[tuple[str, ...], Any] = flatten_dict(packed)
    assert before.keys() == after.keys()
    for name, leaf in before.items():
        if name[-1] == "scale":  # a mean of equal numbers, up to the rounding of their sum
            np.testing.assert_allclose(after[name], leaf, rtol=1e-5)
        else:
            np.testing.assert_array_equal(after[name], leaf)


def test_a_scale_of_zero_keeps_the_signs(make_model):
    model = make_model()
    name = ("body_0", "conv", "scale")
    leaves: dict[tuple[str, ...], Any] = flatten_dict(model.params)
    leaves[name] = np.zeros_like(leaves[name])
    lamed = dataclasses.replace(model, params=unflatten_dict(leaves))
    packed: dict[tuple[str, ...], Any] = flatten_dict(
        pack_params(model.config, {"params": unpack_params(lamed)})
    )
    words = ("body_0", "conv", "w_bits")
    np.testing.assert_array_equal(packed[words], leaves[words])
    assert np.abs(packed[name]).max() < 1e-30


def test_folded_normalisation_is_refused(make_model):
    with pytest.raises(UserError, match=r"batch normalisation of its units \(reactnet\) is folded"):
        unpack_params(make_model(unit="reactnet"))


def test_the_packaged_model_becomes_a_run(tmp_path, capsys):
    assert main(["unpack", "-o", str(tmp_path / "box")]) == 0
    assert "edsr of 16 blocks of 64 channels" in capsys.readouterr().out
    config, _, variables, step = load_model(tmp_path / "box")
    box = load_model_file(PRETRAINED)
    assert (step, config.model) == (0, box.config.model)
    assert from_network(network_at(tmp_path / "box")).provenance["data"].startswith("unpacked ")
    words = flatten_dict(pack_params(config, variables))[("body_7", "conv", "w_bits")]
    np.testing.assert_array_equal(words, flatten_dict(box.params)[("body_7", "conv", "w_bits")])
    assert main(["unpack", "-o", str(tmp_path / "box")]) == 1
    assert "holds a trained network already" in capsys.readouterr().err


def test_a_packaged_network_is_named_without_its_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["unpack", "denoise", "-o", "run"]) == 0
    unpacked, named = read_network("run"), read_network("denoise")
    assert named.config.model == load_model_file(pretrained.NETWORKS["denoise"].file).config.model
    jax.tree.map(np.testing.assert_array_equal, unpacked.variables, named.variables)
    Path("denoise").mkdir()  # what is on disk comes first
    with pytest.raises(UserError, match="denoise holds no checkpoint"):
        read_network("denoise")


def test_a_model_that_cannot_be_unpacked_is_named(make_model, tmp_path, capsys):
    save_model(tmp_path / "net.binsr", make_model(unit="bnn"))
    assert main(["unpack", str(tmp_path / "net.binsr"), "-o", str(tmp_path / "run")]) == 1
    assert "net.binsr: The batch normalisation" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value"), [("schedule", "x"), ("learning_rate", 0.0), ("steps", -3), ("warmup", -1)]
)
def test_settings_that_make_no_sense_are_left_out(make_model, tmp_path, capsys, field, value):
    model = make_model()
    config = model.config.copy_and_resolve_references().unlock()
    config.train[field], config.train.batch = value, 3
    save_model(tmp_path / "net.binsr", dataclasses.replace(model, config=config))
    assert main(["info", str(tmp_path / "net.binsr")]) == 0
    assert main(["unpack", str(tmp_path / "net.binsr"), "-o", str(tmp_path / "run")]) == 0
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"net.binsr: its training settings are ignored: config.train.{field} is" in told
    stored = load_model(tmp_path / "run")[0]
    assert stored.train.to_dict() == default().train.to_dict()
    assert stored.model.to_dict() == model.config.model.to_dict()


def test_settings_that_make_sense_are_taken(make_model, tmp_path, capsys):
    model = make_model()
    config = model.config.copy_and_resolve_references().unlock()
    config.train.steps, config.eval.sets = 77, ("Set5",)
    save_model(tmp_path / "net.binsr", dataclasses.replace(model, config=config))
    assert main(["unpack", str(tmp_path / "net.binsr"), "-o", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().err == ""
    stored = load_model(tmp_path / "run")[0]
    assert (stored.train.steps, stored.eval.sets) == (77, ("Set5",))
