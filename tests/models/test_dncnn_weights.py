"""DnCNNs with batch normalisation: folding it changes nothing but the parameters."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from binsr_jax.commands import main
from binsr_jax.errors import UserError
from binsr_jax.models.dncnn_weights import plain_dncnn
from binsr_jax.training.trained import load_model


def conv(x, kernel, bias=0.0):
    """A convolution of ``[C, H, W]`` by its definition: zero padding, stride 1."""
    x = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
    return np.einsum("ihwyx,oiyx->ohw", windows, kernel) + np.reshape(bias, (-1, 1, 1))


def layers(rng, norm_bias=True, channels=1, name="model."):
    """The state of a DnCNN with 5 features and 2 normalised convolutions in its body."""

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    state = {f"{name}0.weight": draw(5, channels, 3, 3), f"{name}7.weight": draw(channels, 5, 3, 3)}
    for i in (2, 5):
        state |= {
            f"{name}{i}.weight": draw(5, 5, 3, 3),
            f"{name}{i + 1}.weight": draw(5),
            f"{name}{i + 1}.bias": draw(5),
            f"{name}{i + 1}.running_mean": draw(5),
            f"{name}{i + 1}.running_var": rng.uniform(1e-4, 2, 5).astype(np.float32),
            f"{name}{i + 1}.num_batches_tracked": np.array(3),
        }
        if norm_bias:
            state[f"{name}{i}.bias"] = draw(5)
    if norm_bias:
        state |= {f"{name}0.bias": draw(5), f"{name}7.bias": draw(channels)}
    return state


def denoised(state, x, epsilon, name="model."):
    """``x - noise``, computed by PyTorch's layers in float64."""

    def get(layer, part):
        return state.get(f"{name}{layer}.{part}", np.zeros(1)).astype(np.float64)

    y = np.maximum(conv(x, get(0, "weight"), get(0, "bias")), 0)
    for i in (2, 5):
        y = conv(y, get(i, "weight"), get(i, "bias"))
        mean, var, gamma, beta = (
            get(i + 1, part)[:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        y = np.maximum((y - mean) / np.sqrt(var + epsilon) * gamma + beta, 0)
    return x - conv(y, get(7, "weight"), get(7, "bias"))


@pytest.mark.parametrize(
    ("name", "biases", "epsilon", "flags"),
    [
        ("model.", True, 1e-4, []),
        ("module.dncnn.", False, 1e-5, []),
        ("", True, 3e-3, ["--norm-epsilon", "3e-3"]),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_the_network_with_normalisation(tmp_path, name, biases, epsilon, flags, channels):
    rng = np.random.default_rng(4)
    state = layers(rng, biases, channels, name)
    save_file(state, tmp_path / "net.safetensors")
    output = str(tmp_path / "run")
    file = str(tmp_path / "net.safetensors")
    assert main(["import-torch", file, "--arch", "dncnn", "-o", output, *flags]) == 0
    config, network, variables, _ = load_model(output)
    assert config.task == {1: "denoise_grey", 3: "denoise"}[channels]
    assert (config.model.features, config.model.blocks, config.scale) == (5, 2, 1)
    x = rng.random((channels, 8, 9)).astype(np.float32)
    y = network.apply(variables, x.transpose(1, 2, 0)[None])
    expected = denoised(state, x.astype(np.float64), epsilon, name).transpose(1, 2, 0)
    np.testing.assert_allclose(np.asarray(y)[0], expected, atol=2e-5 * np.abs(expected).max())


def test_without_any_bias_there_is_none(tmp_path):
    state = {
        f"model.{2 * i}.weight": np.ones(s, np.float32)
        for i, s in enumerate([(5, 3, 3, 3), (5, 5, 3, 3), (3, 5, 3, 3)])
    }
    assert plain_dncnn(state).keys() == state.keys()
    save_file(state, tmp_path / "net.safetensors")
    output, file = str(tmp_path / "run"), str(tmp_path / "net.safetensors")
    assert main(["import-torch", file, "--arch", "dncnn", "-o", output]) == 0
    assert load_model(output)[0].model.bias == "none"


def test_a_normalisation_without_its_convolution_is_refused():
    state = layers(np.random.default_rng(0))
    del state["model.2.weight"]
    with pytest.raises(UserError, match=r"model\.3 follows no convolution"):
        plain_dncnn(state)


def test_channels_that_no_task_has_are_refused(tmp_path, capsys):
    save_file(layers(np.random.default_rng(0), channels=4), tmp_path / "net.safetensors")
    command = ["import-torch", str(tmp_path / "net.safetensors"), "--arch", "dncnn", "-o"]
    assert main([*command, str(tmp_path / "run")]) == 1
    assert "of images of 4 channels, and dncnn has 3 or 1" in capsys.readouterr().err
