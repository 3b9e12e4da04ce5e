"""Count parameters, operations and bytes of a recipe, a work dir, a model file, or all recipes.

binsr cost --config bin_edsr:residual=spatial --size 360x640
binsr cost --model model.binsr
binsr cost --all                         a row for each recipe, counted as in its paper
binsr cost --all --convention bsrc

The conventions, with operations in G and parameters in K:
"""

import argparse
import re
from collections.abc import Iterator

from binsr_jax import cost
from binsr_jax.config import Config
from binsr_jax.cost import CONVENTIONS, size_text
from binsr_jax.deploy.model_file import load_model_file
from binsr_jax.files import printable_lines
from binsr_jax.pretrained import file_of
from binsr_jax.recipes import Recipe, list_recipes, open_recipe
from binsr_jax.training.trained import load_model

_MAX_SIDE = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``binsr cost``."""
    parser.description = f"{__doc__}" + "\n".join(
        f"{name:<8} at LR {size_text(convention.size)}: {convention.summary}"
        for name, convention in CONVENTIONS.items()
    )
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument(
        "--config", metavar="RECIPE[:VARIANT]", help="a packaged recipe's name, or a file"
    )
    network.add_argument("--workdir", metavar="DIR", help="where a network was trained")
    network.add_argument("--model", metavar="FILE", help="a model file, or a name of binsr models")
    network.add_argument(
        "--all",
        nargs="?",
        const="",
        metavar="FOLDER",
        help="all recipes of a folder; default: the packaged ones",
    )
    parser.add_argument("--convention", choices=CONVENTIONS, help="count as this paper does")
    parser.add_argument(
        "--size",
        type=_size,
        metavar="HxW",
        help="of the network's input; default: the convention's, or 180x320",
    )


def run(args: argparse.Namespace) -> None:
    """Runs ``binsr cost``."""
    lines = _one(args) if args.all is None else _rows(args)
    for line in lines:  # printed one by one, since counting takes a moment for each
        print(printable_lines(line), flush=True)


def _one(args: argparse.Namespace) -> Iterator[str]:
    """The table of one network."""
    config = _config(args)
    names = [args.convention] if args.convention else list(CONVENTIONS)
    size = args.size or (CONVENTIONS[args.convention].size if args.convention else None)
    yield cost.markdown(cost.count(config, size or cost.DEFAULT_SIZE))
    for name in names:
        convention = CONVENTIONS[name]
        counted = cost.count(config, args.size or convention.size)
        where = f"{name}, LR {size_text(counted.size)}"
        yield f"| operations by {where} | {cost.giga(convention.operations(counted))} G |"
        if convention.true_operations:
            true = cost.giga(convention.true_operations(counted))
            yield f"| the same, each attention counted once | {true} G |"
        if convention.parameters:
            yield f"| parameters by {name} | {convention.parameters(counted) / 1e3:.0f} K |"


def _rows(args: argparse.Namespace) -> Iterator[str]:
    """The table of all recipes, line by line."""
    recipes = list_recipes(args.all or None)
    columns = ["recipe", "convention", "OPs, G", "true OPs, G", "params, K", "published"]
    columns += ["float MACs, G", "binary MACs, G", "elementwise, G", "packed, KB", "maps, MB"]
    yield f"| {' | '.join(columns)} |"
    yield "|---|---|" + "---:|" * (len(columns) - 2)
    for recipe in recipes:
        name = args.convention or recipe.published.convention
        convention = CONVENTIONS[name]
        counted = cost.count(recipe.config, args.size or convention.size)
        true, parameters = convention.true_operations, convention.parameters
        cells = [
            recipe.spec,
            f"{name}, {size_text(counted.size)}",
            cost.giga(convention.operations(counted)),
            cost.giga(true(counted)) if true else "",
            f"{parameters(counted) / 1e3:.0f}" if parameters else "",
            published_cost(recipe) if name == recipe.published.convention else "",
            *(
                cost.giga(number, 3)
                for number in (counted.float_macs, counted.binary_macs, counted.elementwise)
            ),
            f"{counted.file_bytes / 1e3:.1f}",
            f"{counted.activation_bytes / 1e6:.1f}",
        ]
        yield f"| {' | '.join(cells)} |"


def published_cost(recipe: Recipe) -> str:
    """The cost in the recipe's paper, such as ``18.55 G / 225 K``; may be empty."""
    published = recipe.published
    numbers = ((published.operations, "G"), (published.parameters, "K"))
    return " / ".join(f"{number} {unit}" for number, unit in numbers if number is not None)


def _config(args: argparse.Namespace) -> Config:
    if args.config:
        return open_recipe(args.config).config
    return (
        load_model(args.workdir)[0] if args.workdir else load_model_file(file_of(args.model)).config
    )


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,7})x(\d{1,7})", text)
    sides = tuple(int(side) for side in match.groups()) if match else ()
    if len(sides) != 2 or not all(0 < side <= _MAX_SIDE for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 180x320")
    return sides[0], sides[1]
