import dataclasses

import pytest

from binsr_jax import config as config_module
from binsr_jax.errors import UserError
from binsr_jax.tasks import task_of


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_super_resolution_is_scored_on_y_without_a_border_of_scale_pixels(scale):
    config = config_module.default()
    config.scale = scale
    task = task_of(config)
    assert (task.name, task.scale, task.channels) == (f"SR x{scale}", scale, 3)
    assert (task.border, task.luma) == (scale, True)
    assert task.protocol == f"Y, border {scale}"
    assert "Set5" in task.sets


def test_protocol_of_an_rgb_task():
    task = dataclasses.replace(task_of(config_module.default()), luma=False, border=0)
    assert task.protocol == "RGB, border 0"


def test_task_is_frozen():
    task = task_of(config_module.default())
    for field in dataclasses.fields(task):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(task, field.name, None)


@pytest.mark.parametrize("scale", [-2, 0, 1, 5, 8])
def test_scale_that_does_not_exist_names_the_right_ones(scale):
    config = config_module.default()
    config.scale = scale
    with pytest.raises(UserError, match=rf"config.scale is {scale}, .*2, 3 or 4"):
        task_of(config)


def test_unknown_task_names_the_right_ones():
    config = config_module.default()
    config.task = "srr"
    with pytest.raises(UserError, match=r"config.task is 'srr', .*: sr"):
        task_of(config)
