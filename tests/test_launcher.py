"""How the programs' flags are read."""

import pytest

from binsr_jax.config import default
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
    lists = {
        f"config.{section}.{name}"
        for section in ("model", "data", "train", "eval")
        for name, value in default()[section].items()
        if isinstance(value, tuple)
    }
    assert lists == _EXAMPLES.keys()
    for name, example in _EXAMPLES.items():
        (written,) = _with_lists([f"--{name}={example}"])
        assert "()" not in written
        assert example in _wrong_value(name, "x", ())


def test_a_wrong_element_is_one_sentence():
    with pytest.raises(UserError, match=r"milestones cannot be '2,x': it is a list, such as 2000"):
        _with_lists(["--config.train.milestones=2,x"])
