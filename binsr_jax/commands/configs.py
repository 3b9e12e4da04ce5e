"""Lists the packaged recipes, or those of a folder: what each costs, and what its paper publishes.

binsr configs
binsr configs my_configs --no-cost

Costs are counted as the recipe's paper counts them, which takes a moment for each: --no-cost lists
the published ones alone. Costs of different conventions cannot be compared; "binsr cost" counts in
all of them, and docs/costs.md says what they are.
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
    """The recipe's cost as its paper counts, in the form of ``published_cost``."""
    convention = CONVENTIONS[recipe.published.convention]
    counted = count(recipe.config, convention.size)
    text = f"{giga(convention.operations(counted))} G"
    if convention.parameters:
        text += f" / {convention.parameters(counted) / 1e3:.0f} K"
    return text


def _convention(recipe: Recipe) -> str:
    """How the cost is counted: the same network has other numbers in the table of another paper."""
    name = recipe.published.convention
    height, width = CONVENTIONS[name].size
    return f"{name}, {width}x{height}"


def _scores(recipe: Recipe) -> str:
    """The published PSNR, ``Set5 37.58``, or of several levels ``CBSD68 33.08 / 30.56 / 27.33``."""
    sets: dict[str, list[str]] = {}
    for name, psnr in recipe.published.scores.items():
        sets.setdefault(name.partition("-")[0], []).append(f"{psnr:.2f}")
    return ", ".join(f"{name} {' / '.join(scores)}" for name, scores in sets.items())
