import itertools
import logging
import multiprocessing
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from binsr_jax import config as config_module
from binsr_jax.data.images import read_image
from binsr_jax.data.pipeline import training_batches
from binsr_jax.errors import UserError


@pytest.fixture
def config(tmp_path):
    config = config_module.default()
    config.data.cache_dir = str(tmp_path / "cache")
    config.data.source = "folder"
    config.data.dir = str(tmp_path / "images")
    config.data.patch = 8
    config.train.batch = 4
    return config


def write_pairs(tmp_path, scale, sizes, seed=0):
    """Official pairs whose HR pixels repeat their LR pixel, so that patches show their place."""
    rng = np.random.default_rng(seed)
    images = []
    for i, (height, width) in enumerate(sizes):
        lq = rng.integers(0, 256, (height, width, 3), np.uint8)
        lq[..., 0] = i
        hq = lq.repeat(scale, 0).repeat(scale, 1)
        for folder, image, name in [
            ("HR", hq, f"{i:04}.png"),
            (f"LR_bicubic/X{scale}", lq, f"{i:04}x{scale}.png"),
        ]:
            (tmp_path / "images" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / "images" / folder / name)
        images.append(lq)
    return images


def take(config, count, **where):
    with training_batches(config, **where) as batches:
        return list(itertools.islice(batches, count))


def assert_equal(actual, expected):
    assert len(actual) == len(expected)
    for left, right in zip(actual, expected, strict=True):
        for key in ("lq", "hq"):
            np.testing.assert_array_equal(left[key], right[key])


def which(batch):
    """The number of the image that each row of a batch comes from."""
    return np.rint(batch["lq"][:, 0, 0, 0] * 255).astype(int).tolist()


def forms(image, flip=True, rotate=True):
    """The distinct forms that an image may take, written without rot90."""
    starts = [image, image[:, ::-1]] if flip else [image]
    if not rotate:
        return starts
    half_turns = [form for start in starts for form in (start, start[::-1, ::-1])]
    return half_turns + [form.transpose(1, 0, 2)[::-1] for form in half_turns]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_batches_hold_aligned_pairs_in_0_to_1(config, tmp_path, scale):
    write_pairs(tmp_path, scale, [(9, 7), (6, 12), (5, 5)])
    config.scale, config.data.patch = scale, 5 * scale
    for batch in take(config, 6):
        assert set(batch) == {"lq", "hq"}
        assert batch["lq"].shape == (4, 5, 5, 3)
        assert batch["hq"].shape == (4, 5 * scale, 5 * scale, 3)
        for images in batch.values():
            assert images.dtype == np.float32
            assert images.min() >= 0
            assert images.max() <= 1
        np.testing.assert_array_equal(batch["hq"], batch["lq"].repeat(scale, 1).repeat(scale, 2))


