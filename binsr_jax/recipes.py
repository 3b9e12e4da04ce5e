"""Recipes: config files, their variants, and what papers print of them.

A recipe file has ``get_config(variant)``. One that stands for a paper's table also has

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
from binsr_jax.errors import UserError


@dataclass(frozen=True)
class Published:
    """What a paper prints of a row of its table.

    Attributes:
        title: What the table calls the row.
        scores: PSNR in dB by set, ``"Set5"``, or by set and level, ``"CBSD68-15"``.
        ssim: SSIM likewise.
        operations: In G, as the paper counts them; None if it does not say.
        parameters: In K, likewise.
        convention: How it counts them: a key of ``binsr_jax.cost.CONVENTIONS``.
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
        file: Path of the recipe file.
        variant: The text after the colon; may be empty.
        config: The full config.
        published: What a paper prints of it, with empty scores if it is no row of a paper's table.
    """

    file: str
    variant: str
    config: Config
    published: Published

    @property
    def title(self) -> str:
        """What tables call it."""
        return self.published.title

    @property
    def spec(self) -> str:
        """``FILE:VARIANT``, as `open_recipe` and ``--config`` take it."""
        return f"{self.file}:{self.variant}" if self.variant else self.file


def open_recipe(spec: str) -> Recipe:
    """Opens ``FILE`` or ``FILE:VARIANT``, such as ``configs/attention.py:res=spatial,bin=se``.

    Raises:
        UserError: there is no such file or variant (the sentence names those there are), or the
            file fails.
    """
    file, _, variant = spec.partition(":")
    return _recipe(file, _load(file), variant)


def list_recipes(folder: str | Path = "configs") -> list[Recipe]:
    """All rows of all recipe files of a folder, by file; a file without rows is one recipe.

    Raises:
        UserError: the folder has no recipe files, or one of them fails.
    """
    files = sorted(file for file in Path(folder).glob("*.py") if not file.name.startswith("_"))
    if not files:
        raise UserError(f"There are no recipes in {str(folder)!r}: name a folder such as configs.")
    return [recipe for file in files for recipe in list_rows(str(file))]


def list_rows(file: str) -> list[Recipe]:
    """All rows of a recipe file; a file without rows is one recipe.

    Raises:
        UserError: there is no such file, or it fails.
    """
    module = _load(file)
    return [_recipe(file, module, variant) for variant in module.get("ROWS", [""])]


def _load(file: str) -> dict[str, Any]:
    """The names that a recipe file defines."""
    if Path(file).suffix != ".py" or not Path(file).is_file():
        known = sorted(str(path) for path in Path(file).parent.glob("*.py"))
        hint = f"choose from {', '.join(known)}" if known else "name one such as configs/NAME.py"
        raise UserError(f"There is no config file {file!r}: {hint}.")
    module = _guarded(file, lambda: runpy.run_path(file))
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
    """What ``call()`` returns; what a recipe raises becomes a sentence."""
    try:
        return call()
    except UserError:
        raise
    except Exception as error:  # a recipe is Python: it can raise anything
        raise UserError(f"The recipe {file} fails: {type(error).__name__}: {error}.") from error
