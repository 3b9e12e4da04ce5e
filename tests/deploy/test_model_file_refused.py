"""The model file: what is not one, or damaged, is refused in a sentence and takes little memory."""

import os
import re
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_bytes import described, joined, refusal, split

from binsr_jax.config import default
from binsr_jax.deploy.model_file import (
    PackedModel,
    load_model_file,
    save_model,
    stored_tensors,
)
from binsr_jax.errors import UserError


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


def memory_of_refusal(content: bytes, folder: Path) -> int:
    """The most bytes that Python holds while a file of this content is refused."""
    tracemalloc.start()
    try:
        refusal(content, folder)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("content", HUGE, ids=range(len(HUGE)))
def test_absurd_sizes_take_little_memory(content, tmp_path):
    assert memory_of_refusal(content, tmp_path) < 12 << 20


def test_an_absurd_network_takes_little_memory(saved, tmp_path):
    def change(description):
        description["network"]["model"].update(features=4096, attention_hidden=4096)

    content = described(saved.read_bytes(), change)
    assert memory_of_refusal(content, tmp_path) < 8 << 20


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=200))
def test_random_bytes_are_refused(content, tmp_path):
    refusal(content, tmp_path)
