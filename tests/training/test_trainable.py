"""Trainable files: latent weights in int8, and what is packed of them."""

import dataclasses
import json
import struct
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from binsr_jax import models
from binsr_jax.commands import main
from binsr_jax.deploy.model_file import load_model_file
from binsr_jax.deploy.pack import from_network, pack
from binsr_jax.deploy.unpack import read_network
from binsr_jax.errors import UserError
from binsr_jax.training.checkpoint import Checkpoints
from binsr_jax.training.devices import make_mesh, place_batch
from binsr_jax.training.scores import Score
from binsr_jax.training.state import create_state, make_optimizer
from binsr_jax.training.trainable import (
    Network,
    load_trainable,
    network_of_run,
    quantised,
    save_trainable,
)
from binsr_jax.training.trained import load_model
from binsr_jax.training.transfer import initialised, make_teacher

KERNEL = ("params", "body_0", "conv", "kernel")


def _state(config):
    return create_state(config, models.build(config), make_optimizer(config.train))


@pytest.fixture
def workdir(tiny, tmp_path: Path) -> Path:
    config = tiny(**{"eval.data_dir": "/data/mine", "train.init_from": "runs/secret"})
    with Checkpoints(tmp_path / "run") as checkpoints:
        state = dataclasses.replace(_state(config), step=np.int32(5))
        checkpoints.save(state, config, "data", Score(30.5, "samples"))
        checkpoints.wait()
    return tmp_path / "run"


def _leaves(variables) -> dict[tuple[str, ...], np.ndarray]:
    leaves: dict[tuple[str, ...], Any] = flatten_dict(variables)
    return {name: np.asarray(leaf) for name, leaf in leaves.items()}


def test_weights_come_back_within_half_a_step_and_with_their_signs(workdir, tmp_path):
    network = network_of_run(workdir)
    leaves = _leaves(network.variables)
    w = leaves[KERNEL].copy()
    w[..., 0] = 0  # a channel of zeros
    w[0, 0, 0, 1], w[0, 0, 1, 1], w[0, 0, 2, 1] = 1e-38, -1e-38, 0  # next to nothing
    w[..., 2] *= 1e30
    leaves[KERNEL] = w
    network = dataclasses.replace(network, variables=unflatten_dict(leaves))
    save_trainable(tmp_path / "net.safetensors", network)
    loaded = _leaves(load_trainable(tmp_path / "net.safetensors").variables)
    assert loaded.keys() == leaves.keys()
    np.testing.assert_array_equal(loaded[KERNEL] > 0, w > 0)
    assert np.isfinite(loaded[KERNEL]).all()
    # 255 half steps from -max to max: at most half a step is off.
    assert (np.abs(loaded[KERNEL] - w) <= np.abs(w).max((0, 1, 2)) / 254.9 + 1e-36).all()
    for name, leaf in leaves.items():
        if name[-1] != "kernel" or name[1] in ("head", "tail"):
            np.testing.assert_array_equal(loaded[name], leaf)


def test_weights_take_a_byte_each(workdir, tmp_path):
    network = network_of_run(workdir)
    save_trainable(tmp_path / "net.safetensors", network)
    stored = safetensors.numpy.load_file(tmp_path / "net.safetensors")
    for name, leaf in _leaves(network.variables).items():
        binary = (*name[:-1], "kernel", "step") if name[-1] == "kernel" else None
        if binary and "/".join(binary) in stored:
            assert stored["/".join(name)].dtype == np.int8
            assert stored["/".join(binary)].shape == leaf.shape[-1:]
    assert stored["params/body_0/conv/kernel"].dtype == np.int8
    assert stored["params/head/kernel"].dtype == np.float32


