"""``binsr video``: its flags, names of outputs, and a packed network."""

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from PIL import Image
from worker import HEIGHT, WIDTH

from binsr_jax import models
from binsr_jax.commands import main, video
from binsr_jax.config import default
from binsr_jax.deploy.model_file import PackedModel, save_model
from binsr_jax.deploy.pack import pack_params
from binsr_jax.deploy.upscaler import load
from binsr_jax.video.colour import Coding, from_rgb, to_rgb
from binsr_jax.video.planes import planes_of


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A file of a tiny network with random weights."""
    config = default()
    config.model.update({"features": 5, "blocks": 1, "amplification": 10.0})
    config.lock()
    rng = np.random.default_rng(0)
    leaves: dict[tuple[str, ...], Any] = flatten_dict(models.shapes(config))
    variables: Any = unflatten_dict(
        {
            path: jnp.asarray(0.1 * rng.normal(size=leaf.shape), jnp.float32)
            for path, leaf in leaves.items()
        }
    )
    file = tmp_path_factory.mktemp("model") / "tiny.binsr"
    save_model(file, PackedModel(config, pack_params(config, variables), {}, "float32"))
    return file


@pytest.fixture
def run(monkeypatch, model, capsys):
    """Runs the command, and returns its exit status and what it said."""
    monkeypatch.setattr(video, "keep_compiled_programs", lambda: None)

    def run(*args: object) -> tuple[int, str]:
        status = main(["video", *map(str, args)])
        captured = capsys.readouterr()
        return status, captured.out + captured.err

    return run


def test_frames_are_those_of_the_network(run, model, make_video, look, tmp_path):
    source = make_video(tmp_path / "in.mkv", range(3), options={"qp": "0"})
    status, said = run(source, "-m", model, "--crf", 0, "--preset", "ultrafast")
    assert (status, said) == (0, "1 enlarged.\n")
    coding, network = Coding(6, False, 8), load(model)
    for small, large in zip(look(source).frames, look(tmp_path / "in_x2.mkv").frames, strict=True):
        assert (large.width, large.height) == (2 * WIDTH, 2 * HEIGHT)
        expected = from_rgb(network.upscale(to_rgb(planes_of(small), coding)), coding)
        for a, b in zip(planes_of(large), expected, strict=True):
            np.testing.assert_array_equal(a, b)
    status, said = run(source, "-m", model)
    assert status == 0
    assert said == "0 enlarged, 1 skipped: the output exists (--overwrite replaces it).\n"


def test_several_files_a_part_and_a_folder(run, model, make_video, look, tmp_path):
    make_video(tmp_path / "a.avi", codec="mpeg4")
    make_video(tmp_path / "b.mp4")
    (tmp_path / "c.mp4").write_text("no video")
    first, *rest = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "d.gif", save_all=True, append_images=rest, duration=100)
    (tmp_path / "out").mkdir()
    files = [tmp_path / name for name in ("a.avi", "b.mp4", "c.mp4")]
    status, said = run(
        *files, "-o", tmp_path / "out", "-m", model, "--from", "0:00.2", "--to", "0.36",
        "--codec", "av1",
    )  # fmt: skip
    assert status == 1
    assert said.startswith("2 enlarged, 1 failed.\nerror: Cannot read the video")
    for name in ("a_x2.mkv", "b_x2.mp4"):
        assert look(tmp_path / "out" / name).times == [Fraction(i, 25) for i in range(4)]
    status, said = run(tmp_path / "d.gif", "-m", model, "-o", tmp_path / "large.webp")
    assert (status, said) == (0, "1 enlarged.\n")
    with Image.open(tmp_path / "large.webp") as image:
        assert (image.size, image.n_frames) == ((16, 16), 2)  # pyright: ignore[reportAttributeAccessIssue]


def test_two_videos_of_one_name_get_outputs_of_their_own(run, model, make_video, look, tmp_path):
    one = make_video(tmp_path / "a.avi", range(2), codec="mpeg4")
    two = make_video(tmp_path / "a.mkv", range(3))
    status, said = run(one, two, one, "-m", model, "-o", f"{tmp_path}/out/")
    assert (status, said) == (0, "2 enlarged.\n")
    assert len(look(tmp_path / "out" / "a_x2.mkv").times) == 3
    assert len(look(tmp_path / "out" / "a_avi_x2.mkv").times) == 2


def test_mistakes_are_one_sentence(run, model, make_video, tmp_path, monkeypatch):
    source = make_video(tmp_path / "in.mp4", range(2))
    for args, words in (
        (["--from", "2", "--to", "1"], "--to is not after --from"),
        (["--steps", "dejpeg", "-m", model], "not both"),
        (["-m", model, "-s", "3"], "enlarges 2 times, not 3"),
        (["-m", model, "--suffix", ""], "would be replaced by its output"),
        (["-m", model, "--pre", "blur=1"], "no step 'blur'"),
    ):
        status, said = run(source, *args)
        assert status == 1
        assert words in said
        assert said.count("error:") == 1
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, said = run(source, "-m", model)
    assert status == 1
    assert "pip install 'binsr-jax[video]'" in said
    with pytest.raises(SystemExit) as caught:
        run(source, "--from", "1:2:3:4")
    assert caught.value.code == 2
