"""Damaged and hostile model files, by the hundred: each is refused in one sentence, or runs.

``python tests/deploy/test_model_fuzz.py 20000`` tries as many mutations as it is told.
"""

import functools
import json
import random
import resource
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from binsr_jax import models
from binsr_jax.config import config_from_json, config_to_json
from binsr_jax.deploy import model_file
from binsr_jax.deploy.description import without_training
from binsr_jax.deploy.model_file import PackedModel, load_model_file, save_model
from binsr_jax.errors import UserError
from binsr_jax.nn.packed import PackedConv

SEEDS = (Path(__file__).with_name("files") / "version_1.binsr",)
_MOST_SECONDS = 10  # of a process on a busy machine; a mutation takes milliseconds
_MOST_BYTES = 512 << 20  # beside what the program has at its start

Content = tuple[dict[str, Any], dict[str, Any], bytes]  # header, description, tensors


def split(content: bytes) -> Content:
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["binsr"]), content[8 + length :]


def joined(header: Any, description: Any, data: bytes) -> bytes:
    header = {**header, "__metadata__": {"binsr": json.dumps(description)}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _flip(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(len(changed))] ^= rng.randint(1, 255)
    return bytes(changed)


def _flip_header(rng: random.Random, content: bytes) -> bytes:
    length = 8 + struct.unpack("<Q", content[:8])[0]
    return _flip(rng, content[:length]) + content[length:]


def _flip_tensors(rng: random.Random, content: bytes) -> bytes:
    length = 8 + struct.unpack("<Q", content[:8])[0]
    return content[:length] + _flip(rng, content[length:])


def _cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content))]


def _grow(rng: random.Random, content: bytes) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.randbytes(rng.randint(1, 64)) + content[at:]


def _length(rng: random.Random, content: bytes) -> bytes:
    length = rng.choice([0, 1, 2**19, 2**31, 2**63, 2**64 - 1, rng.randrange(len(content))])
    return struct.pack("<Q", length) + content[8:]


_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, 3, -1, 5, 5.0, 0.5, 1e-300, 1e300, 4096, 4097, 64, 65),
    *(2**31, 2**53, 2**63, 10**18, 10**400, "", "x", "\x1b[31m", "none", "bam", "float", "se"),
    *([], [[]], {}, [3, 3, 5, 5], [0, 10**12], [True, 1], ["x"] * 50, {"a": {"b": [1]}}),
    *("sr", "jpeg", "denoise", "F32", "F16", "F64", "U8", "I64", "float16", "float32", "x" * 5000),
)


def _edit(rng: random.Random, tree: Any) -> Any:
    """A JSON value with one of its values replaced, removed, doubled or given another name."""
    tree = _copy(tree)
    places = list(_places(tree))
    parent, key = rng.choice(places)
    match rng.randrange(6):
        case 0:
            del parent[key]
        case 1 if isinstance(parent, dict):
            parent[rng.choice(["x", "model", "\x1b", "a.b", "", str(key) + "_"])] = parent[key]
        case 2:
            other, name = rng.choice(places)
            parent[key] = _copy(other[name])
        case 3:
            parent[key] = functools.reduce(lambda inner, _: [inner], range(rng.randint(1, 100)), 0)
        case _:
            parent[key] = rng.choice(_VALUES)
    return tree


def _copy(tree: Any) -> Any:
    return json.loads(json.dumps(tree))


def _places(tree: Any) -> Any:
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _edit_header(rng: random.Random, content: bytes) -> bytes:
    header, description, data = split(content)
    return joined(_edit(rng, header), description, data)


def _edit_description(rng: random.Random, content: bytes) -> bytes:
    header, description, data = split(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        description = _edit(rng, description) or {"x": 1}
    return joined(header, description, data)


def _edit_network(rng: random.Random, content: bytes) -> bytes:
    header, description, data = split(content)
    network = description["config" if "config" in description else "network"]
    field = rng.choice(list(network["model"]))
    network["model"][field] = rng.choice(_VALUES)
    return joined(header, description, data)


MUTATIONS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    *(_flip, _flip_header, _flip_tensors, _cut, _grow, _length),
    *(_edit_header, _edit_description, _edit_network),
)


@functools.cache
def _network(config: str, scale: int, channels: int) -> Any:
    """A compiled network, by its description."""
    network = _CONFIGS[config]
    return jax.jit(models.network(network.model, scale, channels, conv=PackedConv).apply)


_CONFIGS: dict[str, Any] = {}


def _run(model: PackedModel) -> None:
    key = json.dumps([config_to_json(model.config)["model"], model.task.name])
    _CONFIGS[key] = model.config
    task = model.task
    image = np.zeros((1, 8, 8, task.channels), np.float32)
    network = _network(key, task.scale, task.channels)
    y = np.asarray(network({"params": model.params}, image))
    assert y.shape == (1, 8 * task.scale, 8 * task.scale, task.channels)


def check(path: Path, content: bytes) -> bool:
    """Whether the file is read, and then runs; raises if it does neither that nor is refused."""
    path.write_bytes(content)
    started = time.process_time()
    try:
        model = load_model_file(path)
    except UserError as error:
        sentence = str(error)
        assert sentence.startswith(str(path))
        assert sentence.endswith(".")
        assert sentence.isprintable()
        assert len(sentence) < len(str(path)) + 400
        return False
    finally:
        assert time.process_time() - started < _MOST_SECONDS
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(model.params))
    _run(model)
    return True


_build = model_file.stored_tensors


@functools.lru_cache(maxsize=256)
def _tensors(config: str, floats: str) -> Any:
    return _build(config_from_json(json.loads(config)), floats)


def _remembered(config: Any, floats: str = "float32") -> Any:
    """``stored_tensors``, which takes most of the time, once for each network."""
    config = without_training(config)
    return _tensors(json.dumps(config_to_json(config), sort_keys=True), floats)


def fuzz(folder: Path, seeds: list[bytes], first: int, count: int) -> int:
    """Tries mutations by number; returns how many files were read."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    read = 0
    for number in range(first, first + count):
        rng = random.Random(number)
        mutate = MUTATIONS[number % len(MUTATIONS)]
        content = mutate(rng, seeds[number // len(MUTATIONS) % len(seeds)])
        try:
            read += check(folder / "mutated.binsr", content)
        except Exception as error:
            raise AssertionError(f"mutation {number} ({mutate.__name__})") from error
        used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
        assert used < _MOST_BYTES, f"mutation {number} ({mutate.__name__}): {used >> 20} MB"
    return read


def seeds_of(folder: Path) -> list[bytes]:
    """A file of version 1, and the same network in version 2."""
    save_model(folder / "seed.binsr", load_model_file(SEEDS[0]))
    return [*(seed.read_bytes() for seed in SEEDS), (folder / "seed.binsr").read_bytes()]


def test_any_mutation_is_refused_in_one_sentence_or_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(model_file, "stored_tensors", _remembered)
    read = fuzz(tmp_path, seeds_of(tmp_path), 0, 360)
    assert 20 < read < 200  # of those that changed nothing but numbers or where it comes from


if __name__ == "__main__":
    model_file.stored_tensors = _remembered
    with tempfile.TemporaryDirectory() as name:
        total = int(sys.argv[1])
        print(f"{fuzz(Path(name), seeds_of(Path(name)), 0, total)} of {total} mutations are read")