@pytest.mark.parametrize("unit", ["attention", "bnn", "reactnet"])
def test_what_is_packed_of_the_file_is_what_was_packed_with_it(unit, tiny, tmp_path):
    """To the bit, and also where normalisation has statistics of its own."""
    config = tiny(**{"model.unit": unit, "model.residual_attention": "none"})
    with Checkpoints(tmp_path / "run") as checkpoints:
        checkpoints.save(_state(config), config, "data", Score(30.5, "samples"))
        checkpoints.wait()
    packed = pack(tmp_path / "run", tmp_path / "a.binsr", trainable=tmp_path / "net.safetensors")
    again = pack(tmp_path / "net.safetensors", tmp_path / "b.binsr")
    assert (tmp_path / "a.binsr").read_bytes() == (tmp_path / "b.binsr").read_bytes()
    assert again.provenance["scores"] == {"samples/psnr": 30.5}
    exact = _leaves(from_network(network_of_run(tmp_path / "run")).params)
    for name, leaf in _leaves(packed.params).items():
        if name[-1] == "w_bits":
            np.testing.assert_array_equal(leaf, exact[name])
        else:
            np.testing.assert_allclose(leaf, exact[name], rtol=0.02, atol=1e-6)


def test_a_run_starts_from_the_file_as_from_the_work_dir(workdir, tiny, tmp_path):
    network = network_of_run(workdir)
    save_trainable(tmp_path / "net.safetensors", network)
    config = tiny(**{"train.init_from": str(tmp_path / "net.safetensors"), "seed": 3})
    started = initialised(_state(config), config)
    expected = quantised(network).variables["params"]
    jax.tree.map(np.testing.assert_array_equal, started.params, expected)


def test_a_run_starts_from_a_model_file_too(workdir, tiny, tmp_path, caplog):
    model = pack(workdir, tmp_path / "net.binsr")
    config = tiny(**{"train.init_from": str(tmp_path / "net.binsr"), "seed": 3})
    with caplog.at_level("INFO", logger="absl"):
        started = initialised(_state(config), config, read_network)
    assert "(step 5)" in caplog.text
    assert "Initialised anew: none" in caplog.text
    name = ("body_0", "conv")
    kernel = _leaves(started.params)[*name, "kernel"]
    latent = _leaves(network_of_run(workdir).variables)[KERNEL]
    np.testing.assert_array_equal(kernel > 0, latent > 0)
    scale = _leaves(model.params)[*name, "scale"]
    np.testing.assert_allclose(np.abs(kernel), np.broadcast_to(scale, kernel.shape), rtol=1e-6)


def test_a_teacher_may_be_a_file(workdir, tiny, tmp_path):
    save_trainable(tmp_path / "net.safetensors", network_of_run(workdir))
    config = tiny(**{"train.teacher": str(tmp_path / "net.safetensors")})
    mesh = make_mesh(config)
    lq = np.random.default_rng(0).random((8, 6, 5, 3), np.float32)
    placed = place_batch(config, {"lq": lq}, mesh)["lq"]
    output = np.asarray(make_teacher(config, mesh)(placed))
    network = load_trainable(tmp_path / "net.safetensors")
    model = models.build(network.config)
    expected = np.asarray(model.apply(network.variables, lq, train=False))
    np.testing.assert_allclose(output, expected, atol=1e-4)


def test_folders_of_this_machine_are_not_in_the_file(workdir, tmp_path):
    save_trainable(tmp_path / "net.safetensors", network_of_run(workdir))
    content = (tmp_path / "net.safetensors").read_bytes()
    assert b"/data/mine" not in content
    assert b"secret" not in content


