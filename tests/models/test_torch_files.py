"""PyTorch's weight files: the wrappers around the weights, and their dtypes."""

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from binsr_jax.errors import UserError
from binsr_jax.models import torch_files
from binsr_jax.models.torch_files import read_nested, read_state

WEIGHTS = {
    "conv_first.weight": np.arange(54, dtype=np.float32).reshape(2, 3, 3, 3),
    "body.0.bias": np.array([0.5, -1.0], np.float32),
}


def check(state, expected=WEIGHTS):
    assert state.keys() == expected.keys()
    for name, array in state.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("kind", [jnp.bfloat16, jnp.float16, jnp.float64])
def test_floats_of_any_size(tmp_path, kind):
    arrays = {name: (array % 8).astype(kind) for name, array in WEIGHTS.items()}
    save_file(arrays, tmp_path / "net.SAFETENSORS")
    check(read_state(tmp_path / "net.SAFETENSORS"), {n: a % 8 for n, a in WEIGHTS.items()})


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "module.module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."),
        *("model.", "net.", "generator.", "net_g.module.", "params_ema.", "state_dict.model."),
    ],
)
def test_prefixes_of_wrappers(tmp_path, prefix):
    np.savez(tmp_path / "net.NPZ", **{prefix + name: a for name, a in WEIGHTS.items()})
    (tmp_path / "net.NPZ.npz").rename(tmp_path / "net.NPZ")
    check(read_state(tmp_path / "net.NPZ"))


def test_compiled_parts_of_a_network(tmp_path):
    arrays = {name.replace("body.", "body._orig_mod."): a for name, a in WEIGHTS.items()}
    arrays["body.1.num_batches_tracked"] = np.array(7)
    np.savez(tmp_path / "net.npz", **arrays)
    check(read_state(tmp_path / "net.npz"))


def test_a_list_of_layers_keeps_its_name(tmp_path):
    arrays = {"model.0.weight": WEIGHTS["conv_first.weight"]}
    np.savez(tmp_path / "net.npz", **arrays)
    check(read_state(tmp_path / "net.npz"), arrays)
    np.savez(tmp_path / "net.npz", **{f"net.{name}": a for name, a in arrays.items()})
    check(read_state(tmp_path / "net.npz"), arrays)


def test_two_weights_of_one_name_are_refused(tmp_path):
    a = WEIGHTS["body.0.bias"]
    np.savez(tmp_path / "net.npz", **{"module.a.bias": a, "a.bias": a})
    with pytest.raises(UserError, match="several weights of one name"):
        read_state(tmp_path / "net.npz")


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda net: {"params": {}, "params_ema": net},
        lambda net: {"params": {"conv_first.weight": 0 * net["body.0.bias"]}, "params_ema": net},
        lambda net: {"model": net, "optimizer": {"state": {}}, "epoch": 3},
        lambda net: {"model_state_dict": net, "loss": 0.5},
        lambda net: {"net": {f"module.{name}": a for name, a in net.items()}},
        lambda net: {"generator": net, "discriminator": dict.fromkeys(net, net["body.0.bias"])},
        lambda net: {"a name of one's own": net},
    ],
)
def test_dictionaries_that_weights_are_in(tmp_path, monkeypatch, wrapped):
    (tmp_path / "net.pth").touch()
    monkeypatch.setattr(torch_files, "_read_torch", lambda path: wrapped(WEIGHTS))
    check(read_state(tmp_path / "net.pth"))


def test_a_compressed_file_cannot_take_memory_without_end(tmp_path):
    np.savez_compressed(tmp_path / "net.npz", a=np.zeros(2**22, np.float32))
    assert (tmp_path / "net.npz").stat().st_size < 2**15
    with pytest.raises(UserError, match="more than it can hold"):
        read_state(tmp_path / "net.npz")


def test_tensors_that_repeat_their_storage_cannot_take_memory_without_end(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.zeros(1).expand(2**20, 2**20)}, tmp_path / "net.pth")
    for read in (read_state, read_nested):
        with pytest.raises(UserError, match="more than it can hold"):
            read(tmp_path / "net.pth")


@pytest.mark.parametrize("kind", ["complex", "sparse", "without values"])
def test_tensors_without_floats_of_their_own_are_named(tmp_path, kind):
    torch = pytest.importorskip("torch")
    tensors = {
        "complex": lambda: torch.zeros(3, dtype=torch.complex64),
        "sparse": lambda: torch.zeros(3, 3).to_sparse(),
        "without values": lambda: torch.empty(3, device="meta"),
    }
    torch.save({"a": tensors[kind]()}, tmp_path / "net.pth")
    with pytest.raises(UserError, match="'a', which is no array of finite numbers"):
        read_state(tmp_path / "net.pth")


def test_unknown_dictionaries_are_named(tmp_path, monkeypatch):
    (tmp_path / "net.pth").touch()
    monkeypatch.setattr(torch_files, "_read_torch", lambda path: {"a": WEIGHTS, "b": WEIGHTS})
    with pytest.raises(UserError, match="holds 'a', 'b', and it is not known which"):
        read_state(tmp_path / "net.pth")
