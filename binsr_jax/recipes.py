"""Recipes: config files, their variants, and the published numbers of their rows.

The packaged recipes are the modules of ``binsr_jax.configs`` and are named like them, such as
``quickstart``. Any other recipe is a file, named by its path. A recipe file has
``get_config(variant)``. A recipe for a paper's table also has

    VARIANTS: dict[str, tuple[str, ...]]     the fields of a variant and their values, default first
    ROWS: dict[str, Published]               variants that are rows of the table
"""

import runpy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

from binsr_jax.config import Config, variant_fields
from binsr_jax.errors import UserError, similar

PACKAGED = Path(__file__).parent / "configs"  # the folder of the packaged recipes


@dataclass(frozen=True)
class Published:
    """The numbers that a paper prints in a row of its table.

    Attributes:
        title: The row's title in the table.
        scores: PSNR in dB by set, ``"Set5"``, or by set and level, ``"CBSD68-15"``.
        ssim: SSIM in the same form.
        operations: In G, as the paper counts them; None if it does not print them.
        parameters: In K, in the same way.
        convention: The paper's way of counting: a key of ``binsr_jax.cost.CONVENTIONS``.
    """

    title: str
    scores: Mapping[str, float] = field(default_factory=dict)
    ssim: Mapping[str, float] = field(default_factory=dict)
    operations: float | None = None
    parameters: float | None = None
    convention: str = "bbcu"


@dataclass(frozen=True)
class Recipe:
    """A config of a recipe file.

    Attributes:
        file: Name of a packaged recipe, or path of a recipe file.
        variant: The text after the colon; may be empty.
        config: The full config.
        published: The paper's numbers; empty scores if it is no row of a paper's table.
    """

    file: str
    variant: str
    config: Config
    published: Published

    @property
    def title(self) -> str:
        """The title in tables."""
        return self.published.title

    @property
    def spec(self) -> str:
        """``RECIPE:VARIANT``, as ``open_recipe`` and ``--config`` take it."""
        return f"{self.file}:{self.variant}" if self.variant else self.file


def open_recipe(spec: str) -> Recipe:
    """Opens ``RECIPE`` or ``RECIPE:VARIANT``, such as ``attention:res=spatial,bin=se``.

    Args:
        spec: A packaged recipe's name or a file's path, and a variant.

    Raises:
        UserError: There is no such file or variant (the message names the existing ones), or the
            file fails.
    """
    file, _, variant = spec.partition(":")
    return _recipe(file, _load(file), variant)


def list_recipes(folder: str | Path | None = None) -> list[Recipe]:
    """All rows of all recipes, by file; a file without rows is one recipe.

    Args:
        folder: The folder of the recipe files; by default the packaged recipes.

    Raises:
        UserError: The folder has no recipe files, or one of them fails.
    """
    if folder is None:
        return [recipe for name in packaged() for recipe in list_rows(name)]
    files = sorted(file for file in Path(folder).glob("*.py") if not file.name.startswith("_"))
    if not files:
        raise UserError(f"There are no recipes in {str(folder)!r}: name a folder such as configs.")
    return [recipe for file in files for recipe in list_rows(str(file))]


def list_rows(file: str) -> list[Recipe]:
    """All rows of a recipe file; a file without rows is one recipe.

    Raises:
        UserError: There is no such file, or it fails.
    """
    module = _load(file)
    return [_recipe(file, module, variant) for variant in module.get("ROWS", [""])]


def packaged() -> list[str]:
    """The names of the packaged recipes."""
    return sorted(path.stem for path in PACKAGED.glob("*.py") if not path.name.startswith("_"))


def recipe_file(recipe: str) -> Path:
    """The file of a recipe, given as a packaged recipe's name or a file's path.

    Raises:
        UserError: There is no such recipe.
    """
    if recipe in packaged():
        return PACKAGED / f"{recipe}.py"
    path = Path(recipe)
    if path.suffix == ".py" and path.is_file():
        return path
    files = {file.stem: str(file) for file in sorted(path.parent.glob("*.py"))}
    known = files if path.suffix else {name: name for name in packaged()}
    if (meant := similar(path.stem, known)) is not None:
        hint = f"did you mean {known[meant]}?"
    elif known:
        hint = f"choose from {', '.join(known.values())}."
    else:
        hint = "name one such as quickstart, or a file of your own."
    what = "config file" if path.suffix else "recipe"
    raise UserError(f"There is no {what} {recipe!r}: {hint}")


def _load(file: str) -> dict[str, Any]:
    """The names that a recipe file defines."""
    path = recipe_file(file)
    module = _guarded(file, lambda: runpy.run_path(str(path)))
    if not callable(module.get("get_config")):
        raise UserError(f"The recipe {file} fails: it defines no function get_config.")
    return module


def _recipe(file: str, module: dict[str, Any], variant: str) -> Recipe:
    if variant and not signature(module["get_config"]).parameters:
        raise UserError(f"The recipe {file} has no variants: leave out the colon and what follows.")
    config = _guarded(file, lambda: module["get_config"](*filter(None, [variant])))
    variants = module.get("VARIANTS", {})
    fields = variant_fields(variant, **variants) if variants else variant
    for row, published in module.get("ROWS", {}).items():
        if variant_fields(row, **variants) == fields:
            return Recipe(file, variant, config, published)
    title = f"{Path(file).stem}:{variant}" if variant else Path(file).stem
    return Recipe(file, variant, config, Published(title))


def _guarded(file: str, call: Callable[[], Any]) -> Any:
    """The result of ``call()``; an exception in a recipe becomes one sentence."""
    try:
        return call()
    except UserError:
        raise
    except Exception as error:  # a recipe is Python: it can raise anything
        raise UserError(f"The recipe {file} fails: {type(error).__name__}: {error}.") from error
