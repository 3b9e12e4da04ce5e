"""LPIPS, against numbers of the package ``lpips``."""

import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from binsr_jax import config as config_lib
from binsr_jax.errors import UserError
from binsr_jax.evaluation.benchmark import score_set
from binsr_jax.evaluation.lpips import load_lpips
from binsr_jax.evaluation.report import table
from binsr_jax.evaluation.sets import load_set
from binsr_jax.tasks import task_of

SHAPES = {
    "net.slice1.0": (64, 3, 11, 11),
    "net.slice2.3": (192, 64, 5, 5),
    "net.slice3.6": (384, 192, 3, 3),
    "net.slice4.8": (256, 384, 3, 3),
    "net.slice5.10": (256, 256, 3, 3),
}
# Of ``lpips.LPIPS(net="alex", pnet_rand=True)`` in lpips 0.1.4, with the weights of ``drawn`` and
# the images that follow: two of colour and two of grey.
COLOUR, GREY = 0.913044, 0.878351


def drawn(path: Path) -> np.random.Generator:
    """Writes drawn weights; the generator then draws the images."""
    rng = np.random.default_rng(0)
    state = {}
    for i, (name, shape) in enumerate(SHAPES.items()):
        kernel = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        state[f"{name}.weight"] = kernel.astype(np.float32)
        bias = rng.standard_normal(shape[0]).astype(np.float32) * np.float32(0.1)
        state[f"{name}.bias"] = bias
        head = rng.random((1, shape[0], 1, 1)).astype(np.float32)
        state[f"lin{i}.model.1.weight"] = head
    safetensors.numpy.save_file(state, path)
    return rng


def test_the_distance_is_that_of_the_package_lpips(tmp_path: Path) -> None:
    rng = drawn(tmp_path / "w.safetensors")
    lpips = load_lpips(tmp_path / "w.safetensors")
    a, b = (rng.integers(0, 256, (60, 52, 3), dtype=np.uint8) for _ in range(2))
    assert lpips(a, b) == pytest.approx(COLOUR, abs=1e-5)
    g, h = (rng.integers(0, 256, (60, 52, 1), dtype=np.uint8) for _ in range(2))
    assert lpips(g, h) == pytest.approx(GREY, abs=1e-5)
    assert lpips(a, a) == pytest.approx(0, abs=1e-6)
    with pytest.raises(UserError, match=re.escape("31 pixels a side, and one has 52x30")):
        lpips(a[:30], b[:30])

    # A set has it beside its task's scores, of the network and of the input.
    (tmp_path / "One").mkdir()
    Image.fromarray(a).save(tmp_path / "One" / "a.png")
    one = load_set("One", tmp_path, task_of(config_lib.default()))
    row, total = score_set(one, lambda x: np.repeat(np.repeat(x, 2, 0), 2, 1), lpips=lpips)
    (example,) = one
    nearest = np.repeat(np.repeat(example.lq, 2, 0), 2, 1)
    assert row["lpips"] == total["lpips"] == lpips(nearest, example.hq) > 0
    assert row["bicubic_lpips"] != row["lpips"]
    assert "| LPIPS |" in re.sub(" +", " ", table([total]))


def test_a_file_of_other_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file({"net.slice1.0.weight": np.zeros((64, 3, 3, 3), np.float32)}, path)
    with pytest.raises(UserError, match=r"lacks the weights of lpips\.LPIPS.*slice1\.0\.weight"):
        load_lpips(path)
