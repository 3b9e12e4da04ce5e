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
    with pytest.raises(
        UserError, match=r"config.task is 'srr', .*: sr, denoise, denoise_grey, jpeg"
    ):
        task_of(config)


def _config(task, **fields):
    config = config_module.default()
    config.task, config.scale = task, 1
    config.update_from_flattened_dict(fields)
    return config


def test_denoising_is_scored_on_rgb_at_three_levels():
    task = task_of(_config("denoise"))
    assert (task.scale, task.channels, task.degradation) == (1, 3, "noise")
    assert task.protocol == "RGB, border 0"
    assert task.levels == (15, 25, 50)
    assert task.scores == ("psnr", "ssim")
    assert {"CBSD68", "Kodak24", "McMaster", "Urban100"} <= set(task.sets)


def test_grey_denoising_is_scored_on_grey_at_three_levels():
    task = task_of(_config("denoise_grey"))
    assert (task.scale, task.channels, task.degradation, task.grey) == (1, 1, "noise", True)
    assert task.protocol == "grey, border 0"
    assert task.levels == (15, 25, 50)
    assert set(task.sets) == {"BSD68", "Set12"}


def test_jpeg_is_scored_on_luma_at_four_levels():
    task = task_of(_config("jpeg"))
    assert (task.scale, task.channels, task.degradation) == (1, 1, "jpeg")
    assert task.protocol == "Y, border 0"
    assert task.levels == (10, 20, 30, 40)
    assert task.scores == ("psnr", "ssim", "psnrb")
    assert set(task.sets) == {"LIVE1", "Classic5"}


@pytest.mark.parametrize(("name", "subsampling"), [("jpeg_colour", "4:2:0"), ("jpeg_444", "4:4:4")])
def test_jpeg_of_colour_is_scored_on_rgb_with_one_subsampling(name, subsampling):
    task = task_of(_config(name))
    assert (task.scale, task.channels, task.luma, task.border) == (1, 3, False, 0)
    assert task.name.endswith(subsampling)
    assert task.levels == (10, 20, 30, 40)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_photographs_are_scored_as_super_resolution_is(scale):
    config = _config("photo", scale=scale)
    task = task_of(config)
    assert (task.name, task.protocol) == (f"Photo x{scale}", f"Y, border {scale}")
    assert task.levels == (40, 60, 80)


def test_levels_can_be_chosen_and_are_part_of_the_names_of_scores():
    task = task_of(_config("denoise", **{"eval.levels": (30, 5)}))
    assert task.levels == (30, 5)
    assert task.scored_sets("Kodak24@500") == ("Kodak24@500-30", "Kodak24@500-5")
    assert task_of(config_module.default()).scored_sets("Set5") == ("Set5",)


@pytest.mark.parametrize(
    ("task", "fields", "sentence"),
    [
        ("denoise", {"scale": 2}, r"config.scale is 2, .*denoise does not enlarge: set it to 1"),
        ("jpeg", {"scale": 4}, r"config.scale is 4, .*jpeg"),
        ("real", {"scale": 1}, r"config.scale is 1, .*2, 3 or 4"),
        ("real", {"scale": 4, "eval.levels": (10,)}, r"the task real has none"),
        ("photo", {"scale": 1}, r"config.scale is 1, .*2, 3 or 4"),
        ("denoise", {"eval.levels": (0,)}, r"eval.levels is \(0,\), .*1\.\.255"),
        ("jpeg", {"eval.levels": (10, 101)}, r"eval.levels .*1\.\.100"),
        ("jpeg", {"eval.levels": (10.5,)}, r"whole numbers"),
        ("sr", {"scale": 2, "eval.levels": (10,)}, r"super-resolution has no levels"),
    ],
)
def test_tasks_that_cannot_be(task, fields, sentence):
    with pytest.raises(UserError, match=sentence):
        task_of(_config(task, **fields))
