"""List the packaged recipes, or those of a folder, with their costs and published scores.

binsr configs
binsr configs my_configs --no-cost

Costs are counted as in the recipe's paper, which takes a moment for each; --no-cost lists only
published costs. Costs of different conventions are not comparable. "binsr cost" counts in all
conventions, and docs/costs.md explains them.
"""

import argparse

from binsr_jax.commands.cost import published_cost
from binsr_jax.cost import CONVENTIONS, count, giga
from binsr_jax.files import printable
from binsr_jax.recipes import Recipe, list_recipes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``binsr configs``."""
    parser.add_argument("folder", nargs="?", help="default: the packaged recipes")
    parser.add_argument("--no-cost", action="store_true", help="do not count operations")


def run(args: argparse.Namespace) -> None:
    """Runs ``binsr configs``."""
    recipes = list_recipes(args.folder)
    print("| recipe | title | cost | published cost | convention, input | published PSNR, dB |")
    print("|---|---|---|---|---|---|")
    for recipe in recipes:
        cost = "" if args.no_cost else _cost(recipe)
        published = [published_cost(recipe), _convention(recipe), _scores(recipe)]
        cells = [recipe.spec, recipe.title, cost, *published]
        print(printable(f"| {' | '.join(cells)} |"), flush=True)


def _cost(recipe: Recipe) -> str:
    """The recipe's cost, counted as in its paper, in the form of ``published_cost``."""
    convention = CONVENTIONS[recipe.published.convention]
    counted = count(recipe.config, convention.size)
    text = f"{giga(convention.operations(counted))} G"
    if convention.parameters:
        text += f" / {convention.parameters(counted) / 1e3:.0f} K"
    return text


def _convention(recipe: Recipe) -> str:
    """The convention of the cost: the same network has other numbers in another paper's table."""
    name = recipe.published.convention
    height, width = CONVENTIONS[name].size
    return f"{name}, {width}x{height}"


def _scores(recipe: Recipe) -> str:
    """The published PSNR, ``Set5 37.58``, or at several levels ``CBSD68 33.08 / 30.56 / 27.33``."""
    sets: dict[str, list[str]] = {}
    for name, psnr in recipe.published.scores.items():
        sets.setdefault(name.partition("-")[0], []).append(f"{psnr:.2f}")
    return ", ".join(f"{name} {' / '.join(scores)}" for name, scores in sets.items())
