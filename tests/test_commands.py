"""The console script: its subcommands, and how they end."""

import contextlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from binsr_jax import __version__, cost, models
from binsr_jax.commands import COMMANDS, main
from binsr_jax.config import FIELDS, default
from binsr_jax.deploy.model_file import fingerprint, load_model_file
from binsr_jax.deploy.pack import from_network, network_at
from binsr_jax.json_lines import json_line
from binsr_jax.training.checkpoint import Checkpoints
from binsr_jax.training.scores import Score
from binsr_jax.training.state import create_state, make_optimizer


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    """A work dir with one checkpoint of a small network."""
    config = default()
    config.model.update({"features": 6, "blocks": 1})
    config.data.dir = "/home/someone/pictures"
    config.data.sources = ("folder:/home/someone/else",)
    config.train.init_from = config.train.teacher = "/home/someone/run"
    folder = tmp_path_factory.mktemp("run")
    model = models.build(config)
    state: Any = create_state(config, model, make_optimizer(config.train))
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(
            state.replace(step=state.step + 12), config, "fingerprint", Score(31.25, "samples")
        )
        checkpoints.wait()
    return folder


def sentence(capsys) -> str:
    """The one line on standard error."""
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_pack_info_and_cost_agree(workdir, tmp_path, capsys):
    path = tmp_path / "model.binsr"
    assert main(["pack", "--workdir", str(workdir), "-o", str(path)]) == 0
    packed = capsys.readouterr().out
    assert main(["info", str(path)]) == 0
    assert capsys.readouterr().out == packed
    model = load_model_file(path)
    size = sum(array.nbytes for array in load_file(path).values())
    assert cost.count(model.config).file_bytes == size
    for text in ("SR x2", "1 blocks of 6", "12 steps", "fingerprint", "samples/psnr 31.25"):
        assert text in packed
    assert "float head, binary upsampler, float tail\n" in packed
    assert f"{path.stat().st_size:,} bytes, {size:,} of them tensors" in packed
    assert b"someone" not in path.read_bytes()  # folders of another machine

    tables = []
    for source in (["--model", str(path)], ["--workdir", str(workdir)]):
        assert main(["cost", *source, "--size", "9x8"]) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1]
    assert f"| {size:,} |" in tables[0]


@pytest.mark.parametrize(
    ("flags", "floats"),
    [(["--half"], "float16"), (["--floats=float16"], "float16"), (["--floats=int8"], "int8")],
)
def test_smaller_floats_say_what_they_cost(workdir, tmp_path, capsys, flags, floats):
    path = tmp_path / "small.binsr"
    assert main(["pack", "--workdir", str(workdir), "-o", str(path), *flags]) == 0
    output = capsys.readouterr().out
    assert f"{floats}:" in output
    assert "dB against float32" in output
    size = sum(array.nbytes for array in load_file(path).values())
    assert f"{size:,} of them tensors" in output
    assert cost.count(from_network(network_at(workdir)).config).bytes_of(floats) == size
    assert load_model_file(path).floats == floats


def test_only_scores_of_the_network_itself_are_stored(workdir, tmp_path, capsys):
    path, results = tmp_path / "model.binsr", tmp_path / "results.jsonl"
    argv = ["pack", "--workdir", str(workdir), "-o", str(path)]
    assert main(argv) == 0
    about = {"task": "SR x2", "set": "Set5", "images": 5, "engine": "packed"}
    own = about | {"network": fingerprint(load_model_file(path)), "psnr": 31.5}
    others = [about | {"psnr": 40.0}, about | {"network": "0f", "psnr": 41.0}]
    results.write_text("".join(map(json_line, [own, *others])))
    assert main([*argv, "--scores", str(results)]) == 0
    model = load_model_file(path)
    assert model.provenance["scores"] == {"samples/psnr": 31.25, "Set5/psnr": 31.5}
    assert fingerprint(model) == own["network"]

    results.write_text("".join(map(json_line, others)))
    capsys.readouterr()
    assert main([*argv, "--scores", str(results)]) == 1
    assert "no scores of this network" in sentence(capsys)
    assert load_model_file(path).provenance["scores"] == {"samples/psnr": 31.25}


def test_cost_of_a_recipe_and_its_variant(capsys):
    assert main(["cost", "--config", "bin_edsr:scale=4"]) == 0
    assert "| 1,511,424 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["info", "missing.binsr"], "There is no model file missing.binsr"),
        (["info", __file__], "not a usable model file"),
        (["pack", "--workdir", "missing", "-o", "m.binsr"], "holds no checkpoint"),
        (["cost", "--config", "missing.py"], "no config file 'missing.py'"),
        (["cost", "--config", "bin_edsr:scale=9"], "no variant 'scale=9'"),
        (["cost", "--config", __file__], "fails"),
        (["cost", "--all", "missing"], "no recipes in 'missing'"),
        (["configs", "missing"], "no recipes in 'missing'"),
    ],
)
def test_a_mistake_is_one_sentence(argv, words, capsys):
    assert main(argv) == 1
    assert words in sentence(capsys)


