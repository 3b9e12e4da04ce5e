"""Settings that cannot work are refused before anything starts."""

import pytest

from binsr_jax.errors import UserError
from binsr_jax.training.settings import check_settings


def test_the_defaults_pass(tiny):
    check_settings(tiny())


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"train.steps": 0}, "config.train.steps is 0, but must be at least 1."),
        ({"train.batch": -4}, "config.train.batch is -4, but must be at least 1."),
        ({"train.log_every": 0}, "config.train.log_every is 0, but must be at least 1."),
        ({"eval.every": 0}, "config.eval.every is 0, but must be at least 1."),
        ({"train.learning_rate": 0.0}, "config.train.learning_rate is 0.0, but must be above 0."),
        ({"train.learning_rate": float("nan")}, "config.train.learning_rate is nan"),
        ({"train.ema": 1.0}, "config.train.ema is 1.0, but must be at least 0 and below 1."),
        (
            {"train.loss": "l3"},
            "config.train.loss is 'l3', but must be one of: l1, l2, charbonnier, psnr.",
        ),
        ({"train.clip_norm": -1.0}, "config.train.clip_norm is -1.0, but must be at least 0."),
        ({"train.ssim_weight": -0.1}, "config.train.ssim_weight is -0.1, but must be at least 0."),
        ({"train.luma_weight": -1.0}, "config.train.luma_weight is -1.0, but must be at least 0."),
        (
            {"task": "jpeg", "scale": 1, "train.luma_weight": 0.5},
            "config.train.luma_weight is 0.5, but the images of the task jpeg have no colour",
        ),
        ({"train.loss_epsilon": 0.0}, "config.train.loss_epsilon is 0.0, but must be above 0."),
        ({"train.schedule": "linear"}, "must be one of: constant, multistep, cosine."),
        ({"parallel": "shard"}, "must be one of: mesh, pmap."),
        ({"train.decay": float("inf")}, "config.train.decay is inf, but must be a finite number."),
        ({"train.warmup": -1}, "config.train.warmup is -1, but must be at least 0."),
        (
            {"train.schedule": "multistep", "train.warmup": 9, "train.milestones": (2, 3)},
            "must be growing steps after the warm-up, which ends at step 2.",
        ),
        (
            {"train.schedule": "multistep", "train.milestones": (3, 3)},
            "config.train.milestones is (3, 3), but must be growing steps",
        ),
        (
            {"train.schedule": "multistep", "train.milestones": ("late",)},
            "config.train.milestones is ('late',), but must be growing steps",
        ),
    ],
)
def test_a_setting_that_cannot_work_is_named(tiny, fields, sentence):
    with pytest.raises(UserError) as refused:
        check_settings(tiny(**fields))
    assert sentence in str(refused.value)
