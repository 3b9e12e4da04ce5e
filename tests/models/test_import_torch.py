"""``binsr import-torch``: official weights in a work dir, or one sentence with the reason."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from official import (
    BBCU_L,
    BBCU_M,
    BINARY_DEBLOCKER,
    BINARY_DENOISER,
    DNCNN,
    FLOAT_EDSR,
    Reference,
)
from safetensors.numpy import save_file

from binsr_jax.commands import main
from binsr_jax.deploy.engine import Engine
from binsr_jax.deploy.model_file import load_model_file
from binsr_jax.errors import UserError
from binsr_jax.models import torch_files
from binsr_jax.models.torch_files import read_state
from binsr_jax.training.trained import load_model

# Files of reference arrays, the networks in them, and our config fields for these networks.
ARCHS = {
    r"4_bbcul_\w+": ("bbcu_l", BBCU_L),
    r"4_bbcum_\w+": ("bbcu_m", BBCU_M),
    r"4_denoise_\w+": ("dncnn_bin", BINARY_DENOISER),
    r"4_jpeg_\w+": ("dncnn3_bin", BINARY_DEBLOCKER),
    r"4_dncnn_fp_\w+": ("dncnn", DNCNN),
    r"4_ovch_BinEDSR": ("binedsr", {}),
    r"4_ovch_BinEDSRSpatSE": (
        "binedsr",
        {"residual_attention": "spatial", "binary_attention": "se"},
    ),
    r"5_edsr_x\d_res1.0": ("edsr", {**FLOAT_EDSR, "amplification": 255.0}),
}


def run_import(path: Path, arch: str, *flags: str) -> int:
    output = str(path.parent / "run")
    return main(["import-torch", str(path), "--arch", arch, "-o", output, *flags])


@pytest.mark.parametrize("pattern", ARCHS)
def test_official_weights(reference_dir, reference, tmp_path, pattern):
    """Config and parameters equal those whose outputs the tests of the networks compare."""
    names = sorted(p.stem for p in reference_dir.glob("*.npz") if re.fullmatch(pattern, p.stem))
    assert names
    arch, fields = ARCHS[pattern]
    net = Reference(reference(names[-1]), fields)
    save_file(net.state, tmp_path / "net.safetensors")
    flags = ["--scale", str(max(net.scale, 2)), "--amplification", str(net.config.amplification)]
    assert run_import(tmp_path / "net.safetensors", arch, *flags) == 0
    config, _, variables, step = load_model(tmp_path / "run")
    ignored = {"attention_hidden", "residual_scale"}
    ours, expected = (dict(c) for c in (config.model, net.config))
    assert {k: v for k, v in ours.items() if k not in ignored} == {
        k: v for k, v in expected.items() if k not in ignored
    }
    assert (config.scale, step) == (net.scale, 0)
    jax.tree.map(np.testing.assert_array_equal, variables["params"], net.params())


@pytest.fixture
def state() -> dict[str, np.ndarray]:
    """The weights of a binary DnCNN of 6 channels with 2 layers in its body."""
    rng = np.random.default_rng(0)
    shapes = {"model.0.weight": (6, 3, 3, 3), "model.4.weight": (3, 6, 3, 3)}
    for layer in ("model.2", "model.3"):
        shapes |= {
            f"{layer}.move0.bias": (1, 6, 1, 1),
            f"{layer}.binary_conv.weight": (6, 6, 3, 3),
            f"{layer}.relu.pr_bias0.bias": (1, 6, 1, 1),
            f"{layer}.relu.pr_prelu.weight": (6,),
            f"{layer}.relu.pr_bias1.bias": (1, 6, 1, 1),
        }
    return {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}


def test_it_is_packed_and_run_like_a_trained_network(state, tmp_path, capsys):
    # The names of a network that was saved from training on several GPUs.
    np.savez(tmp_path / "net.npz", **{f"module.{name}": a for name, a in state.items()})
    assert run_import(tmp_path / "net.npz", "dncnn_bin") == 0
    assert "dncnn of 2 blocks of 6 channels, k 12.1875" in capsys.readouterr().out
    workdir, model = str(tmp_path / "run"), tmp_path / "model.binsr"
    assert main(["pack", "--workdir", workdir, "-o", str(model)]) == 0
    _, network, variables, _ = load_model(workdir)
    x = np.random.default_rng(1).random((7, 9, 3), np.float32)
    expected = jax.jit(network.apply)(variables, x[None])
    y = Engine(load_model_file(model)).run(x)
    np.testing.assert_allclose(y, np.asarray(expected)[0], atol=1e-4)
    assert run_import(tmp_path / "net.npz", "dncnn_bin") == 1
    assert "holds a trained network already" in capsys.readouterr().err


def changed(state: dict[str, np.ndarray], **arrays: Any) -> dict[str, np.ndarray]:
    values = {**state, **{name.replace("__", "."): array for name, array in arrays.items()}}
    return {name: array for name, array in values.items() if array is not None}


@pytest.mark.parametrize(
    ("arch", "changes", "words"),
    [
        ("bbcu_l", {}, r"network: no value for body_2/conv/kernel, .* and 8 more; check"),
        ("dncnn3_bin", {}, "no value for body_0/conv/bias, "),
        (
            "dncnn3_bin",
            {"model__0__weight": np.zeros((6, 2, 3, 3))},
            "of 2 channels, and .* 1 or 3",
        ),
        (
            "dncnn3_bin",
            {
                "model__0__weight": np.zeros((6, 1, 3, 3), np.float32),
                "model__4__weight": np.zeros((1, 6, 3, 3), np.float32),
            },
            "no value for body_0/conv/bias, ",
        ),
        ("dncnn_bin", {"extra": np.zeros(3, np.float32)}, "no place for extra"),
        (
            "dncnn_bin",
            {
                "model__3__binary_conv__weight": np.zeros((6, 6, 5, 5), np.float32),
                "model__4__weight": np.zeros((1, 6, 3, 3), np.float32),
            },
            r"body_1/conv/kernel has shape .*5, 5.*, tail/kernel has shape ",
        ),
        ("dncnn_bin", {"model__0__weight": None}, "not the weights of dncnn_bin"),
        ("dncnn_bin", {"model__4__weight": np.full((3, 6, 3, 3), np.nan)}, "no array of finite"),
        ("dncnn_bin", {"model__4__weight": np.array(["text"])}, "'model.4.weight', which is no"),
    ],
)
def test_weights_that_do_not_fit_are_one_sentence(state, tmp_path, capsys, arch, changes, words):
    arrays: Any = changed(state, **changes)
    np.savez(tmp_path / "net.npz", **arrays)
    assert run_import(tmp_path / "net.npz", arch) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert re.search(words, error), error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.npz", None, "There is no file"),
        ("net.npz", b"PK\x03\x04 broken", "cannot be read as weights alone"),
        ("net.safetensors", b"\xff" * 40, "cannot be read as weights alone"),
        ("net.pth", b"broken", "PyTorch, which reads|cannot be read as weights alone"),
    ],
)
def test_broken_files_are_one_sentence(tmp_path, capsys, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert run_import(tmp_path / name, "bbcu_l") == 1
    assert re.search(words, capsys.readouterr().err)


def test_objects_in_an_npz_are_not_unpickled(tmp_path, capsys):
    np.savez(tmp_path / "net.npz", weights=np.array([print], dtype=object))
    assert run_import(tmp_path / "net.npz", "bbcu_l") == 1
    assert "which are not run" in capsys.readouterr().err


def test_without_pytorch_a_sentence_says_how_to_get_it(tmp_path, capsys, monkeypatch):
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(torch_files.importlib, "import_module", missing)
    (tmp_path / "net.pth").write_bytes(b"")
    with pytest.raises(UserError, match=r"pip install 'binsr-jax\[torch\]'"):
        read_state(tmp_path / "net.pth")


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_files_of_torch_save(state, tmp_path, capsys):
    torch: Any = importlib.import_module("torch")
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    for content in (tensors, {"params": tensors}, {"state_dict": tensors, "epoch": 3}):
        torch.save(content, tmp_path / "net.pth")
        read = read_state(tmp_path / "net.pth")
        assert read.keys() == state.keys()
        jax.tree.map(np.testing.assert_array_equal, read, state)
    torch.save({"params": {}, "params_ema": tensors}, tmp_path / "net.pth")
    assert run_import(tmp_path / "net.pth", "dncnn_bin") == 0

    class Runs:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"params": tensors, "other": Runs()}, tmp_path / "bad.pth")
    assert run_import(tmp_path / "bad.pth", "dncnn_bin") == 1
    assert "which are not run" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
