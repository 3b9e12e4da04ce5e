"""Write a packed network for use in other programs.

    stablehlo  one artifact of jax.export for CPU, CUDA and TPU, with bits
    onnx       a graph in which signs and binary weights are floats, +1 and -1
    onnx-int8  the same with signs and binary weights as 8-bit integers
    c          a header with the weights, and beside it a reader in plain C, with bits

MODEL is a model file of binsr pack, or a name of binsr models. docs/export.md says what stays
binary in each form, and how to load it.

    binsr export x2 --to stablehlo -o x2.stablehlo
    binsr export x2 --to onnx -o x2.onnx
    binsr export x2 --to c -o x2.h && cc -O2 -o restore x2.c -lm
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from binsr_jax.deploy.model_file import PackedModel, load_model_file
from binsr_jax.errors import UserError
from binsr_jax.files import expanded, replace_bytes
from binsr_jax.pretrained import file_of


def _stablehlo(model: PackedModel, file: Path) -> dict[Path, bytes]:
    from binsr_jax.deploy.export.stablehlo import stablehlo

    return {file: stablehlo(model)}


def _c(model: PackedModel, file: Path) -> dict[Path, bytes]:
    from binsr_jax.deploy.export.c_code import c_sources

    reader = file.with_suffix(".c")
    if file == reader:
        raise UserError(f"{file} is what the reader is called: end the header's name in .h.")
    header_text, reader_text = c_sources(model, file.name)
    return {file: header_text.encode(), reader: reader_text.encode()}


def _onnx(model: PackedModel, file: Path, int8: bool = False) -> dict[Path, bytes]:
    from binsr_jax.deploy.export.onnx_graph import onnx_model

    return {file: onnx_model(model, int8).SerializeToString()}


# For each form, a function that returns the files to write and their contents.
_FORMS: dict[str, Callable[[PackedModel, Path], dict[Path, bytes]]] = {
    "stablehlo": _stablehlo,
    "onnx": _onnx,
    "onnx-int8": partial(_onnx, int8=True),
    "c": _c,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``binsr export``."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="a model file, or a name")
    add("--to", required=True, choices=_FORMS, help="the form")
    add("-o", "--output", required=True, type=Path, metavar="FILE", help="the file to write")


def run(args: argparse.Namespace) -> None:
    """Runs ``binsr export``."""
    model = load_model_file(file_of(args.model))
    files = _FORMS[args.to](model, expanded(args.output))
    for path, content in files.items():
        try:
            replace_bytes(path, content)
        except OSError as error:
            raise UserError(
                f"Cannot write {path} ({error.strerror}): name another file with -o."
            ) from error
        print(f"{path}: {len(content):,} bytes")
