"""The model file: what is written is read again, of this version and of the first."""

import json
import os
import re
import struct
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from model_bytes import described, joined, refusal, split
from safetensors.numpy import load_file

from binsr_jax.commands.info import describe
from binsr_jax.config import config_to_json, default
from binsr_jax.cost import count
from binsr_jax.deploy import description
from binsr_jax.deploy.description import NETWORK_FIELDS, TRAINING_FIELDS
from binsr_jax.deploy.model_file import (
    load_model_file,
    save_model,
    stored_tensors,
)
from binsr_jax.ops.packed import pack_weights
from binsr_jax.ops.quantise import FLOATS, rounded

VERSION_1 = Path(__file__).with_name("files") / "version_1.binsr"
FORMAT = Path(__file__).parents[2] / "docs" / "model-format.md"
NETWORKS = [
    {},
    {"features": 33, "scale": 3, "unit": "bbcu", "weight_scale": "learnable"},
    {"scale": 4, "residual_attention": "se", "binary_attention": "pixel"},
    {"binary_attention": "spatial", "image_skip": "bilinear", "upsampler": "float"},
    {"unit": "residual", "body_end": "conv", "upsampler": "float", "head_activation": "none"},
]


@pytest.mark.parametrize("floats", FLOATS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_model_survives_its_file(make_model, tmp_path, network, floats):
    model = make_model(floats, **network)
    save_model(tmp_path / "model.binsr", model)
    again = load_model_file(str(tmp_path / "model.binsr"))
    assert config_to_json(again.config) == config_to_json(model.config)
    assert (again.provenance, again.floats) == (model.provenance, model.floats)
    assert again.task == model.task
    before: dict[Any, Any] = flatten_dict(model.params)
    after: dict[Any, Any] = flatten_dict(again.params)
    assert before.keys() == after.keys()
    for name, array in before.items():
        stored = array if array.dtype == jnp.uint32 else rounded(array, floats)
        np.testing.assert_array_equal(after[name], stored)
        assert after[name].dtype == array.dtype
    assert os.listdir(tmp_path) == ["model.binsr"]


def test_quantised_kernels_are_whole_numbers_with_steps(make_model, tmp_path):
    model = make_model("int8", residual_attention="se")
    save_model(tmp_path / "model.binsr", model)
    arrays = load_file(tmp_path / "model.binsr")
    kernel = np.asarray(model.params["tail"]["kernel"])
    q, step = arrays["tail/kernel"], arrays["tail/kernel/step"]
    assert (q.dtype, step.dtype, step.shape) == (np.int8, np.float32, kernel.shape[-1:])
    assert (np.abs(q * step - kernel) <= 0.5001 * step).all()
    assert arrays["body_0/conv/scale"].dtype == np.float16
    sizes = {
        form: sum(t.size for t in stored_tensors(model.config, form).values()) for form in FLOATS
    }
    assert sizes["int8"] < sizes["float16"] < sizes["float32"]
    assert sizes["int8"] == sum(array.nbytes for array in arrays.values())
    assert sizes == {form: count(model.config).bytes_of(form) for form in FLOATS}

    code = re.findall(r"```python\n(.*?)```", FORMAT.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code[0], names)
    _, read = names["read_model"](tmp_path / "model.binsr")
    ours = load_model_file(tmp_path / "model.binsr").params["tail"]["kernel"]
    np.testing.assert_array_equal(read["tail/kernel"], ours)

    content = (tmp_path / "model.binsr").read_bytes()
    as_half = described(content, lambda d: d.update(floats="float16"))
    assert "its network has no tensor" in refusal(as_half, tmp_path)
    other = described(content, lambda d: d.update(floats="int4"))
    assert "floats are none of float32, float16, int8" in refusal(other, tmp_path)
    header, data = split(content)
    start, end = header["tail/kernel/step"]["data_offsets"]
    for wrong in (0.0, -1.0):
        bad = data[:start] + struct.pack("<f", wrong) * ((end - start) // 4) + data[end:]
        assert "not above 0" in refusal(joined(header, bad), tmp_path)


def test_of_a_network_without_units_none_are_named(make_model, tmp_path):
    models = {"edsr": make_model(), "srvgg": make_model(name="srvgg", activation="prelu")}
    for name, model in models.items():
        save_model(tmp_path / "m.binsr", model)
        lines = [
            line.partition(":")[0] for line in describe(model, tmp_path / "m.binsr").split("\n")
        ]
        has_units = name == "edsr"
        assert [part in lines for part in ("unit", "parts", "attention")] == 3 * [has_units]
        assert {"network", "parameters", "size"} <= set(lines)


def test_the_same_model_makes_the_same_file(make_model, saved, tmp_path):
    save_model(tmp_path / "again.binsr", make_model())
    assert (tmp_path / "again.binsr").read_bytes() == saved.read_bytes()


@pytest.mark.parametrize("network", NETWORKS)
def test_the_tensors_are_those_that_safetensors_reads(make_model, tmp_path, network):
    model = make_model(**network)
    save_model(tmp_path / "model.binsr", model)
    arrays = load_file(tmp_path / "model.binsr")
    tensors = stored_tensors(model.config)
    assert {name: (array.shape, array.nbytes) for name, array in arrays.items()} == {
        name: (tensor.shape, tensor.size) for name, tensor in tensors.items()
    }


def test_the_reader_in_the_documentation_reads_a_file(
    make_variables, make_config, make_model, tmp_path
):
    model = make_model(residual_attention="se", features=9)
    kernels: dict[str, Any] = flatten_dict(make_variables(model.config)["params"], sep="/")
    code = re.findall(r"```python\n(.*?)```", FORMAT.read_text(), re.DOTALL)
    save_model(tmp_path / "model.binsr", model)
    names: dict[str, Any] = {}
    exec(code[0], names)
    description, arrays = names["read_model"](tmp_path / "model.binsr")
    written = config_to_json(model.config)
    assert description["network"]["scale"] == 2
    assert description["network"]["model"].items() <= written["model"].items()
    assert description["provenance"]["config"]["train"].items() <= written["train"].items()
    assert arrays.keys() == stored_tensors(model.config).keys()
    for name, array in arrays.items():
        if name.endswith("/signs"):
            kernel = kernels[name.removesuffix("signs") + "kernel"]
            np.testing.assert_array_equal(array, np.where(kernel > 0, 1, -1))
            np.testing.assert_allclose(
                arrays[name.removesuffix("signs") + "scale"],
                np.abs(kernel).mean((0, 1, 2)),
                rtol=1e-6,
            )
        elif not name.endswith("conv/scale"):
            np.testing.assert_array_equal(array, kernels[name])


def test_the_documentation_names_every_field():
    text = FORMAT.read_text()
    for name in (*NETWORK_FIELDS, *TRAINING_FIELDS):
        assert f"`{name}`" in text


def test_every_field_of_the_network_is_stored(make_model, tmp_path):
    """What training needs may be lost on the way; a field that none of the lists names may not."""
    save_model(tmp_path / "model.binsr", make_model())
    header, _ = split((tmp_path / "model.binsr").read_bytes())
    network = json.loads(header["__metadata__"]["binsr"])["network"]
    named = {name.removeprefix("model.") for name in (*NETWORK_FIELDS, *TRAINING_FIELDS)}
    for field in default().model:
        assert (field in network["model"]) == (f"model.{field}" in NETWORK_FIELDS), field
        # Only a field that is not of its default value says anything.
        assert field in named or field not in network["model"]


def test_a_later_field_is_stored_where_it_is_not_its_default(make_model, tmp_path, monkeypatch):
    monkeypatch.setattr(description, "NETWORK_FIELDS", NETWORK_FIELDS[:-1])  # image_skip
    assert NETWORK_FIELDS[-1] == "model.image_skip"
    for skip, stored in (("none", False), ("bilinear", True)):
        path = tmp_path / f"{skip}.binsr"
        save_model(path, make_model(image_skip=skip))
        header, _ = split(path.read_bytes())
        network = json.loads(header["__metadata__"]["binsr"])["network"]
        assert ("image_skip" in network["model"]) == stored
        assert load_model_file(path).config.model.image_skip == skip


def test_fields_that_do_not_make_the_network_may_be_missing(saved, tmp_path):
    def change(description):
        description["provenance"] = {}

    (tmp_path / "small.binsr").write_bytes(described(saved.read_bytes(), change))
    model = load_model_file(tmp_path / "small.binsr")
    assert model.provenance == {}
    assert model.config.train.steps == default().train.steps


UNKNOWN: dict[str, Any] = {
    "a new field": lambda p: p.update(licence={"name": "MIT", "years": [2031, 2032]}),
    "a new setting": lambda p: p["config"]["train"].update(holograms=3),
    "a setting of another type": lambda p: p["config"]["train"].update(ema=[0.9, 0.99]),
    "a setting of another meaning": lambda p: p["config"]["eval"].update(levels=[7]),
    "a setting that the network's checks refuse": lambda p: p["config"]["model"].update(
        surrogate="stairs"
    ),
    "a huge setting": lambda p: p["config"]["train"].update(keep=10**30),
    "no config": lambda p: p.update(config="none"),
    "sections of another type": lambda p: p["config"].update(train=5, model=[], eval=None),
    "a long text": lambda p: p.update(source="x" * 1001),
    "a text that steers a terminal": lambda p: p.update(data="\x1b[31m"),
    "a name that steers a terminal": lambda p: p["scores"].update({"\x1b[31m": 1.0}),
    "deep nesting": lambda p: p.update(more=json.loads("[" * 50 + "]" * 50)),
    "steps below 0": lambda p: p.update(steps=-1),
    "steps that are true": lambda p: p.update(steps=True),
    "half a step": lambda p: p.update(steps=1.5),
    "a score that is a text": lambda p: p["scores"].update(x="good"),
    "scores that are a list": lambda p: p.update(scores=[1]),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_is_unknown_of_the_origin_is_left_out(saved, tmp_path, kind):
    before = load_model_file(saved)
    path = tmp_path / "later.binsr"
    path.write_bytes(described(saved.read_bytes(), lambda d: UNKNOWN[kind](d["provenance"])))
    model = load_model_file(path)
    assert model.config.model == before.config.model
    assert model.provenance.items() <= before.provenance.items()
    assert model.task.levels == ()
    for section in ("data", "train", "eval"):
        assert model.config[section] == before.config[section]
    assert "train" in describe(model, path)
    for a, b in zip(*(jax.tree.leaves(m.params) for m in (before, model)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_folders_of_another_machine_are_not_taken(saved, tmp_path):
    def change(description):
        config = description["provenance"]["config"]
        config["data"].update(dir="/etc", sources=["folder:/etc"], cache_dir="/etc")
        config["train"].update(init_from="/etc", teacher="/etc", steps=77)
        config["eval"].update(data_dir="/etc")

    (tmp_path / "hostile.binsr").write_bytes(described(saved.read_bytes(), change))
    config = load_model_file(tmp_path / "hostile.binsr").config
    assert config.train.steps == 77
    assert "/etc" not in json.dumps(config_to_json(config))


def test_a_file_of_version_1_is_read(tmp_path):
    """A file that the code of version 1 wrote: the arrays are those of the reader in the docs."""
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", FORMAT.read_text(), re.DOTALL)[0], names)
    content, arrays = names["read_model"](VERSION_1)
    assert content["format_version"] == 1
    model = load_model_file(VERSION_1)
    assert (model.task.name, model.floats) == ("SR x3", "float16")
    assert model.provenance == {
        "steps": 7,
        "source": "samples",
        "data": "0f",
        "scores": {"samples/psnr": 30.25},
        "package": "0.1.0",
    }
    assert (
        config_to_json(model.config)["model"].items()
        >= {
            "features": 5,
            "residual_attention": "spatial",
            "weight_scale": "learnable",
            "image_skip": "bilinear",
            "head": "float",
        }.items()
    )
    assert (model.config.train.steps, model.config.train.schedule) == (123, "cosine")
    assert (model.config.train.milestones, model.config.eval.sets) == ((7, 9), ("Set5",))
    params: dict[str, Any] = flatten_dict(model.params, sep="/")
    for name, array in arrays.items():
        if name.endswith("/signs"):
            words = params[name.removesuffix("signs") + "w_bits"]
            np.testing.assert_array_equal(words, pack_weights(jnp.asarray(array, jnp.float32)))
        else:
            np.testing.assert_array_equal(params[name], np.float32(array))
    save_model(tmp_path / "again.binsr", model)
    again = load_model_file(tmp_path / "again.binsr")
    assert split((tmp_path / "again.binsr").read_bytes())[1] == split(VERSION_1.read_bytes())[1]
    assert config_to_json(again.config) == config_to_json(model.config)
    assert again.provenance == model.provenance


def test_a_network_of_version_1_is_read_as_strictly(tmp_path):
    for change, reason in (
        (lambda d: d["config"]["model"].update(colour=3), "model.colour = 3"),
        (lambda d: d["config"]["model"].pop("unit"), "no field model.unit"),
        (lambda d: d.update(task="SR x2"), "task is not SR x3"),
        (lambda d: d.update(network={}), "unknown in this version"),
    ):
        assert reason in refusal(described(VERSION_1.read_bytes(), change), tmp_path)

    def train_anew(description):  # of training, which a later reader need not know
        description["config"]["train"]["holograms"] = 3
        for field in ("head", "tail", "hr_conv", "bias"):
            del description["config"]["model"][field]

    (tmp_path / "one.binsr").write_bytes(described(VERSION_1.read_bytes(), train_anew))
    assert load_model_file(tmp_path / "one.binsr").config.model.bias == "float"
