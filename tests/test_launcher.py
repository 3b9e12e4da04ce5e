"""How the programs' flags are read."""

import pytest

from binsr_jax.config import default, flat_fields
from binsr_jax.errors import UserError
from binsr_jax.launcher import _EXAMPLES, _with_lists, _wrong_value


def test_lists_reach_ml_collections_as_tuples():
    argv = ["train.py", "--config.eval.sets=Set5,B100", "--config.train.milestones", "2,3", "-v"]
    assert _with_lists(argv) == [
        "train.py",
        "--config.eval.sets=('Set5', 'B100')",
        "--config.train.milestones=(2, 3)",
        "-v",
    ]
    assert _with_lists(["x", "--config.data.dir=a,b", "--sets=a,b"]) == [
        "x",
        "--config.data.dir=a,b",
        "--sets=a,b",
    ]


def test_every_list_has_an_example_that_it_takes():
    lists = {n: v for n, v in flat_fields(default(), "config.").items() if isinstance(v, tuple)}
    assert lists.keys() >= _EXAMPLES.keys()
    for name, known in lists.items():
        example = _wrong_value(name, "x", known).partition("such as ")[2].rstrip(".")
        assert "," in example
        (written,) = _with_lists([f"--{name}={example}"])
        assert written.count(",") == example.count(",")


def test_a_wrong_element_is_one_sentence():
    with pytest.raises(UserError, match=r"milestones cannot be '2,x': it is a list, such as 2000"):
        _with_lists(["--config.train.milestones=2,x"])
