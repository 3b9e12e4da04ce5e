"""A checkpoint is not continued with another network."""

import pytest

from binsr_jax.errors import UserError
from binsr_jax.training.same_network import check_same_network, differences


def test_the_fields_of_another_network_are_named(tiny, tmp_path):
    stored = tiny(**{"train.steps": 5})
    asked = tiny(**{"model.features": 16, "scale": 3, "train.ema": 0.5, "train.steps": 9})
    assert differences(stored, asked)["train.steps"] == (5, 9)
    with pytest.raises(UserError) as refused:
        check_same_network(stored, asked, tmp_path)
    text = str(refused.value)
    assert "model.features 8 in the checkpoint, 16 requested" in text
    assert "scale 2 in the checkpoint, 3 requested" in text
    assert "train.ema 0.0 in the checkpoint, 0.5 requested" in text
    assert "train.steps" not in text


def test_another_optimiser_is_named(tiny, tmp_path):
    asked = tiny(**{"train.optimizer": "muon", "train.muon_rate": 0.4})
    with pytest.raises(UserError, match=r"\(train.optimizer adam in the checkpoint, muon request"):
        check_same_network(tiny(), asked, tmp_path)


def test_harmless_differences_pass(tiny, tmp_path):
    asked = tiny(
        **{
            "train.steps": 99,
            "train.learning_rate": 1.0,
            "eval.sets": ("Set5", "B100"),
            "data.workers": 2,
        }
    )
    check_same_network(tiny(), asked, tmp_path)
