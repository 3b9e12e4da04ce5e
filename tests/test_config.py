"""Configs as JSON and back."""

import pytest

from binsr_jax.config import config_from_json, config_to_json, default
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
