"""The reader in C restores a picture as the packed network does, to within one level of 255."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import binsr_jax
from binsr_jax.commands import main
from binsr_jax.deploy.export.c_code import c_sources
from binsr_jax.deploy.model_file import load_model_file, save_model
from binsr_jax.errors import UserError
from binsr_jax.pretrained import file_of

SPATIAL = {"unit": "attention", "residual_attention": "spatial"}
NETWORKS = {
    "x2": {**SPATIAL, "image_skip": "bilinear", "head_activation": "leaky_relu", "features": 33},
    "x4": {**SPATIAL, "image_skip": "bilinear", "scale": 4},
    "direct": {**SPATIAL, "image_skip": "bilinear", "upsampler": "direct", "scale": 3},
    "x3": {"unit": "bbcu", "scale": 3, "image_skip": "none"},
    "denoise": {**SPATIAL, "name": "dncnn", "task": "denoise", "scale": 1, "blocks": 2},
    "grey": {"unit": "bbcu", "name": "dncnn", "task": "jpeg", "scale": 1, "blocks": 2},
}


def compiled(folder: Path) -> Path:
    """The program that ``cc`` makes of the sources ``m.h`` and ``m.c`` of a folder."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler cc")
    command = [compiler, "-std=c99", "-O1", "-Wall", "-Wextra", "-Werror", "-o", "restore", "m.c"]
    subprocess.run([*command, "-lm"], check=True, cwd=folder)
    return folder / "restore"


@pytest.mark.parametrize("fields", NETWORKS.values(), ids=NETWORKS)
def test_the_reader_equals_the_packed_network(fields, make_model, tmp_path, capsys):
    model = make_model(**fields)
    save_model(tmp_path / "m.binsr", model)
    header = tmp_path / "m.h"
    assert main(["export", str(tmp_path / "m.binsr"), "--to", "c", "-o", str(header)]) == 0
    assert f"{tmp_path / 'm.c'}: " in capsys.readouterr().out
    shape = (7, 9, 3) if model.task.channels == 3 else (7, 9)
    pixels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.ppm")
    restored = subprocess.run(
        [compiled(tmp_path)], input=(tmp_path / "x.ppm").read_bytes(), capture_output=True
    )
    assert (restored.returncode, restored.stderr) == (0, b"")
    (tmp_path / "y.ppm").write_bytes(restored.stdout)
    expected = binsr_jax.load(tmp_path / "m.binsr").upscale(pixels)
    with Image.open(tmp_path / "y.ppm") as image:
        difference = np.asarray(image).astype(int) - expected.astype(int)
    assert np.abs(difference).max() <= 1  # sums in another order, rounded to a level
    assert np.mean(difference != 0) < 0.01
    assert expected.std() > 1


def test_a_picture_that_is_none_is_refused(make_model, tmp_path):
    header, reader = c_sources(make_model(unit="bbcu"), "m.h")
    (tmp_path / "m.h").write_text(header)
    (tmp_path / "m.c").write_text(reader)
    program = compiled(tmp_path)
    for content in (b"", b"P5\n1 1\n255\nx", b"P6\n2 2\n255\nx", b"P6 99999 99999 255 x", b"P6 -1"):
        run = subprocess.run([program], input=content, capture_output=True)
        assert run.returncode == 1
        assert run.stderr.startswith(b"error: ")
        assert not run.stdout
    comment = b"P6 # a comment\n1 # another\n1\n255\n\1\2\3"
    assert subprocess.run([program], input=comment, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "srresnet"},
        {"unit": "reactnet"},
        {"upsampler": "float"},
        {"body_end": "conv"},
        {"residual_attention": "se"},
        {"head": "binary"},
    ],
)
def test_other_networks_are_refused_in_a_sentence(fields, make_model):
    with pytest.raises(UserError, match=r"The reader in C has .* export it to onnx or stablehlo\."):
        c_sources(make_model(**fields), "m.h")


@pytest.mark.parametrize("name", ["x4", "denoise"])
def test_packaged_networks_have_a_header(name):
    header, reader = c_sources(load_model_file(file_of(name)), "m.h")
    assert "#define BINSR_FEATURES 64\n" in header
    assert "binsr_branch_17_attention[] = " in header
    assert '#include "m.h"' in reader