def test_bytes_become_fractions_of_255(config, tmp_path):
    (image,) = write_pairs(tmp_path, 2, [(4, 4)])
    config.data.flip = config.data.rotate = False
    (batch,) = take(config, 1)
    np.testing.assert_array_equal(batch["lq"][0], image.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize(
    ("flip", "rotate", "count"),
    [(True, True, 8), (True, False, 2), (False, True, 4), (False, False, 1)],
)
def test_every_form_appears(config, tmp_path, flip, rotate, count):
    (image,) = write_pairs(tmp_path, 2, [(4, 4)])
    config.data.flip, config.data.rotate = flip, rotate
    expected = {form.tobytes() for form in forms(image, flip, rotate)}
    assert len(expected) == count
    rows = np.concatenate([batch["lq"] for batch in take(config, 40)])
    found = [np.rint(row * 255).astype(np.uint8).tobytes() for row in rows]
    assert set(found) == expected
    assert min(found.count(form) for form in expected) >= len(found) / count / 3


def test_every_corner_appears(config, tmp_path):
    (image,) = write_pairs(tmp_path, 2, [(5, 6)])
    config.data.flip = config.data.rotate = False
    corners = {image[i : i + 4, j : j + 4].tobytes() for i in range(2) for j in range(3)}
    rows = np.concatenate([batch["lq"] for batch in take(config, 20)])
    assert {np.rint(row * 255).astype(np.uint8).tobytes() for row in rows} == corners


def test_every_epoch_shows_every_image_once_in_another_order(config, tmp_path):
    write_pairs(tmp_path, 2, [(6, 6)] * 12)
    images = [image for batch in take(config, 12) for image in which(batch)]
    epochs = [tuple(images[start : start + 12]) for start in range(0, 48, 12)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len(set(epochs)) == 4


def test_seed_decides(config, tmp_path):
    write_pairs(tmp_path, 2, [(6, 6)] * 3)
    first = take(config, 3)
    assert_equal(take(config, 3), first)
    config.seed = 1
    assert not np.array_equal(take(config, 3)[0]["lq"], first[0]["lq"])


@pytest.mark.parametrize("start", [1, 5, 7])
def test_start_at_any_step(config, tmp_path, start):
    write_pairs(tmp_path, 2, [(6, 6), (9, 8), (5, 5)])
    assert_equal(take(config, 9 - start, start_step=start), take(config, 9)[start:])


def test_start_far_ahead(config, tmp_path):
    write_pairs(tmp_path, 2, [(6, 6), (9, 8), (5, 5)])
    assert len(take(config, 1, start_step=10**9)) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(config, tmp_path, workers):
    write_pairs(tmp_path, 2, [(6, 6), (9, 8), (5, 5)])
    expected = take(config, 8)
    config.data.workers = workers
    assert_equal(take(config, 5, start_step=3), expected[3:])
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_global_batch_in_order(config, tmp_path, processes):
    write_pairs(tmp_path, 2, [(6, 6), (9, 8), (5, 5)])
    shares = [
        take(config, 4, start_step=2, process_index=p, process_count=processes)
        for p in range(processes)
    ]
    joined = [
        {key: np.concatenate([part[key] for part in parts]) for key in ("lq", "hq")}
        for parts in zip(*shares, strict=True)
    ]
    assert_equal(joined, take(config, 6)[2:])


def test_workers_stop_when_the_program_fails(tmp_path):
    """A script that ends in an exception within the context ends at once and leaves no process."""
    script = tmp_path / "script.py"
    script.write_text(f"""
from binsr_jax import config as config_module
from binsr_jax.data.pipeline import training_batches

def main():
    config = config_module.default()
    config.data.cache_dir = {str(tmp_path / "cache")!r}
    config.data.workers = 1
    with training_batches(config) as batches:
        print(next(batches)["hq"].shape)
        raise KeyError("stop")

if __name__ == "__main__":
    main()
""")
    result = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 1
    assert "(16, 64, 64, 3)" in result.stdout
    assert "KeyError: 'stop'" in result.stderr
    assert "leaked" not in result.stderr


def test_workers_end_when_the_program_is_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"""
import multiprocessing, os, signal
from binsr_jax import config as config_module
from binsr_jax.data.pipeline import training_batches

def main():
    config = config_module.default()
    config.data.cache_dir = {str(tmp_path / "cache")!r}
    config.data.workers = 1
    with training_batches(config) as batches:
        next(batches)
        print(len(multiprocessing.active_children()), "worker", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    main()
""")
    # The worker holds the script's output open: run() returns only when it has ended, too.
    result = subprocess.run(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, timeout=60, check=False
    )
    assert result.returncode == -signal.SIGKILL
    assert result.stdout == "1 worker\n"


def test_small_images_are_skipped_with_one_line(config, tmp_path, caplog):
    write_pairs(tmp_path, 2, [(3, 9), (6, 6), (9, 3), (4, 4)])
    with caplog.at_level(logging.WARNING):
        batches = take(config, 6)
    assert {image for batch in batches for image in which(batch)} == {1, 3}
    assert [record.message for record in caplog.records] == [
        "Skipping 2 of 4 images with a side under 8 pixels: 0000.png, 0002.png."
    ]


def test_samples_need_no_settings(tmp_path):
    config = config_module.default()
    config.data.cache_dir = str(tmp_path)
    (batch,) = take(config, 1)
    assert batch["lq"].shape == (16, 32, 32, 3)
    assert batch["hq"].std() > 0.1


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("data.patch", 9, r"data\.patch is 9, .* multiple of the scale, 2"),
        ("data.patch", 0, r"data\.patch is 0, .* multiple of the scale, 2"),
        ("data.patch", 14, r"data\.patch is 14, .* of 2 training images .* side of 12 pixels"),
        ("train.batch", 3, r"train\.batch is 3, .* multiple of the number of processes, 2"),
        ("train.batch", 0, r"train\.batch is 0, .* multiple"),
        ("data.workers", -1, r"data\.workers is -1, but must be at least 0"),
        ("seed", -1, r"seed is -1, but must lie in 0\.\.4294967295"),
    ],
)
def test_settings_that_cannot_be(config, tmp_path, setting, value, message):
    write_pairs(tmp_path, 2, [(6, 9), (5, 5)])
    config.update_from_flattened_dict({setting: value})
    with pytest.raises(UserError, match=message):
        take(config, 1, process_index=1, process_count=2)


@pytest.mark.parametrize(
    "where",
    [
        {"start_step": -1},
        {"process_index": 1},
        {"process_index": -1},
        {"process_index": 2, "process_count": 2},
    ],
)
def test_steps_and_processes_that_do_not_exist(config, where):
    with pytest.raises(ValueError, match="no step"):
        take(config, 1, **where)


# Tasks that degrade patches


@pytest.fixture
def restoration(config, tmp_path):
    """Settings of such a task, and a folder of three images for it."""

    def make(task, **fields):
        config.task, config.scale, config.data.patch = task, 1, 16
        config.update_from_flattened_dict(fields)
        rng = np.random.default_rng(0)
        (tmp_path / "images").mkdir(exist_ok=True)
        for i, (height, width) in enumerate([(24, 31), (40, 24), (25, 25)]):
            y, x = np.mgrid[:height, :width]
            smooth = [128 + 90 * np.sin(y / 6 + i) * np.cos(x / 4 + c) for c in range(3)]
            smooth = np.stack(smooth, -1)
            image = np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / "images" / f"{i}.png")
        return config

    return make


