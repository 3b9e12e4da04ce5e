"""A packed network as a C header, and the reader in plain C that restores a picture with it."""

from collections.abc import Iterable
from importlib import resources
from typing import Any

import numpy as np

from binsr_jax import models
from binsr_jax.deploy.model_file import PackedModel
from binsr_jax.errors import UserError
from binsr_jax.models.backbone import ACTIVATIONS, LEAKY_SLOPE
from binsr_jax.models.edsr import DIV2K_MEAN
from binsr_jax.nn.packed import PackedConv
from binsr_jax.nn.units.base import Unit
from binsr_jax.nn.upsamplers import BinaryUpsampler
from binsr_jax.ops.branch import Branch, SpatialResidual
from binsr_jax.ops.packed import unpack_weights

_SLOPES = {"none": 1.0, "relu": 0.0, "leaky_relu": LEAKY_SLOPE}
assert _SLOPES.keys() == ACTIVATIONS.keys()
_SIDE = 3  # of all kernels
_COLUMNS = 100

_STRUCT = """
struct binsr_branch {
  int shuffle;
  const uint32_t *bits; /* [outputs][3][3][words], channel c is bit c % 32 of word c / 32 */
  const float *threshold, *scale, *bias, *slope, *shift;
  float factor, residual;
  const float *attention; /* a weight for each feature, then the bias; or 0 */
};
"""


def c_sources(model: PackedModel, header: str) -> tuple[str, str]:
    """The header with a network's weights, and the reader that includes it.

    Args:
        model: the network.
        header: the header's file name.

    Raises:
        UserError: the reader has no such network; the sentence says what it lacks.
    """
    return _header(model), _reader().replace('"model.h"', f'"{header}"')


def _reader() -> str:
    return (
        resources.files("binsr_jax.deploy.export").joinpath("reader.c").read_text(encoding="utf-8")
    )


def _header(model: PackedModel) -> str:
    config = model.config.model
    if config.name not in ("edsr", "dncnn") or config.head != "float" or config.tail != "float":
        raise UserError(
            "The reader in C has EDSR and DnCNN with float heads and tails, and this network is "
            f"{config.name} with a {config.head} head and a {config.tail} tail: export it to onnx "
            "or stablehlo."
        )
    branches, upsamplers = _branches(model)
    edsr = config.name == "edsr"
    features, colours = config.features, model.task.channels
    mean = DIV2K_MEAN if edsr and colours == 3 else (0.0,) * colours
    shuffle = model.task.scale if edsr and config.upsampler == "direct" else 1
    numbers = {
        "FEATURES": features,
        "CHANNELS": colours,
        "SCALE": model.task.scale,
        "UNITS": len(branches) - upsamplers,
        "UPSAMPLERS": upsamplers,
        "TAIL_SHUFFLE": shuffle,
        "AMPLIFICATION": _number(config.amplification),
        "HEAD_SLOPE": _number(_SLOPES[config.head_activation]),
        "SKIP": int(edsr),
        "NOISE": int(not edsr),
        "BASE": int(not edsr or config.image_skip == "bilinear"),
    }
    lines = [
        f"/* {model.task.name}: {config.name}, packed by binsr-jax. */",
        f"/* Terms of the weights: {_comment(model.provenance.get('terms', 'not stated'))}. */",
        "#include <stdint.h>",
        "",
        *(f"#define BINSR_{name} {value}" for name, value in numbers.items()),
        _STRUCT,
        _floats("mean", mean),
    ]
    for part, outputs in (("head", features), ("tail", colours * shuffle**2)):
        params = model.params[part]
        lines.append(_floats(f"{part}_kernel", params["kernel"]))
        lines.append(_floats(f"{part}_bias", params.get("bias", np.zeros(outputs))))
    rows = []
    for i, (branch, shuffle) in enumerate(branches):
        arrays, row = _branch(f"branch_{i}", branch, shuffle, features)
        lines += arrays
        rows.append(row)
    table = ",\n".join(rows)
    lines.append(f"static const struct binsr_branch binsr_branches[] = {{\n{table}\n}};")
    return "\n".join(lines) + "\n"


