"""StableHLO equals the packed network, and runs without this package."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from binsr_jax import models
from binsr_jax.commands import main
from binsr_jax.deploy.export.stablehlo import PLATFORMS, stablehlo
from binsr_jax.deploy.model_file import save_model
from binsr_jax.nn.packed import PackedConv

ATTENTIONS = {"residual_attention": "spatial", "binary_attention": "se"}
NETWORKS = {
    "edsr": {"image_skip": "bilinear", **ATTENTIONS},
    "srresnet": {"name": "srresnet", "unit": "bbcu", "hr_conv": "binary", "head": "binary"},
    "dncnn": {"name": "dncnn", "unit": "bam", "task": "denoise", "scale": 1, "blocks": 2},
    "rrdbnet": {"name": "rrdbnet", "task": "photo", "growth": 3},
}
RUN = """
import sys, numpy as np
from jax import export
program = export.deserialize(open(sys.argv[1], "rb").read())
with np.load(sys.argv[2]) as images:
    outputs = {name: np.asarray(program.call(x)) for name, x in images.items()}
np.savez(sys.argv[3], **outputs)
assert not any(name.startswith("binsr") for name in sys.modules)
"""


def photo(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).uniform(size=shape).astype(np.float32)


def packed(model, x: np.ndarray) -> np.ndarray:
    network = models.build(model.config, PackedConv)
    return np.asarray(jax.jit(network.apply)({"params": model.params}, jnp.asarray(x)))


@pytest.mark.parametrize("fields", NETWORKS.values(), ids=NETWORKS)
def test_the_program_equals_the_packed_network(fields, make_model):
    model = make_model(**fields)
    program = export.deserialize(bytearray(stablehlo(model)))
    assert program.platforms == PLATFORMS
    x = photo(1, 6, 8, 3)
    # The two round sums in different orders, and by chance no sign flips here.
    y = np.asarray(program.call(x))
    assert np.abs(y - 0.5).max() > 0.01  # something is computed
    np.testing.assert_allclose(y, packed(model, x), atol=1e-5 * max(1.0, np.abs(y).max()))


def test_bits_are_counted_and_no_code_of_ours_is_called(make_model):
    text = export.deserialize(bytearray(stablehlo(make_model()))).mlir_module()
    assert set(re.findall(r"custom_call @(\w+)", text)) <= {"shape_assertion"}
    assert "binsr_avx" not in text
    assert "popcnt" in text
    # A kernel is words of bits: [3, 3, 1, 5] for 5 channels.
    assert "tensor<3x3x1x5xui32>" in text


def test_the_file_runs_in_a_process_without_this_package(make_model, tmp_path, capsys):
    model = make_model(image_skip="bilinear", **ATTENTIONS)
    save_model(tmp_path / "m.binsr", model)
    file = tmp_path / "m.stablehlo"
    assert main(["export", str(tmp_path / "m.binsr"), "--to", "stablehlo", "-o", str(file)]) == 0
    assert f"{file.stat().st_size:,} bytes" in capsys.readouterr().out
    images = {"a": photo(1, 5, 4, 3), "b": photo(2, 9, 3, 3)}  # any batch, height and width
    np.savez(tmp_path / "x.npz", a=images["a"], b=images["b"])
    arguments = [file, tmp_path / "x.npz", tmp_path / "y.npz"]
    subprocess.run([sys.executable, "-c", RUN, *map(str, arguments)], check=True, cwd=tmp_path)
    with np.load(tmp_path / "y.npz") as outputs:
        for name, x in images.items():
            np.testing.assert_allclose(outputs[name], packed(model, x), atol=1e-5)


def test_an_output_that_cannot_be_written_is_one_sentence(make_model, tmp_path, capsys):
    save_model(tmp_path / "m.binsr", make_model())
    output = tmp_path / "missing" / "m"
    assert main(["export", str(tmp_path / "m.binsr"), "--to", "stablehlo", "-o", str(output)]) == 1
    assert f"Cannot write {output}" in capsys.readouterr().err
