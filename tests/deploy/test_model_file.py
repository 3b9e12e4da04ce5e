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

from binsr_jax.config import config_to_json, default
from binsr_jax.deploy.model_file import (
    NETWORK_FIELDS,
    PackedModel,
    load_model_file,
    save_model,
    stored_tensors,
)
from binsr_jax.errors import UserError

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


@pytest.mark.parametrize("floats", ["float32", "float16"])
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
        stored = array if array.dtype == jnp.uint32 else np.asarray(array, floats)
        np.testing.assert_array_equal(after[name], np.asarray(stored, array.dtype))
        assert after[name].dtype == array.dtype
    assert os.listdir(tmp_path) == ["model.binsr"]


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
    assert description["config"] == config_to_json(model.config)
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
    for name in (*NETWORK_FIELDS, *(f"model.{name}" for name in default().model)):
        assert f"`{name}`" in text


def test_fields_that_do_not_make_the_network_may_be_missing(saved, tmp_path):
    def change(description):
        description["config"] = {
            "task": "sr",
            "scale": 2,
            "model": description["config"]["model"],
        }
        description["provenance"] = {}

    (tmp_path / "small.binsr").write_bytes(described(saved.read_bytes(), change))
    model = load_model_file(tmp_path / "small.binsr")
    assert model.provenance == {}
    assert model.config.train.steps == default().train.steps


def test_every_truncation_is_refused(saved, tmp_path):
    content = saved.read_bytes()
    for length in [0, 1, 7, 8, 9, *range(10, len(content), 97), len(content) - 1]:
        refusal(content[:length], tmp_path)
    refusal(content + b"\0", tmp_path)


DESCRIPTIONS = {
    "format version 2": lambda d: d.update(format_version=2),
    "no format_version": lambda d: d.update(format_version="1"),
    "unknown in this version": lambda d: d.update(colour="blue"),
    "has no task": lambda d: d.pop("task"),
    "task is not SR x2": lambda d: d.update(task="SR x3"),
    "wrong type": lambda d: d.update(config=[]),
    "neither float32 nor float16": lambda d: d.update(floats="bfloat16"),
    "is not F16": lambda d: d.update(floats="float16"),
    "no field scale": lambda d: d["config"].pop("scale"),
    r"no field model\.unit": lambda d: d["config"]["model"].pop("unit"),
    r"model\.colour = 3": lambda d: d["config"]["model"].update(colour=3),
    r"model\.features = True": lambda d: d["config"]["model"].update(features=True),
    r"model\.features = 5\.0": lambda d: d["config"]["model"].update(features=5.0),
    "features is above 4096": lambda d: d["config"]["model"].update(features=10**9),
    "features is -1": lambda d: d["config"]["model"].update(features=-1),
    "too few": lambda d: d["config"]["model"].update(blocks=64),
    "blocks is above": lambda d: d["config"]["model"].update(blocks=10**18),
    r"not within": lambda d: d["config"]["model"].update(amplification=1e300),
    "unit is 'x'": lambda d: d["config"]["model"].update(unit="x"),
    "scale is 7": lambda d: d["config"].update(scale=7),
    "task is 'paint'": lambda d: d["config"].update(task="paint"),
    "kernels are not those": lambda d: d["kernels"].popitem(),
    "no tensor": lambda d: d["config"]["model"].update(residual_attention="se"),
    "its kernels|is not F32": lambda d: d["config"]["model"].update(features=6),
    "provenance has a field": lambda d: d["provenance"].update(author="me"),
    "a steps of a wrong type": lambda d: d["provenance"].update(steps=1.5),
    "not a finite number": lambda d: d["provenance"]["scores"].update(x=10**400),
    "impossible number of steps": lambda d: d["provenance"].update(steps=10**400),
    "that cannot be printed": lambda d: d["provenance"]["scores"].update({"\a": 1}),
    "cannot be printed": lambda d: d["provenance"].update(data="\x1b[31m"),
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
        "overlap or leave gaps": entry(first, data_offsets=[size, size + high - low]),
        "overlap or leave": entry(first, data_offsets=[-high, -low]),
        "not valid JSON": b'{"a": NaN}',
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
    for name in ("missing", "pipe", "."):
        with pytest.raises(UserError, match="There is no model file"):
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
        description["config"]["model"].update(features=4096, attention_hidden=4096)

    content = described(saved.read_bytes(), change)
    tracemalloc.start()
    try:
        refusal(content, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


json_leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**9, 10**18, 2**63, -1, 10**400])
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
)
json_values = st.recursive(
    json_leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner)
)


def paths(value: Any, path: tuple = ()) -> list[tuple]:
    """All places in a JSON value."""
    inner = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    return [path, *(found for key, each in inner for found in paths(each, (*path, key)))]


def edited(value: Any, path: tuple, new: Any) -> Any:
    """A JSON value with another one at a place, or without it where ``new`` is ``...``."""
    if not path:
        return None if new is ... else new
    copy = value.copy()
    if new is ... and len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = edited(value[path[0]], path[1:], new)
    return copy


@st.composite
def fuzzed(draw, content: bytes) -> bytes:
    """A file with flipped bytes, a part missing or added, or an edit of its header."""
    kind = draw(st.sampled_from(["flip", "header flip", "cut", "grow", "header", "description"]))
    header, data = split(content)
    if kind == "cut":
        return content[: draw(st.integers(0, len(content)))]
    if kind == "grow":
        at = draw(st.integers(0, len(content)))
        return content[:at] + draw(st.binary(min_size=1, max_size=64)) + content[at:]
    if kind in ("flip", "header flip"):
        changed = bytearray(content)
        last = len(content) - (len(data) if kind == "header flip" else 0) - 1
        for at in draw(st.lists(st.integers(0, last), min_size=1, max_size=4)):
            changed[at] ^= draw(st.integers(1, 255))
        return bytes(changed)
    new = draw(json_values | st.just(...))
    if kind == "header":
        return joined(edited(header, draw(st.sampled_from(paths(header))), new), data)
    description = json.loads(header["__metadata__"]["binsr"])
    text = json.dumps(edited(description, draw(st.sampled_from(paths(description))), new))
    header["__metadata__"]["binsr"] = text
    return joined(header, data)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(draws=st.data())
def test_any_file_is_read_or_refused_in_one_sentence(draws, saved, tmp_path):
    content = draws.draw(fuzzed(saved.read_bytes()))
    path = tmp_path / "fuzzed.binsr"
    path.write_bytes(content)
    try:
        model = load_model_file(path)
    except UserError as error:
        sentence = str(error)
        assert sentence.startswith(str(path))
        assert sentence.count("\n") == 0
        assert len(sentence) < len(str(path)) + 400
    else:
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(model.params))


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=200))
def test_random_bytes_are_refused(content, tmp_path):
    refusal(content, tmp_path)
