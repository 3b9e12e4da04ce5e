"""Configs as JSON and back."""

import json

import pytest
from ml_collections import ConfigDict

from binsr_jax.config import FIELDS, config_from_json, config_to_json, default, list_value
from binsr_jax.data.sources import SOURCES
from binsr_jax.errors import UserError
from binsr_jax.fields import check
from binsr_jax.models import MODELS
from binsr_jax.models.backbone import ACTIVATIONS
from binsr_jax.models.discriminators import DISCRIMINATORS
from binsr_jax.models.srvgg import SRVGG_ACTIVATIONS
from binsr_jax.nn.attention import ATTENTION
from binsr_jax.nn.binary import WEIGHT_SCALES
from binsr_jax.nn.units import UNITS
from binsr_jax.ops.binarize import SURROGATES
from binsr_jax.tasks import TASKS
from binsr_jax.training.adversary import GAN_LOSSES
from binsr_jax.training.losses import LOSSES
from binsr_jax.training.state import SCHEDULES


def test_tuples_come_back_from_json():
    config = default()
    config.data.sigma, config.data.quality = (15, 25.5), (5, 6)
    config.eval.levels, config.eval.sets = (15, 50), ("LIVE1", "Classic5")
    config.train.milestones, config.data.sources = (7, 8, 9), ("samples=2",)
    again = config_from_json(json.loads(json.dumps(config_to_json(config))))
    assert again.to_dict() == config.to_dict()
    assert [type(end) for end in again.data.sigma] == [float, float]
    assert isinstance(again.model.amplification, float)
    for empty in ((), config_from_json(config_to_json(default())).eval.levels):
        assert empty == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sigma", ["15", "25"]),
        ("sigma", [0, 10**400]),
        ("sigma", [True, False]),
        ("quality", [0.5, 50]),
        ("quality", 10),
        ("sources", [1]),
    ],
)
def test_elements_of_another_type_are_refused(field, value):
    with pytest.raises(UserError, match=rf"the field data.{field} = "):
        config_from_json({"data": {field: value}})


@pytest.mark.parametrize(
    ("field", "registry"),
    [
        ("task", TASKS),
        ("model.name", MODELS),
        ("model.unit", UNITS),
        ("model.residual_attention", ("none", *ATTENTION)),
        ("model.binary_attention", ("none", *ATTENTION)),
        ("model.surrogate", SURROGATES),
        ("model.weight_scale", WEIGHT_SCALES),
        ("model.head_activation", ACTIVATIONS),
        ("data.source", SOURCES),
        ("train.loss", LOSSES),
        ("model.activation", SRVGG_ACTIVATIONS),
        ("train.schedule", SCHEDULES),
        ("train.gan_loss", GAN_LOSSES),
        ("train.discriminator", DISCRIMINATORS),
    ],
)
def test_a_field_has_the_choices_that_the_package_has(field, registry):
    rule = FIELDS[field].rule
    assert rule is not None
    assert set(rule.choices) == set(registry)


def test_every_field_is_declared_with_its_meaning_and_a_default_that_passes():
    def names(config: ConfigDict, prefix: str = "") -> set[str]:
        found = set()
        for name, value in config.items():
            inner = isinstance(value, ConfigDict)
            found |= names(value, f"{prefix}{name}.") if inner else {prefix + name}
        return found

    config = default()
    assert isinstance(config, ConfigDict)
    assert names(config) == FIELDS.keys()
    assert all(declaration.meaning for declaration in FIELDS.values())
    check(FIELDS, config)


def test_a_broken_rule_names_the_field_the_value_and_the_choices():
    config = default()
    config.train.steps = 0
    with pytest.raises(UserError, match=r"config\.train\.steps is 0, but must be at least 1\."):
        check(FIELDS, config)
    config.train.steps, config.model.head = 1, "int4"
    with pytest.raises(UserError, match=r"model\.head is 'int4', but must be one of: float, bin"):
        check(FIELDS, config)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("eval.sets", "Set5,B100", ("Set5", "B100")),
        ("eval.sets", " Set5 , B100,", ("Set5", "B100")),
        ("eval.sets", "Set5", ("Set5",)),
        ("eval.sets", "('Set5', 'B100')", ("Set5", "B100")),
        ("eval.sets", "['Set5']", ("Set5",)),
        ("eval.sets", "", ()),
        ("eval.sets", "()", ()),
        ("eval.sets", "2020", ("2020",)),  # a set may be called so
        ("data.sources", "folder:a=3,samples=1", ("folder:a=3", "samples=1")),
        ("train.milestones", "2,3", (2, 3)),
        ("train.milestones", "7", (7,)),
        ("train.milestones", "2,x", None),
        ("train.milestones", "2.5", None),
        ("data.sigma", "0,75", (0.0, 75.0)),
        ("data.quality", "(5, 6)", (5, 6)),
        ("eval.levels", "[" * 9999, None),
    ],
)
def test_lists_are_written_with_commas(name, text, value):
    assert list_value(name, text) == value


def test_whole_numbers_beyond_floats_are_refused():
    with pytest.raises(UserError, match=r"train\.steps = 9007199254740992"):
        config_from_json({"train": {"steps": 2**53}})


def test_a_config_of_an_older_version_gets_defaults_and_of_a_newer_one_is_refused():
    values = config_to_json(default())
    del values["train"]["ema"]
    assert config_from_json(values).train.ema == 0.0
    values["model"]["holograms"] = 3
    with pytest.raises(UserError, match=r"model\.holograms = 3"):
        config_from_json(values)
    values = config_to_json(default())
    values["train"]["steps"] = "many"
    with pytest.raises(UserError, match=r"train\.steps = 'many'"):
        config_from_json(values)
