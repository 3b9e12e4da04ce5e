"""The rows of a study: recipes reduced to one small budget, the same for all of them."""

import ast
import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from binsr_jax.config import Config, copy_of, field_value, list_value
from binsr_jax.errors import UserError
from binsr_jax.recipes import Published, Recipe, list_rows, open_recipe

# The papers' number of channels; a row with fewer (SRResNet-Lite: 12) is reduced in proportion.
_PAPER_FEATURES = 64


@dataclass(frozen=True)
class Row:
    """One network of a study.

    Attributes:
        name: The name of its work dir, below the study's.
        recipe: The value of ``--config``.
        title: The title in tables and plots.
        config: All settings of its training.
        published: The numbers that a paper prints for it.
    """

    name: str
    recipe: str
    title: str
    config: Config
    published: Published


@dataclass(frozen=True)
class Budget:
    """The length and the learning rate of every training in a study.

    The milestones of a paper mean nothing in a few hundred steps. Here Adam's rate rises for a
    tenth of the steps, then falls to zero along a cosine.

    Attributes:
        steps: The number of updates.
        batch: Patches per step.
        learning_rate: The highest rate.
    """

    steps: int
    batch: int = 8
    learning_rate: float = 1e-3

    def apply(self, config: Config) -> None:
        """Sets the whole schedule in ``config.train``, with one validation at the end."""
        config.train.update(
            {
                "steps": self.steps,
                "batch": self.batch,
                "loss": "l1",
                "ssim_weight": 0.0,
                "init_from": "",
                "teacher": "",
                "floats": "float32",
                "sparsity": 0.0,
                "learning_rate": self.learning_rate,
                "schedule": "cosine",
                "warmup": self.steps // 10,
                "final_rate": 0.0,
                "beta1": 0.9,
                "beta2": 0.99,
                "clip_norm": 0.0,
                "ema": 0.0,
                "log_every": max(1, self.steps // 20),
                "checkpoint_every": max(1, self.steps // 5),
                "keep": 1,
            }
        )
        config.data.taught = 0
        config.eval.every = self.steps


def choose(patterns: Iterable[str]) -> list[Recipe]:
    """The recipes that ``FILE``, ``FILE:VARIANT`` and ``FILE:PATTERN`` name, each once.

    Args:
        patterns: A pattern is a variant with ``*``, ``?`` or ``[...]``; it matches rows of its
            file.

    Raises:
        UserError: There is no such file or variant, or no row matches a pattern.
    """
    recipes: dict[tuple[str, str], Recipe] = {}
    for pattern in patterns:
        file, _, variant = pattern.partition(":")
        if re.search(r"[*?[]", variant):
            rows = list_rows(file)
            fitting = [row for row in rows if fnmatch.fnmatchcase(row.variant, variant)]
            if not fitting:
                raise UserError(
                    f"No row of {file} matches {variant!r}: it has "
                    f"{', '.join(row.variant for row in rows) or 'none'}."
                )
        else:
            fitting = [open_recipe(pattern)]
        for recipe in fitting:
            recipes.setdefault((str(Path(recipe.file).resolve()), recipe.variant), recipe)
    return list(recipes.values())


def reduced(
    config: Config,
    budget: Budget,
    *,
    features: int | None = None,
    blocks: int | None = None,
    sets: Sequence[str] = (),
    settings: Iterable[str] = (),
) -> Config:
    """A recipe's config, reduced to a budget.

    Args:
        config: The recipe's config; it is not changed.
        budget: The length and rate of the training.
        features: Channels of a network with 64 in its recipe. Others are reduced in proportion, and
            so is the amplification (k = 130 n / 64), unless it is 1, which means none.
        blocks: Residual blocks.
        sets: Benchmark sets for scoring; by default the recipe's.
        settings: ``config.FIELD=VALUE``, applied last.

    Raises:
        UserError: There is no such field, or the value is not allowed.
    """
    config = copy_of(config)
    budget.apply(config)
    if features is not None:
        model, part = config.model, features / _PAPER_FEATURES
        model.features = max(1, round(model.features * part))
        if model.amplification != 1:
            model.amplification *= part
    if blocks is not None:
        config.model.blocks = blocks
    if sets:
        config.eval.sets = tuple(sets)
    for setting in settings:
        assign(config, setting)
    return config


def assign(config: Config, setting: str) -> None:
    """Applies ``config.FIELD=VALUE``.

    Raises:
        UserError: There is no such field, or the value is not allowed.
    """
    name, equals, text = setting.partition("=")
    *folders, field = name.strip().removeprefix("config.").split(".")
    place: Any = config
    for folder in folders:
        place = place.get(folder) if isinstance(place, ConfigDict) else None
    known = place.get(field) if isinstance(place, ConfigDict) else None
    if known is None or isinstance(known, ConfigDict) or not equals:
        raise UserError(
            f"--set {setting} sets no field: write config.FIELD=VALUE, with a field of "
            f"binsr train --help."
        )
    path = ".".join([*folders, field])
    value: Any = text
    if isinstance(known, tuple):
        value = list_value(path, text)
    elif not isinstance(known, str):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = None
    value = field_value(path, known, value)
    if value is None:
        raise UserError(f"config.{path} cannot be {text!r}: it is {known!r}.")
    place[field] = value


def row_of(recipe: Recipe, config: Config) -> Row:
    """The row of a recipe, trained with the given config instead of the recipe's own."""
    name = "-".join(filter(None, [Path(recipe.file).stem, recipe.variant]))
    return Row(
        re.sub(r"[^\w=,.+-]", "_", name), recipe.spec, recipe.title, config, recipe.published
    )
