"""Loads the engine of a model file: a cached program if the network can be one, else XLA.

A program runs on the CPU without JAX, whose import takes over a second, and without a trace or a
compilation. A model file is traced once for each version of this package.
"""

import functools
import hashlib
import importlib.util
import json
import os
import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from binsr_jax.cache_folder import cache_folder
from binsr_jax.deploy.program import Half, Program, Step
from binsr_jax.files import expanded, open_regular, replace_bytes
from binsr_jax.ops.native import choose
from binsr_jax.pretrained import file_of

if TYPE_CHECKING:
    from binsr_jax.deploy.model_file import PackedModel
    from binsr_jax.deploy.upscaler import TileEngine

Arithmetic = Literal["packed", "float"]
_PACKAGE = Path(__file__).parents[1]
# The modules that a program depends on.
_ROOMS = ("deploy", "models", "nn", "ops")
_DIGEST_BYTES = 32
# For larger model files there is no program: its name is a hash of the file, which takes too long.
_MOST_BYTES = 1 << 28


def load_engine(model: str | Path) -> "TileEngine":
    """The engine of a model file, or of a packaged network's name.

    Raises:
        UserError: The file is missing, broken or of a later version.
    """
    file = expanded(file_of(model))
    place = _place(file)
    if place is not None:
        choose.begin()  # the compiler works while this imports JAX and reads the model
        program = _read(place)
        if program is not None and choose.chosen_form() != "xla":
            return program
    from binsr_jax.deploy.model_file import load_model_file

    engine = engine_of(load_model_file(file))
    if isinstance(engine, Program) and place is not None and place == _place(file):
        _write(place, engine)
    return engine


def engine_of(model: "PackedModel", arithmetic: Arithmetic = "packed") -> "TileEngine":
    """The engine of a packed model: a program if the network can be one, else XLA."""
    from binsr_jax.deploy.engine import Engine

    engine = Engine(model, arithmetic)
    return engine.program() or engine


def _place(file: Path) -> Path | None:
    """The cached file for the program of a model file; None if programs are not used or cached."""
    if not _runs_on_cpu():
        return None
    try:
        with open_regular(file) as content:
            if os.fstat(content.fileno()).st_size > _MOST_BYTES:
                return None
            digest = hashlib.file_digest(content, "sha256")
        digest.update(_code())
        return cache_folder("programs") / f"{digest.hexdigest()}.program"
    except OSError:
        return None


def _runs_on_cpu() -> bool:
    """Whether JAX would choose the CPU."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    accelerated = any(map(importlib.util.find_spec, ("jax_plugins", "libtpu")))
    return platforms == "cpu" if platforms else not accelerated


@functools.cache
def _code() -> bytes:
    """A hash of the code that makes and runs programs."""
    digest = hashlib.sha256(sys.version.encode())
    for room in _ROOMS:
        for source in sorted((_PACKAGE / room).rglob("*.py")):
            digest.update(source.read_bytes())
    return digest.digest()


def _write(place: Path, program: Program) -> None:
    halves = {"extract": program.extract, "reconstruct": program.reconstruct}
    arrays = {
        f"{name}/{number}": np.ascontiguousarray(array)
        for name, half in halves.items()
        for number, array in half.constants.items()
    }
    about: dict[str, Any] = {
        name: [[asdict(step) for step in half.steps], half.inputs, half.output]
        for name, half in halves.items()
    }
    plain = [field.name for field in fields(Program) if field.name not in halves]
    about |= {name: getattr(program, name) for name in plain}
    content = safetensors.numpy.save(arrays, metadata={"program": json.dumps(about)})
    try:
        replace_bytes(place, hashlib.sha256(content).digest() + content)
    except OSError:  # such as a full disk: the program is made again the next time
        return


def _read(place: Path) -> Program | None:
    """The program in a cached file; None if it is missing or damaged."""
    try:
        content = place.read_bytes()
        digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            return None
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        about, arrays = (
            json.loads(header["__metadata__"]["program"]),
            safetensors.numpy.load(content),
        )
    except (OSError, SafetensorError):
        return None
    halves = {}
    for name in ("extract", "reconstruct"):
        steps, inputs, output = about.pop(name)
        made = tuple(Step(**step | {"inputs": tuple(step["inputs"])}) for step in steps)
        constants = {
            int(key.split("/")[1]): array
            for key, array in arrays.items()
            if key.startswith(f"{name}/")
        }
        halves[name] = Half(made, constants, tuple(inputs), output)
    return Program(**halves, **about)
