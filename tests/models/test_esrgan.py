"""RRDBNet and SRVGGNetCompact against PyTorch's outputs, and their weights under all names."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from binsr_jax import config as config_lib
from binsr_jax.commands import main
from binsr_jax.models import network as network_of
from binsr_jax.models.esrgan_weights import (
    rrdbnet_config,
    rrdbnet_names,
    srvgg_config,
    srvgg_names,
)
from binsr_jax.models.torch_files import read_state
from binsr_jax.models.torch_weights import from_torch
from binsr_jax.training.trained import load_model

ACTIVATIONS = {"prelu": None, "relu": "relu", "leakyrelu": "leaky_relu"}


def loaded(state, config, names):
    """The network of a PyTorch state, and its variables."""
    network = network_of(config.model, config.scale)
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), image)["params"]
    return network, {"params": from_torch(state, shapes, names(state))}


def drawn(config, scale, seed=0):
    """A network and random parameters of it."""
    network, rng = network_of(config, scale), np.random.default_rng(seed)
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), image)["params"]
    return network, jax.tree.map(lambda s: rng.normal(0, 0.2, s.shape).astype(np.float32), shapes)


def torch_state(params, doublings=2):
    """Weights of RRDBNet under BasicSR's names, in PyTorch's layout."""
    parts = {"head": "conv_first", "body_end": "conv_body", "hr_conv": "conv_hr"}
    parts |= {"tail": "conv_last"}
    parts |= {f"upsampler_{i}": f"conv_up{i + 1}" for i in range(doublings)}
    state = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        *part, array = (key.key for key in path)
        if len(part) == 3:
            block, dense, conv = (int(name.split("_")[1]) for name in part)
            name = f"body.{block}.rdb{dense + 1}.conv{conv + 1}"
        else:
            name = parts[part[0]]
        weight = array == "kernel"
        array = np.asarray(leaf)
        state[f"{name}.{'weight' if weight else 'bias'}"] = np.ascontiguousarray(
            array.transpose(3, 2, 0, 1) if weight else array
        )
    return state


def first_names(state, doublings=2):
    """The state under the ESRGAN repository's earliest names instead of BasicSR's."""
    blocks = 1 + max(int(m[1]) for n in state if (m := re.match(r"body\.(\d+)", n)))
    ends = [f"conv_up{i + 1}" for i in range(doublings)]
    parts = {"conv_first": "model.0", "conv_body": f"model.1.sub.{blocks}"}
    # A doubling is three layers: upsampling, convolution, activation.
    parts |= {end: f"model.{3 * i + 3}" for i, end in enumerate(ends)}
    parts |= {"conv_hr": f"model.{3 * doublings + 2}", "conv_last": f"model.{3 * doublings + 4}"}

    def renamed(name):
        part, _, array = name.rpartition(".")
        if part in parts:
            return f"{parts[part]}.{array}"
        name = re.sub(r"body\.(\d+)\.rdb(\d)\.conv(\d)", r"model.1.sub.\1.RDB\2.conv\3.0", name)
        return name

    return {renamed(name): array for name, array in state.items()}


def second_names(state):
    """The state under the ESRGAN repository's later names instead of BasicSR's."""
    words = {"conv_body": "trunk_conv", "body.": "RRDB_trunk.", ".rdb": ".RDB"}
    words |= {"conv_up": "upconv", "conv_hr": "HRconv"}

    def renamed(name):
        for old, new in words.items():
            name = name.replace(old, new)
        return name

    return {renamed(name): array for name, array in state.items()}


def test_the_small_networks_of_the_reference(reference):
    arrays = reference("8_esrgan_small")
    cases = {name.split("/")[0] for name in arrays}
    assert cases
    for case in sorted(cases):
        state = {n.removeprefix(f"{case}/w/"): a for n, a in arrays.items() if f"{case}/w/" in n}
        x, y = arrays[f"{case}/x"], arrays[f"{case}/y"]
        if case.startswith("srvgg"):
            config = srvgg_config(state, ACTIVATIONS[case.split("_")[1]])
            network, variables = loaded(state, config, srvgg_names)
        else:
            network, variables = loaded(state, rrdbnet_config(state), rrdbnet_names)
        assert network.scale == y.shape[1] // x.shape[1]
        ours = jax.jit(network.apply)(variables, x)
        np.testing.assert_allclose(ours, y, atol=2e-6 * np.abs(y).max(), err_msg=case)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("realesr_animevideov3_x4", 621_424),
        ("realesr_general_x4v3", 1_213_296),
        ("realesrgan_x4plus_anime_6b", 4_467_779),
    ],
)
def test_the_real_networks(reference, reference_dir, name, numbers):
    file = reference_dir.parent / "weights" / f"{name}.safetensors"
    if not file.is_file():
        pytest.skip(f"{file} does not exist")
    arrays, state = reference("8_esrgan_real"), read_state(file)
    if "body.1.weight" in state:
        network, variables = loaded(state, srvgg_config(state), srvgg_names)
    else:
        network, variables = loaded(state, rrdbnet_config(state), rrdbnet_names)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == numbers
    x = arrays["input"].astype(np.float32)[None] / 255
    ours = np.asarray(jax.jit(network.apply)(variables, x))[0]
    np.testing.assert_allclose(ours, arrays[name], atol=1e-5)


def test_the_official_size():
    model = config_lib.default().model
    model.update(name="rrdbnet", features=64, blocks=23, growth=32)
    image = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)
    shapes = jax.eval_shape(network_of(model, 4).init, jax.random.key(0), image)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 16_697_987


@pytest.mark.parametrize(("scale", "unshuffle"), [(4, True), (1, True), (2, False), (1, False)])
@pytest.mark.parametrize("spelled", ["basicsr", "first", "second"])
def test_all_names_give_one_network(tmp_path, scale, unshuffle, spelled):
    model = config_lib.default().model
    model.update(name="rrdbnet", features=6, blocks=2, growth=3, unshuffle=unshuffle)
    doublings = 2 if unshuffle else scale // 2
    _, params = drawn(model, scale)
    state = torch_state(params, doublings)
    if spelled == "first":
        state = first_names(state, doublings)
        assert {"model.0.weight", "model.1.sub.0.RDB1.conv1.0.bias"} <= state.keys()
    elif spelled == "second":
        state = second_names(state)
        assert "RRDB_trunk.1.RDB3.conv5.weight" in state
    file = tmp_path / "net.safetensors"
    save_file({f"params_ema.{name}": array for name, array in state.items()}, file)
    run = str(tmp_path / "run")
    assert main(["import-torch", str(file), "--arch", "rrdbnet", "-o", run]) == 0
    config, _, variables, _ = load_model(run)
    assert (config.scale, config.task) == (scale, "sr" if scale > 1 else "denoise")
    for field in ("name", "features", "blocks", "growth"):
        assert config.model[field] == model[field]
    assert network_of(config.model, scale).doublings == doublings
    jax.tree.map(np.testing.assert_array_equal, variables["params"], params)


def test_a_size_that_is_no_multiple_of_the_stride_is_mirrored():
    model = config_lib.default().model
    model.update(name="rrdbnet", features=4, blocks=1, growth=2)
    for scale in (1, 2):
        network, params = drawn(model, scale)
        x = np.random.default_rng(0).random((2, 9, 11, 3), np.float32)
        bottom, right = -9 % network.stride, -11 % network.stride
        padded = np.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="reflect")
        y: Any = network.apply({"params": params}, x)
        assert y.shape == (2, 9 * scale, 11 * scale, 3)
        whole = np.asarray(network.apply({"params": params}, padded))
        np.testing.assert_array_equal(y, whole[:, : 9 * scale, : 11 * scale])


@pytest.mark.parametrize(
    ("name", "scale", "unshuffle"),
    [
        *(("rrdbnet", scale, True) for scale in (4, 2, 1)),
        *(("rrdbnet", scale, False) for scale in (2, 1)),
        *(("srvgg", scale, True) for scale in (4, 1)),
    ],
)
def test_the_reach_is_what_a_pixel_can_change(name, scale, unshuffle):
    """With positive weights nothing cancels, so one pixel changes all that it can reach."""
    model = config_lib.default().model
    model.update(name=name, features=2, blocks=1, growth=1, unshuffle=unshuffle)
    network, params = drawn(model, scale)
    params = jax.tree.map(lambda p: jnp.ones_like(p) / 9, params)
    run = jax.jit(network.apply)
    reach, _ = network.reach(params, {})
    side = 2 * reach + 12 + (-(2 * reach + 12) % 4)
    x = np.zeros((1, side, side, 3), np.float32)
    before = np.asarray(run({"params": params}, x))
    seen = []
    for place in range(side // 2, side // 2 + network.stride):
        x[:] = 0
        x[0, place, side // 2] = 1e6
        changed = np.asarray(run({"params": params}, x)) != before
        rows = np.flatnonzero(changed.any((0, 2, 3))) // scale
        seen.append(max(place - rows[0], rows[-1] - place))
    assert reach - 2 * network.stride < max(seen) <= reach


@pytest.mark.parametrize(
    ("arch", "changes", "flags", "words"),
    [
        ("rrdbnet", {}, ["--scale", "2"], "its scale is 4, not 2"),
        ("rrdbnet", {"conv_last.weight": (1, 6, 3, 3)}, [], "images of 3 channels here"),
        ("rrdbnet", {"conv_first.weight": (6, 5, 3, 3)}, [], "images of 3 channels here"),
        ("rrdbnet", {"conv_up3.weight": (6, 6, 3, 3)}, [], "config.scale is 8, but"),
        ("rrdbnet", {"conv_extra.weight": (6, 6, 1, 1)}, [], "no place for conv_extra.weight"),
        ("rrdbnet", {"conv_first.weight": None}, [], "these are not the weights of rrdbnet"),
        ("srvgg", {}, [], "these are not the weights of srvgg"),
    ],
)
def test_weights_that_do_not_fit_are_one_sentence(tmp_path, capsys, arch, changes, flags, words):
    model = config_lib.default().model
    model.update(name="rrdbnet", features=6, blocks=1, growth=3)
    state = torch_state(drawn(model, 4)[1])
    for name, shape in changes.items():
        state.pop(name, None)
        if shape is not None:
            state[name] = np.zeros(shape, np.float32)
    save_file(state, tmp_path / "net.safetensors")
    command = ["import-torch", str(tmp_path / "net.safetensors"), "--arch", arch]
    assert main([*command, "-o", str(tmp_path / "run"), *flags]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(words, error), error


@pytest.mark.parametrize("flag", [[], ["--activation", "relu"]])
def test_an_activation_without_weights_must_be_said(tmp_path, capsys, flag):
    state = {
        f"body.{n}.weight": np.zeros((5, 3 if n == 0 else 5, 3, 3), np.float32) for n in (0, 2)
    }
    state["body.4.weight"] = np.zeros((12, 5, 3, 3), np.float32)
    state |= {n.replace("weight", "bias"): np.zeros(len(a), np.float32) for n, a in state.items()}
    save_file(state, tmp_path / "net.safetensors")
    command = ["import-torch", str(tmp_path / "net.safetensors"), "--arch", "srvgg", *flag]
    assert main([*command, "-o", str(tmp_path / "run")]) == (0 if flag else 1)
    if not flag:
        assert "give --activation relu or" in capsys.readouterr().err
        return
    config = load_model(str(tmp_path / "run"))[0]
    assert (config.scale, config.model.blocks, config.model.activation) == (2, 1, "relu")