def test_input_of_photographs_is_a_function_of_seed_and_step(restoration, tmp_path):
    """They are degraded a patch at a time, from whole images, though the task enlarges."""
    config = restoration("photo", scale=2, **{"data.quality": (40, 95), "data.patch": 16})
    for i in range(3):
        image = np.random.default_rng(i).integers(0, 256, (51, 49 + i, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / "images" / f"{i}.png")
    expected = take(config, 5)
    for batch in expected:
        assert batch["lq"].shape == (4, 8, 8, 3)
        assert batch["hq"].shape == (4, 16, 16, 3)
    assert_equal(take(config, 2, start_step=3), expected[3:])
    assert not np.array_equal(expected[0]["lq"], expected[1]["lq"])


@pytest.mark.parametrize(("task", "channels"), [("denoise", 3), ("jpeg", 1)])
def test_input_of_restoration_is_a_function_of_seed_and_step(restoration, task, channels):
    config = restoration(task)
    expected = take(config, 7)
    for batch in expected:
        for images in batch.values():
            assert images.shape == (4, 16, 16, channels)
            assert images.dtype == np.float32
        assert not np.array_equal(batch["lq"], batch["hq"])
    assert_equal(take(config, 4, start_step=3), expected[3:])
    shares = [take(config, 2, start_step=1, process_index=p, process_count=2) for p in (0, 1)]
    for step in range(2):
        for key in ("lq", "hq"):
            joined = np.concatenate([share[step][key] for share in shares])
            np.testing.assert_array_equal(joined, expected[1 + step][key])
    config.data.workers = 1
    assert_equal(take(config, 3, start_step=2), expected[2:5])
    config.data.workers, config.seed = 0, 1
    assert not np.array_equal(take(config, 1)[0]["lq"], expected[0]["lq"])


def test_noise_of_the_chosen_sigma(restoration):
    config = restoration("denoise", **{"data.sigma": (60, 60)})
    batches = take(config, 20)
    noise = np.concatenate([batch["lq"] - batch["hq"] for batch in batches])
    assert noise.std() == pytest.approx(60 / 255, rel=0.02)
    assert max(batch["lq"].max() for batch in batches) > 1
    assert min(batch["lq"].min() for batch in batches) < 0
    # No two patches have the same noise.
    assert len({patch.tobytes() for patch in noise}) == len(noise)


@pytest.mark.parametrize("task", ["denoise", "jpeg"])
def test_flips_and_rotations_come_before_the_degradation(restoration, task, tmp_path):
    config = restoration(task, **{"data.sigma": (0, 0), "data.quality": (100, 100)})
    channels = 1 if task == "jpeg" else 3
    forms_of = {
        form[i : i + 16, j : j + 16].tobytes()
        for number in range(3)
        for form in forms(read_image(tmp_path / "images" / f"{number}.png", channels))
        for i in range(form.shape[0] - 15)
        for j in range(form.shape[1] - 15)
    }
    for batch in take(config, 10):
        for low, high in zip(batch["lq"], batch["hq"], strict=True):
            assert np.rint(high * 255).astype(np.uint8).tobytes() in forms_of
            assert np.abs(low - high).max() < 3 / 255


def test_jpeg_blocks_lie_upright_half_of_the_time(restoration):
    """Steps over the edges of blocks are the largest ones where the grid is at the corner."""
    config = restoration("jpeg", **{"data.quality": (1, 1), "data.rotate": True})
    lq = np.concatenate([batch["lq"][..., 0] for batch in take(config, 50)])
    steps = np.abs(np.diff(lq, axis=2)).mean(axis=(0, 1))
    assert steps[7] > 2 * np.delete(steps, 7).max()


def test_patch_and_margin_must_fit(restoration):
    config = restoration("jpeg", **{"data.patch": 17})
    shapes = [batch["hq"].shape for batch in take(config, 2)]  # one image has 25 pixels
    assert shapes == [(4, 17, 17, 1)] * 2
    config.data.patch = 18
    with pytest.raises(UserError, match=r"patch is 18 \(and 8 more for its margin\), .* 25 pixels"):
        take(config, 1)


@pytest.mark.parametrize(
    ("task", "setting", "value"),
    [("denoise", "data.sigma", (9, 1)), ("jpeg", "data.quality", (0, 101))],
)
def test_ranges_are_checked_before_anything_else_happens(restoration, task, setting, value):
    config = restoration(task, **{setting: value})
    with pytest.raises(UserError, match=setting):
        take(config, 1)


@pytest.mark.parametrize(("task", "channels"), [("denoise", 3), ("jpeg", 1)])
def test_samples_serve_every_task(tmp_path, task, channels):
    config = config_module.default()
    config.task, config.scale, config.data.cache_dir = task, 1, str(tmp_path)
    config.train.batch = 2
    (batch,) = take(config, 1)
    assert batch["lq"].shape == batch["hq"].shape == (2, 64, 64, channels)
