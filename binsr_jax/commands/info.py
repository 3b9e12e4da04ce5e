"""Show the contents of a model file: its task, network, training and size."""

import argparse
from pathlib import Path

from binsr_jax import cost
from binsr_jax.config import Config
from binsr_jax.deploy.model_file import PackedModel, load_model_file
from binsr_jax.files import expanded, printable
from binsr_jax.pretrained import file_of

# Networks that are not built of units; the unit in their configs has no meaning.
_FLOAT = ("rrdbnet", "srvgg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``binsr info``."""
    parser.add_argument(
        "model",
        nargs="?",
        default="x2",
        metavar="MODEL",
        help="a model file of binsr pack, or a packaged network's name (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    """Runs ``binsr info``."""
    path = file_of(args.model)
    print(describe(load_model_file(path), path))


def describe(model: PackedModel, path: Path) -> str:
    """Lines of ``name: value`` about a model and its file."""
    network, made = model.config.model, model.provenance
    attention = ", ".join(
        f"{network[f'{branch}_attention']} on the {branch} branch"
        for branch in ("residual", "binary")
        if network[f"{branch}_attention"] != "none"
    )
    costs = cost.count(model.config, size=(1, 1))
    tensors = costs.bytes_of(model.floats)
    scores = ", ".join(f"{name} {score:.4g}" for name, score in made.get("scores", {}).items())
    parts = [part for part in ("head", "upsampler", "hr_conv", "tail") if _has(model.config, part)]
    of_units = {
        "unit": network.unit,
        "parts": ", ".join(f"{network[part]} {part}" for part in parts),
        "attention": attention or "none",
    }
    lines = {
        **({"name": made["name"]} if "name" in made else {}),
        "task": model.task.name,
        "network": f"{network.name}, {network.blocks} blocks of {network.features} channels",
        **(of_units if network.name not in _FLOAT else {}),
        "parameters": f"{costs.binary_parameters:,} binary, {costs.float_parameters:,} float",
        "floats": model.floats,
        "trained": f"{made['steps']:,} steps" if "steps" in made else "unknown",
        "data": " ".join(made[name] for name in ("source", "data") if made.get(name)) or "unknown",
        "scores": scores or "unknown",
        "terms": made.get("terms", "unknown"),
        "packed by": f"binsr-jax {made['package']}" if "package" in made else "unknown",
        "size": f"{expanded(path).stat().st_size:,} bytes, {tensors:,} of them tensors",
    }
    return "\n".join(printable(f"{name + ':':12}{value}") for name, value in lines.items())


def _has(config: Config, part: str) -> bool:
    """Whether the network has this part, since a config may mention parts that it lacks."""
    if part == "upsampler":
        return config.scale > 1
    return part != "hr_conv" or (config.model.name == "srresnet" and config.model.hr_conv != "none")
