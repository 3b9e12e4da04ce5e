"""The model file: what is written is read again, and nothing else is."""

import json
import os
import re
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from binsr_jax.commands.info import describe
from binsr_jax.config import config_to_json, default
from binsr_jax.cost import count
from binsr_jax.deploy import description
from binsr_jax.deploy.description import NETWORK_FIELDS, TRAINING_FIELDS
from binsr_jax.deploy.model_file import (
    PackedModel,
    load_model_file,
    save_model,
    stored_tensors,
)
from binsr_jax.errors import UserError
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


@pytest.fixture(scope="session")
def saved(make_model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model.binsr"
    save_model(path, make_model())
    return path


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the tensors of a file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def described(content: bytes, change) -> bytes:
    """The file with another description."""
    header, data = split(content)
    description = json.loads(header["__metadata__"]["binsr"])
    change(description)
    header["__metadata__"]["binsr"] = json.dumps(description)
    return joined(header, data)


def refusal(content: bytes, folder: Path) -> str:
    """The sentence that a file is refused with."""
    path = folder / "broken.binsr"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_model_file(path)
    sentence = str(caught.value)
    assert sentence.startswith(str(path))
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert len(sentence) < len(str(path)) + 400
    return sentence


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


def test_every_truncation_is_refused(saved, tmp_path):
    content = saved.read_bytes()
    for length in [0, 1, 7, 8, 9, *range(10, len(content), 97), len(content) - 1]:
        refusal(content[:length], tmp_path)
    refusal(content + b"\0", tmp_path)


DESCRIPTIONS = {
    "format version 3": lambda d: d.update(format_version=3),
    "no format_version": lambda d: d.update(format_version="1"),
    "has no format_version": lambda d: d.update(format_version=True),
    "unknown in this version": lambda d: d.update(colour="blue"),
    "has no network": lambda d: d.pop("network"),
    "wrong type": lambda d: d.update(network=[]),
    "none of float32, float16, int8": lambda d: d.update(floats="bfloat16"),
    "is not F16": lambda d: d.update(floats="float16"),
    "no field scale": lambda d: d["network"].pop("scale"),
    r"no field model\.unit": lambda d: d["network"]["model"].pop("unit"),
    r"no field model\.bias": lambda d: d["network"]["model"].pop("bias"),
    r"model\.colour = 3": lambda d: d["network"]["model"].update(colour=3),
    r"model\.surrogate, which only training uses": lambda d: d["network"]["model"].update(
        surrogate="clip"
    ),
    r"seed, which only training uses": lambda d: d["network"].update(seed=3),
    r"model\.features = True": lambda d: d["network"]["model"].update(features=True),
    r"model\.features = 5\.0": lambda d: d["network"]["model"].update(features=5.0),
    "features is above 4096": lambda d: d["network"]["model"].update(features=10**9),
    r"model\.features = 1000": lambda d: d["network"]["model"].update(features=10**16),
    "features is -1": lambda d: d["network"]["model"].update(features=-1),
    "too few": lambda d: d["network"]["model"].update(blocks=64),
    "blocks is above": lambda d: d["network"]["model"].update(blocks=10**12),
    r"not within": lambda d: d["network"]["model"].update(amplification=1e300),
    r"amplification is 1e-300, but must lie in 1e-6..1e6": lambda d: d["network"]["model"].update(
        amplification=1e-300
    ),
    "limited to 32 convolutions, and it has 34": lambda d: d["network"]["model"].update(
        unit="bam", blocks=17
    ),
    "unit is 'x'": lambda d: d["network"]["model"].update(unit="x"),
    "scale is 7": lambda d: d["network"].update(scale=7),
    "task is 'paint'": lambda d: d["network"].update(task="paint"),
    "scale = True": lambda d: d["network"].update(scale=True),
    "kernels are not those": lambda d: d["kernels"].popitem(),
    "its kernels are not": lambda d: d["kernels"]["body_0/conv/signs"].append(1.0),
    "kernels are not those of": lambda d: d["kernels"].update(
        {"body_0/conv/signs": [3, 3, 5, 5.0]}
    ),
    "no tensor": lambda d: d["network"]["model"].update(residual_attention="se"),
    "its kernels|is not F32": lambda d: d["network"]["model"].update(features=6),
}


@pytest.mark.parametrize("reason", DESCRIPTIONS)
def test_a_wrong_description_is_refused(saved, tmp_path, reason):
    sentence = refusal(described(saved.read_bytes(), DESCRIPTIONS[reason]), tmp_path)
    assert re.search(reason, sentence), sentence


def broken_headers(header: dict[str, Any], size: int) -> dict[str, Any]:
    """Headers of every kind of error, by a part of the sentence."""
    first, second = (name for name in list(header) if name.startswith("head/"))

    def changed(**entries):
        return {**header, **entries}

    def entry(name, **fields):
        return changed(**{name: {**header[name], **fields}})

    low, high = header[first]["data_offsets"]
    without = {name: value for name, value in header.items() if name != first}
    return {
        "no entry binsr": {n: v for n, v in header.items() if n != "__metadata__"},
        f"no tensor {first}": without,
        "network has no tensor 'more'": changed(more=header[first]),
        "is not F32": entry(first, dtype="F64"),
        f"tensor {first} is not": entry(first, shape=[1]),
        f"tensor {second} is not": changed(**{second: 5}),
        f"offsets of its tensor {first}": entry(first, data_offsets=[low, high + 10**12]),
        f"offsets of its tensor {second}": entry(second, data_offsets="all"),
        f"tensor {second} is": entry(second, shape=[*map(float, header[second]["shape"])]),
        f"offsets of its tensor {first} are": entry(first, data_offsets=[low, float(high)]),
        f"offsets of its tensor {second} are": entry(second, data_offsets=[False, True]),
        "overlap or leave gaps": entry(first, data_offsets=[size, size + high - low]),
        "overlap or leave": entry(first, data_offsets=[-high, -low]),
        "not valid JSON": b'{"a": NaN}',
        "not valid": b'{"a": 1e400}',
        "is not valid JSON": b"[" * 100_000,
        "header is not valid": b'{"a": 1, "a": 2}',
        "header is not": b"\xff\xfe{}",
        "not a JSON object": b"[]",
    }


def test_wrong_headers_are_refused(saved, tmp_path):
    header, data = split(saved.read_bytes())
    for reason, broken in broken_headers(header, len(data)).items():
        assert reason in refusal(joined(broken, data), tmp_path)


def test_values_that_are_not_finite_are_refused(saved, tmp_path):
    header, data = split(saved.read_bytes())
    low, _ = header["head/bias"]["data_offsets"]
    for value in (np.nan, np.inf, -np.inf):
        bad = data[:low] + np.float32(value).tobytes() + data[low + 4 :]
        assert "head/bias has values that are not finite" in refusal(joined(header, bad), tmp_path)


def test_bits_behind_the_last_sign_are_refused(saved, tmp_path):
    header, data = split(saved.read_bytes())
    name = "body_0/conv/signs"  # 3 * 3 * 5 * 5 bits: one in the last byte
    _, end = header[name]["data_offsets"]
    bad = data[: end - 1] + bytes([data[end - 1] | 0x80]) + data[end:]
    assert "bits behind its last sign" in refusal(joined(header, bad), tmp_path)


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="There is no model file"):
        load_model_file(tmp_path / "missing")
    for name in ("pipe", "."):
        with pytest.raises(UserError, match=r"Cannot read the model file .* no regular file\)"):
            load_model_file(tmp_path / name)
    with pytest.raises(UserError, match="Cannot write the model file"):
        save_model(tmp_path / "no" / "model.binsr", load_tiny())