def _branches(model: PackedModel) -> tuple[list[tuple[Branch, int]], int]:
    """The network's packed branches with their shuffles, and how many of them are upsamplers."""
    network: Any = models.build(model.config, PackedConv)

    def parts(network: Any) -> list[tuple[Branch | None, int]]:
        units, upsamplers = network.parts()
        return [
            *((unit.as_branch() if isinstance(unit, Unit) else None, 1) for unit in units),
            *(
                (u.as_branch() if isinstance(u, BinaryUpsampler) else None, u.scale)
                for u in upsamplers
            ),
        ]

    found = network.apply({"params": model.params}, method=parts)
    branches = [(branch, shuffle) for branch, shuffle in found if branch is not None]
    if len(branches) < len(found):
        config = model.config.model
        raise UserError(
            "The reader in C has units of one binary branch (bbcu, and attention with none or "
            "spatial attention on its residual) and binary upsamplers, and this network has unit "
            f"{config.unit}, body_end {config.body_end} and upsampler {config.upsampler} with "
            f"{config.residual_attention} and {config.binary_attention} attention: export it to "
            "onnx or stablehlo."
        )
    return branches, sum(shuffle > 1 for _, shuffle in branches)


def _branch(name: str, branch: Branch, shuffle: int, features: int) -> tuple[list[str], str]:
    """The arrays of a branch, and its row in the table of branches."""
    signs = np.asarray(unpack_weights(branch.w_bits, features))
    bits = np.zeros((signs.shape[-1], _SIDE, _SIDE, -(-features // 32) * 32), bool)
    bits[..., :features] = signs.transpose(3, 0, 1, 2) > 0
    words = np.packbits(bits, axis=-1, bitorder="little").view("<u4")
    residual = branch.residual
    assert residual is not None  # both units and upsamplers add one
    arrays = [
        f"static const uint32_t binsr_{name}_bits[] = {{"
        + _wrapped(f"0x{word:08x}" for word in words.ravel())
        + "};"
    ]
    floats: dict[str, Any] = {
        "threshold": branch.threshold,
        "scale": branch.weight_scale,
        "bias": branch.bias - branch.shift_in,
        "slope": branch.slope,
        "shift": branch.shift_out,
    }
    attention = "0"
    if isinstance(residual, SpatialResidual):
        floats["attention"] = np.append(residual.weights, residual.bias)
        attention = f"binsr_{name}_attention"
    arrays += [_floats(f"{name}_{part}", values) for part, values in floats.items()]
    pointers = ", ".join(
        f"binsr_{name}_{part}" for part in ("bits", "threshold", "scale", "bias", "slope", "shift")
    )
    factors = f"{_number(branch.factor)}, {_number(residual.factor)}"
    return arrays, f"    {{{shuffle}, {pointers}, {factors}, {attention}}}"


def _floats(name: str, values: Any) -> str:
    numbers = _wrapped(_number(value) for value in np.ravel(np.asarray(values, np.float32)))
    return f"static const float binsr_{name}[] = {{{numbers}}};"


def _number(value: Any) -> str:
    """A float constant of C that is exactly this float32."""
    return f"{float(np.float32(value)):.9e}f"


def _comment(text: str) -> str:
    return text.replace("*/", "* /").replace("\\", "/").replace("??", "? ?")


def _wrapped(items: Iterable[str]) -> str:
    """The items, with commas, in lines of some 100 characters."""
    lines, line = [], ""
    for item in items:
        if len(line) + len(item) > _COLUMNS:
            lines.append(line)
            line = ""
        line += item + ", "
    return "\n" + "\n".join([*lines, line.rstrip(", ")])
