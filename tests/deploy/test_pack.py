"""Packed networks against the float networks that they are packed from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from binsr_jax import models
from binsr_jax.deploy.pack import pack_params
from binsr_jax.evaluation import benchmark
from binsr_jax.evaluation.sets import load_set
from binsr_jax.nn.packed import PackedConv
from binsr_jax.ops.packed import unpack_weights
from binsr_jax.tasks import task_of

NETWORKS = [
    {"features": 33, "weight_scale": "learnable"},
    {"unit": "bbcu", "scale": 3, "image_skip": "bilinear"},
    {"residual_attention": "spatial", "image_skip": "bilinear"},
    {"scale": 4, "residual_attention": "spatial", "binary_attention": "se"},
    {"unit": "residual", "body_end": "conv", "upsampler": "float"},
    {"unit": "irnet"},
    {"unit": "reactnet", "bias": "all", "amplification": 1.0},
    {"unit": "bbcu", "head": "binary", "tail": "binary", "image_skip": "bilinear"},
    {"name": "srresnet", "unit": "bbcu", "hr_conv": "binary", "image_skip": "bilinear"},
    {"name": "dncnn", "unit": "bbcu", "blocks": 2, "bias": "all", "scale": 1, "task": "jpeg"},
]


def both(config, variables):
    """Each form of a network, with its variables."""
    floats = models.build(config)
    packed = models.build(config, conv=PackedConv)
    return (floats, variables), (packed, {"params": pack_params(config, variables)})


@pytest.mark.parametrize("network", NETWORKS)
def test_a_packed_network_is_the_float_one(make_config, make_variables, network):
    """Equal but for the rounding of what XLA contracts differently in the two programs.

    That is some units in the last place of the features a unit. Where it moves a number across the
    threshold of a sign, the outputs around that pixel differ by more: it must be very rare.
    """
    config = make_config(**network)
    x = jax.random.uniform(jax.random.key(1), (1, 24, 21, task_of(config).channels))
    expected, y = (
        np.asarray(jax.jit(network.apply)(variables, x))
        for network, variables in both(config, make_variables(config))
    )
    scale = np.abs(expected).max()
    assert (np.abs(y - expected) > 1e-5 * scale).mean() < 1e-3


def test_a_set_has_the_same_score(make_config, make_variables):
    check_scores(make_config, make_variables, "samples", "")


def test_set5_has_the_same_score(make_config, make_variables, data_dir):
    if not (data_dir / "Set5").is_dir():
        pytest.skip(f"{data_dir} has no Set5")
    check_scores(make_config, make_variables, "Set5", str(data_dir))


def check_scores(make_config, make_variables, name, data_dir):
    """PSNR and SSIM to 0.001 dB, of a network whose binary part is a good share of its output."""
    config = make_config(features=16, blocks=2, image_skip="bilinear", amplification=32.0)
    variables = make_variables(config)
    params = variables["params"]
    params["tail"] = jax.tree.map(lambda leaf: 0.05 * leaf, params["tail"])
    images = load_set(name, data_dir, task_of(config))
    floats, packed = (
        benchmark.score_set(images, benchmark.restorer(network, variables))[-1]
        for network, variables in both(config, variables)
    )
    assert abs(floats["psnr"] - packed["psnr"]) < 1e-3
    assert abs(floats["ssim"] - packed["ssim"]) < 1e-5
    assert floats["psnr"] > 15  # or the images are lost, and any error with them


def test_scales_are_the_mean_or_the_learnt_one(make_config, make_variables):
    for kind in ("mean", "learnable"):
        config = make_config(weight_scale=kind)
        variables = make_variables(config)
        conv = variables["params"]["body_0"]["conv"]
        expected = np.abs(conv["kernel"]).mean((0, 1, 2)) if kind == "mean" else conv["scale"]
        packed = pack_params(config, variables)["body_0"]["conv"]
        signs = unpack_weights(packed["w_bits"], conv["kernel"].shape[2])
        binary = np.where(conv["kernel"] > 0, expected, -expected)
        np.testing.assert_allclose(signs * packed["scale"], binary, rtol=1e-6)


def test_exact_zeros_are_minus_one(make_config, make_variables):
    config = make_config()
    variables = make_variables(config)
    conv = variables["params"]["body_0"]["conv"]
    conv["kernel"] = jnp.zeros_like(conv["kernel"])
    assert not pack_params(config, variables)["body_0"]["conv"]["w_bits"].any()


def test_variables_of_another_network_are_refused(make_config, make_variables):
    variables = make_variables(make_config())
    for other in (make_config(features=6), make_config(blocks=2), make_config(unit="residual")):
        with pytest.raises(ValueError, match="not of this network"):
            pack_params(other, variables)