def load_tiny() -> PackedModel:
    config = default()
    config.model.update({"features": 1, "blocks": 1})
    params = {}
    for name, tensor in stored_tensors(config).items():
        words = None if tensor.kernel is None else (*tensor.kernel[:2], 1, tensor.kernel[3])
        place = params
        *outer, leaf = name.split("/")
        for part in outer:
            place = place.setdefault(part, {})
        if words is None:
            place[leaf] = jnp.ones(tensor.shape)
        else:
            place["w_bits"] = jnp.zeros(words, jnp.uint32)
    return PackedModel(config, params, {})


@pytest.mark.parametrize(("floats", "value"), [("float32", np.nan), ("float16", 1e6)])
def test_a_model_that_could_not_be_read_again_is_not_written(tmp_path, floats, value):
    model = load_tiny()
    model.params["head"]["bias"] = jnp.full((1,), value)
    with pytest.raises(UserError, match=f"head/bias is not finite in {floats}"):
        save_model(tmp_path / "m.binsr", PackedModel(model.config, model.params, {}, floats))
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_file(saved, tmp_path, monkeypatch):
    path = tmp_path / "model.binsr"
    path.write_bytes(saved.read_bytes())
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(UserError, match="No space"):
        save_model(path, load_tiny())
    monkeypatch.undo()
    assert path.read_bytes() == saved.read_bytes()
    assert os.listdir(tmp_path) == ["model.binsr"]


HUGE = [
    struct.pack("<Q", 10**18) + b"{}",
    struct.pack("<Q", 2**64 - 1) + bytes(1000),
    joined(b"[" * (1 << 19), b""),
    joined(b'{"a":' * 100_000, b""),
    joined(b'{"a": ' + b"1" * 500_000 + b"}", b""),
    joined({"__metadata__": {"binsr": "[" * 400_000}}, b""),
    joined({f"t{i}": {"dtype": "U8", "shape": [10**12], "data_offsets": [0, 10**12]}
            for i in range(6000)}, b""),
]  # fmt: skip


@pytest.mark.parametrize("content", HUGE, ids=range(len(HUGE)))
def test_absurd_sizes_take_little_memory(content, tmp_path):
    tracemalloc.start()
    try:
        refusal(content, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()


def test_an_absurd_network_takes_little_memory(saved, tmp_path):
    def change(description):
        description["network"]["model"].update(features=4096, attention_hidden=4096)

    content = described(saved.read_bytes(), change)
    tracemalloc.start()
    try:
        refusal(content, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=200))
def test_random_bytes_are_refused(content, tmp_path):
    refusal(content, tmp_path)