def test_commands_write_read_and_say_what_is_lost(workdir, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["pack", "--workdir", str(workdir), "-o", "net.binsr"]
    assert main([*arguments, "--trainable", "net.safetensors"]) == 0
    assert "trainable:  net.safetensors, " in capsys.readouterr().out
    assert main([*arguments, "--trainable", "net.bin"]) == 1
    assert "ends in .safetensors" in capsys.readouterr().err
    assert main(["unpack", "net.safetensors", "-o", "kept"]) == 0
    assert "lost" not in capsys.readouterr().out
    assert main(["unpack", "net.binsr", "-o", "anew"]) == 0
    assert "latent weights are lost" in capsys.readouterr().out
    latent = _leaves(network_of_run(workdir).variables)[KERNEL]
    kept, anew = (_leaves(load_model(name)[2])[KERNEL] for name in ("kept", "anew"))
    assert np.abs(kept - latent).max() < 0.01 * np.abs(latent).max()
    assert np.abs(anew - latent).max() > 0.1 * np.abs(latent).max()
    assert main(["pack", "--workdir", "net.safetensors", "-o", "again.binsr"]) == 0
    assert Path("again.binsr").read_bytes() == Path("net.binsr").read_bytes()
    assert load_model_file("again.binsr").provenance["steps"] == 5


def _rewritten(content: bytes, change) -> bytes:
    """The file with its description changed."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    description = json.loads(header["__metadata__"]["binsr_trainable"])
    change(description)
    header["__metadata__"]["binsr_trainable"] = json.dumps(description)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def _without(network: Network, path: Path) -> None:
    save_trainable(path, network)
    arrays = safetensors.numpy.load_file(path)
    del arrays["params/body_0/conv/kernel/step"]
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    metadata = json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]
    safetensors.numpy.save_file(arrays, path, metadata)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.update(format_version=2), "only version 1"),
        (lambda d: d.pop("config"), "no config"),
        (lambda d: d["config"]["model"].update(features=9), r"is not float32 \[9\]|is not int8"),
        (lambda d: d["config"]["model"].update(blocks=64), "too few for its config"),
        (lambda d: d["config"]["model"].update(blocks=10**6), "blocks is above 64"),
        (lambda d: d["config"]["model"].update(features=10**9), "features is above 4096"),
        (lambda d: d["config"].update(task="magic"), "config.task is 'magic'"),
        (lambda d: d["config"].update(extra=1), "extra"),
    ],
)
def test_files_that_contradict_themselves_are_one_sentence(change, sentence, workdir, tmp_path):
    path = tmp_path / "net.safetensors"
    save_trainable(path, network_of_run(workdir))
    path.write_bytes(_rewritten(path.read_bytes(), change))
    with pytest.raises(UserError, match=sentence) as caught:
        load_trainable(path)
    assert "net.safetensors is not a usable trainable file" in str(caught.value)


def test_files_that_are_damaged_or_none_are_one_sentence(workdir, tmp_path):
    path = tmp_path / "net.safetensors"
    with pytest.raises(UserError, match="no trainable file"):
        load_trainable(path)
    network = network_of_run(workdir)
    save_trainable(path, network)
    content = path.read_bytes()
    for damaged in (b"", b"\xff" * 100, content[:50], content[:-3], content + b"x"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"net\.safetensors is not a usable trainable file"):
            load_trainable(path)
    safetensors.numpy.save_file({"a": np.zeros(3)}, path)
    with pytest.raises(UserError, match="did not write it"):
        load_trainable(path)
    _without(network, path)
    with pytest.raises(UserError, match="no tensor params/body_0/conv/kernel/step"):
        load_trainable(path)


def test_of_the_provenance_only_what_is_known_and_well_formed_is_taken(workdir, tmp_path):
    path = tmp_path / "net.safetensors"
    network = network_of_run(workdir)
    save_trainable(path, network)
    given = {"steps": "\x1b[2J", "scores": 7, "terms": "\x1b[2J", "name": "n", "extra": [1]}
    path.write_bytes(_rewritten(path.read_bytes(), lambda d: d.update(provenance=given)))
    assert load_trainable(path).provenance == {"name": "n"}


@pytest.mark.parametrize("step", [0, -1e-3, 3e38])
def test_steps_that_would_change_signs_or_overflow_are_refused(step, workdir, tmp_path):
    path = tmp_path / "net.safetensors"
    save_trainable(path, network_of_run(workdir))
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    tensor = json.loads(content[8 : 8 + length])["params/body_0/conv/kernel/step"]
    place = 8 + length + tensor["data_offsets"][0]
    path.write_bytes(content[:place] + struct.pack("<f", step) + content[place + 4 :])
    with pytest.raises(UserError, match="step is not above 0, or too large"):
        load_trainable(path)


def test_weights_that_are_not_finite_are_not_written(workdir, tmp_path):
    network = network_of_run(workdir)
    leaves = _leaves(network.variables)
    leaves[KERNEL] = leaves[KERNEL] * np.float32(np.nan)
    broken = dataclasses.replace(network, variables=unflatten_dict(leaves))
    with pytest.raises(UserError, match="params/body_0/conv/kernel is not finite"):
        save_trainable(tmp_path / "net.safetensors", broken)
    assert not (tmp_path / "net.safetensors").exists()
