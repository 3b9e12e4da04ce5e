"""What studies work out without training: smaller recipes, agreement, times and figures."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from binsr_jax.config import default
from binsr_jax.errors import UserError
from binsr_jax.studies import figures, runs, table
from binsr_jax.studies.rows import Budget, reduced


def test_a_recipe_is_cut_down_in_proportion():
    config = default()
    config.model.features, config.model.amplification = 12, 26.0
    budget = Budget(steps=300, batch=4, learning_rate=0.5)
    small = reduced(config, budget, features=32, blocks=3, sets=["Set5"])
    assert (small.model.features, small.model.amplification) == (6, 13.0)
    assert small.model.blocks == 3
    assert tuple(small.eval.sets) == ("Set5",)
    train = small.train
    assert (train.steps, train.warmup, train.learning_rate) == (300, 30, 0.5)
    assert (train.schedule, train.final_rate) == ("cosine", 0.0)
    assert config.model.features == 12
    config.model.amplification = 1.0  # none, however many channels there are
    assert reduced(config, budget, features=32).model.amplification == 1.0


def test_settings_come_last_and_have_their_fields_type():
    settings = [
        "config.train.learning_rate=1",
        "model.unit=bbcu",
        "config.data.flip=False",
        "config.train.milestones=[3, 4]",
        "config.train.steps=7",
    ]
    config = reduced(default(), Budget(steps=300), settings=settings)
    assert type(config.train.learning_rate) is float
    assert (config.model.unit, config.data.flip) == ("bbcu", False)
    assert (config.train.milestones, config.train.steps) == ((3, 4), 7)


@pytest.mark.parametrize(
    "setting",
    [
        "config.train.step=3",
        "config.train=3",
        "config.seed",
        "config.seed=x",
        "a.b=1",
        "seed=1.5",
        "config.eval.sets=(3,)",
        "config.train.milestones=('a',)",
    ],
)
def test_a_wrong_setting_is_one_sentence(setting):
    with pytest.raises(UserError, match=setting.split("=")[0]):
        reduced(default(), Budget(steps=300), settings=[setting])


@pytest.mark.parametrize("seed", range(4))
def test_rank_correlation_is_scipys(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 6, 15), rng.integers(0, 6, 15)  # with ties
    assert table.spearman(x.tolist(), y.tolist()) == pytest.approx(spearmanr(x, y)[0])
    assert table.spearman([2.0] * 15, y.tolist()) is None


def test_agreement_is_of_rows_that_have_both():
    def row(title, here, paper):
        published = {"scores": {"Set5": paper} if paper else {}}
        scores = {"Set5/psnr": here} if here else {}
        return {"title": title, "recipe": title, "scores": scores, "published": published}

    rows = [
        {"title": "Input", "scores": {"Set5/psnr": 33.7}},
        row("a", 30.0, 38.0),
        row("b", 31.0, 37.0),
        row("c", 29.0, 36.0),
        row("d", 28.0, 36.0),
        row("e", 40.0, None),
        row("f", None, 39.0),
    ]
    assert table.agreement(rows[:3]) == []
    (found,) = table.agreement(rows)
    # Of six pairs c and d are equal in the paper; of the other five a and b are the other way.
    assert (found["pairs"], found["pairs_in_order"], found["rows"]) == (5, 4, 4)
    assert found["order"] == ["b", "a", "c", "d"]
    assert found["published_order"] == ["a", "b", "c", "d"]
    text = table.markdown("About.", rows)
    assert text.startswith("About.\n\n| Network | Set5 | Rank on Set5 |")
    assert "| c | 29.00 (36.00) | 3 (3.5) |" in text
    assert "| e | 40.00 |  |" in text


def test_time_of_a_run_counts_all_logged_steps():
    rows = [
        {"step": 2, "loss": 1.0, "steps_per_second": None},  # right after a start
        {"step": 4, "loss": 1.0, "steps_per_second": 2.0},
        {"step": 4, "scores": {}},
        {"step": 10, "loss": 1.0, "steps_per_second": 1.0},
    ]
    assert runs._seconds(rows) == pytest.approx((1 + 6) * 10 / 8)
    assert runs._seconds(rows[:1]) is None


def test_a_figure_is_the_same_from_the_same_numbers(tmp_path):
    for suffix in figures.FIGURE_SUFFIXES:
        written = []
        for name in ("a", "b"):
            shown = Figure()
            shown.subplots().plot([1, 2], [3, 4], label="line")
            (tmp_path / name).mkdir(exist_ok=True)
            figures.save(shown, tmp_path / name / f"one{suffix}")
            written.append((tmp_path / name / f"one{suffix}").read_bytes())
        assert written[0] == written[1]
