"""The rows of a study: recipes cut down to one small budget, the same for all of them."""

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

# What the papers' networks have; a row of fewer (SRResNet-Lite: 12) stays as much narrower.
_PAPER_FEATURES = 64


@dataclass(frozen=True)
class Row:
    """One network of a study.

    Attributes:
        name: of its work dir, below the study's.
        recipe: what ``--config`` takes.
        title: what tables and plots call it.
        config: all settings of its training.
        published: what a paper prints of it.
    """

    name: str
    recipe: str
    title: str
    config: Config
    published: Published


@dataclass(frozen=True)
class Budget:
    """How long and at which rate every row of a study is trained.

    The milestones of a paper mean nothing in a few hundred steps. Here the rate of Adam climbs for
    a tenth of the steps, then falls to zero along a cosine.

    Attributes:
        steps: updates.
        batch: patches a step.
        learning_rate: the highest rate.
    """

    steps: int
    batch: int = 8
    learning_rate: float = 1e-3

    def apply(self, config: Config) -> None:
        """Sets all of ``config.train`` that is schedule, and validation at the end alone."""
        config.train.update(
            {
                "steps": self.steps,
                "batch": self.batch,
                "loss": "l1",
                "ssim_weight": 0.0,
                "init_from": "",
                "teacher": "",
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
        config.eval.every = self.steps


def choose(patterns: Iterable[str]) -> list[Recipe]:
    """The recipes that ``FILE``, ``FILE:VARIANT`` and ``FILE:PATTERN`` name, each once.

    Args:
        patterns: a pattern is a variant with ``*``, ``?`` or ``[...]``, and stands for all rows of
            its file that it fits.

    Raises:
        UserError: there is no such file or variant, or no row fits a pattern.
    """
    recipes: dict[tuple[str, str], Recipe] = {}
    for pattern in patterns:
        file, _, variant = pattern.partition(":")
        if re.search(r"[*?[]", variant):
            rows = list_rows(file)
            fitting = [row for row in rows if fnmatch.fnmatchcase(row.variant, variant)]
            if not fitting:
                raise UserError(
                    f"No row of {file} fits {variant!r}: it has "
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
    """A recipe's config, cut down to a budget.

    Args:
        config: stays as it is.
        budget: how it is trained.
        features: channels of a network that has 64 in its recipe; others are cut down as much, and
            the amplification with them (k = 130 n / 64), but for 1, which is none.
        blocks: residual blocks.
        sets: benchmark sets that it is scored on; those of the recipe by default.
        settings: ``config.FIELD=VALUE``, which come last.

    Raises:
        UserError: there is no such field, or it cannot have such a value.
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
    """Carries out ``config.FIELD=VALUE``.

    Raises:
        UserError: there is no such field, or it cannot have such a value.
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
    """The row of a recipe, with the config that is trained in place of the recipe's own."""
    name = "-".join(filter(None, [Path(recipe.file).stem, recipe.variant]))
    return Row(
        re.sub(r"[^\w=,.+-]", "_", name), recipe.spec, recipe.title, config, recipe.published
    )