@pytest.mark.parametrize(
    "argv",
    [
        *(["info", "{}/m.binsr"], ["pack", "--workdir", "{}", "-o", "m.binsr"]),
        *(["cost", "--model", "{}/m.binsr"], ["runs", "{}"], ["plot", "{}", "-o", "a.png"]),
        *(["evaluate", "--workdir", "{}"], ["evaluate", "--bicubic", "--sets=a", "--data-dir={}"]),
        *(["train", "--config", "{}.py"], ["import-torch", "{}.pth", "--arch=edsr", "-o", "m"]),
    ],
)
def test_a_name_that_is_too_long_is_one_sentence(argv, capsys):
    assert main([argument.format("x" * 300) for argument in argv]) == 1
    assert "ile name too long" in sentence(capsys)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_standard_output_on_a_full_disk_is_one_sentence(capsys, monkeypatch):
    with monkeypatch.context() as patched, open("/dev/full", "w") as full:
        patched.setattr(sys, "stdout", full)
        assert main(["models"]) == 1
    assert "No space left on device" in sentence(capsys)


def test_standard_streams_may_be_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["models"]) == 0
    assert main(["info", "missing.binsr"]) == 1


def test_an_output_that_cannot_be_written_is_one_sentence(workdir, tmp_path, capsys):
    path = tmp_path / "missing" / "model.binsr"
    assert main(["pack", "--workdir", str(workdir), "-o", str(path)]) == 1
    assert str(path) in sentence(capsys)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["paint"],
        ["info", "--colour", "x"],
        ["cost"],
        ["cost", "--config", "x", "--model", "y"],
        *(["cost", "--config", "x", "--size", size] for size in ("0x4", "3", "3x", "99999999x1")),
    ],
)
def test_wrong_flags_end_with_status_2(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: binsr")
    assert line.endswith("--help explains all flags).")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["upscael", "a.png"], "there is no command 'upscael'; did you mean upscale?"),
        (["upscale", "--scael", "4", "a.png"], "there is no flag --scael; did you mean --scale?"),
        (["upscale", "a.png", "-s", "0"], "-s/--scale: 0 is not at least 1"),
        (["upscale", "a.png", "-s", "x"], "-s/--scale: 'x' is not a whole number"),
        (["upscale", "a.png", "--memory", "lots"], "--memory: 'lots' is not a number"),
        (["info", "a", "b"], "the argument 'b' is not expected"),
        (["models", "--foo"], "there is no flag --foo (binsr models --help"),
    ],
)
def test_a_mistyped_command_or_flag_is_named_with_the_likely_one(argv, words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(("command", "other"), [("denoise", "dejpeg"), ("dejpeg", "x2")])
def test_a_network_for_another_task_is_refused(command, other, tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(b"")
    assert main([command, str(tmp_path / "a.png"), "-m", other]) == 1
    assert f"The network {other} is for " in sentence(capsys)


@pytest.mark.parametrize("flag", ["--no-cost", "--no_cost"])
def test_flags_are_written_with_either_sign_between_words(flag, tmp_path, capsys):
    assert main(["configs", flag]) == 0
    assert "| quickstart |" in capsys.readouterr().out
    name = flag.replace("no", "data").replace("cost", "dir")
    assert main(["evaluate", "--bicubic", "--sets=Mine", f"{name}={tmp_path}"]) == 1
    assert f"no benchmark set Mine in {tmp_path}" in sentence(capsys)


@pytest.mark.parametrize("name", COMMANDS)
def test_flags_are_declared_with_dashes(name, capsys):
    """``main`` writes every flag with dashes, so that one with an underscore could not be given."""
    with contextlib.suppress(SystemExit):
        main([name, "--help"])
    flags = re.findall(r"(?<![\w.])--[a-z][\w-]*(?![\w.-])", capsys.readouterr().out)
    assert flags
    assert [flag for flag in flags if "_" in flag] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    status: Any = 0
    try:
        status = main([name, "--help"])
    except SystemExit as end:
        status = end.code
    assert status == 0
    assert f"usage: binsr {name}" in capsys.readouterr().out


def test_the_help_of_train_lists_every_field_with_its_meaning(capsys):
    assert main(["train", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, declaration in FIELDS.items():
        place = lines.index(f"  --config.{name}={declaration.default!r}")
        assert declaration.meaning.split()[0] in lines[place + 1]


def test_the_program_starts_without_jax():
    code = "import sys, binsr_jax.commands; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    run = subprocess.run(
        [sys.executable, "-m", "binsr_jax", "--version"], check=True, capture_output=True, text=True
    )
    assert run.stdout == f"binsr-jax {__version__}\n"
    failed = subprocess.run(
        [sys.executable, "-m", "binsr_jax", "info", "missing"], capture_output=True, text=True
    )
    assert failed.returncode == 1
    assert failed.stderr == (
        "error: There is no model file and no packaged network 'missing': binsr pack makes a model "
        "file, and binsr models lists the networks: x2, x3, x4, x2-fast, x2-photo, "
        "x2-photo-commercial, x4-photo, x2-sharp, sharp, x2-drawing, drawing, denoise, dejpeg.\n"
    )
