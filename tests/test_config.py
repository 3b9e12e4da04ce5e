"""Configs as JSON and back."""

import pytest

from binsr_jax.config import config_from_json, config_to_json, default, list_value
from binsr_jax.errors import UserError


def test_tuples_come_back_from_json():
    config = default()
    config.data.sigma, config.data.quality = (15, 25.5), (5, 6)
    config.eval.levels, config.eval.sets = (15, 50), ("LIVE1", "Classic5")
    config.train.milestones, config.data.sources = (7, 8, 9), ("samples=2",)
    again = config_from_json(config_to_json(config))
    assert again.to_dict() == config.to_dict()
    assert [type(end) for end in again.data.sigma] == [float, float]
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
