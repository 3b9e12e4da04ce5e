"""Packed units against float ones.

The integer convolutions are equal, and the arithmetic around them is the same. But XLA may contract
a product and a sum to one rounding in one of the two programs and not in the other. So a unit's
output may differ by a few units in the last place of its largest term.
"""

import dataclasses
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from binsr_jax.nn.attention import ATTENTION
from binsr_jax.nn.binary import FOLDED, WEIGHT_SCALES, BinaryConv
from binsr_jax.nn.packed import PackedConv, SignConv
from binsr_jax.nn.units import UNITS
from binsr_jax.nn.upsamplers import BinaryUpsampler
from binsr_jax.ops.packed import pack_weights, packed_conv_reference

EPSILON = float(np.finfo(np.float32).eps)


def with_conv(module, conv, **options):
    """The module with the binary convolution and the options that are attributes of it."""
    of: Any = module.func if isinstance(module, partial) else module
    names = {field.name for field in dataclasses.fields(of)}
    return module(**{k: v for k, v in {"conv": conv, **options}.items() if k in names})


def random_variables(module: nn.Module, x: jax.Array, seed: int = 0):
    """Random variables near their start, so that no term is zero."""
    rng = np.random.default_rng(seed)
    leaves: dict[Any, Any] = flatten_dict(jax.jit(module.init)(jax.random.key(seed), x))
    drawn = {k: v + 0.1 * rng.normal(size=v.shape).astype(np.float32) for k, v in leaves.items()}
    return unflatten_dict(drawn)


def packed_by_hand(params):
    """The parameters with the kernel of every submodule "conv" as packed bits and scales."""
    flat: dict[Any, Any] = flatten_dict(params)
    packed = {}
    for name, value in flat.items():
        if name[-1] == "kernel" and name[-2:-1] in ((), ("conv",)):
            packed[*name[:-1], "w_bits"] = pack_weights(value)
            packed.setdefault((*name[:-1], "scale"), np.abs(value).mean((0, 1, 2)))
        else:
            packed[name] = value
    return unflatten_dict(packed)


def assert_equal_but_for_contraction(packed, floats, terms=1.0):
    bound = 8 * EPSILON * max(float(jnp.abs(floats).max()), terms)
    np.testing.assert_allclose(packed, floats, rtol=0, atol=bound)


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("weight_scale", ["mean", "learnable"])
@pytest.mark.parametrize(("channels", "kernel_size"), [(1, 3), (33, 3), (64, 1)])
def test_packed_conv_is_binary_conv(channels, kernel_size, weight_scale, use_bias):
    options = {"kernel_size": kernel_size, "weight_scale": weight_scale, "use_bias": use_bias}
    x = jnp.sign(jax.random.normal(jax.random.key(1), (2, 5, 4, channels)))
    floats, packed = BinaryConv(7, **options), PackedConv(7, **options)
    variables = random_variables(floats, x)
    y = jax.jit(packed.apply)({"params": packed_by_hand(variables["params"])}, x)
    assert_equal_but_for_contraction(y, jax.jit(floats.apply)(variables, x))


@pytest.mark.parametrize("channels", [1, 31, 32, 65])
def test_the_integers_inside_are_exact(channels):
    rng = np.random.default_rng(channels)
    x = jnp.asarray(rng.choice([-1.0, 1.0], (1, 6, 5, channels)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, channels, 9)), jnp.float32)
    w_bits = pack_weights(kernel)
    ones = jnp.ones((9,))
    y = jax.jit(PackedConv(9).apply)({"params": {"w_bits": w_bits, "scale": ones}}, x)
    expected = jax.lax.conv_general_dilated(
        x,
        jnp.where(kernel > 0, jnp.float32(1), jnp.float32(-1)),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_array_equal(y, expected)
    x_bits = np.asarray(pack_weights(jnp.moveaxis(x, 3, 2)))  # channels on the second last axis
    x_bits = np.moveaxis(x_bits, 2, 3)
    np.testing.assert_array_equal(y, packed_conv_reference(x_bits, np.asarray(w_bits), channels))


@pytest.mark.parametrize("form", ["_by_int8", "_by_bits"])
def test_both_forms_are_the_same_integers(form):
    """The form for GPU and TPU runs on CPU, too."""
    from binsr_jax.nn import packed

    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.choice([-1.0, 1.0], (2, 4, 7, 33)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 33, 5)), jnp.float32)
    signs = jnp.where(kernel > 0, jnp.int8(1), jnp.int8(-1))
    expected = SignConv(5).apply({"params": {"signs": signs, "scale": jnp.ones((5,))}}, x)
    np.testing.assert_array_equal(getattr(packed, form)(x, pack_weights(kernel)), expected)


CASES = [
    (name, attention)
    for name in UNITS
    for attention in (["none", *ATTENTION] if name == "attention" else ["global"])
]


def both_forms(module, options, x, **fields):
    """A module and its packed form, each with its variables, which are random near their start."""
    floats, packed = (
        with_conv(module, partial(conv, **options), **fields) for conv in (BinaryConv, PackedConv)
    )
    variables = random_variables(floats, x)
    _, folded = jax.jit(partial(floats.apply, mutable=[FOLDED]))(variables, x)
    params = {**flatten_dict(variables["params"]), **flatten_dict(folded.get(FOLDED, {}))}
    wanted = flatten_dict(jax.eval_shape(packed.init, jax.random.key(0), x)["params"])
    params = {"params": unflatten_dict({name: params[name] for name in wanted})}
    return (floats, variables), (packed, params)


@pytest.mark.parametrize(
    ("name", "attention", "weight_scale", "use_bias"),
    [
        *((*case, "mean", False) for case in CASES),
        *(("bbcu", "none", scale, bias) for scale in WEIGHT_SCALES for bias in (False, True)),
    ],
)
def test_every_unit_is_equal_when_packed(name, attention, weight_scale, use_bias):
    attentions = {"residual_attention": attention, "binary_attention": attention}
    options = {"use_bias": use_bias, "weight_scale": weight_scale}
    # The last word is only partly used.
    x = 30 * jax.random.normal(jax.random.key(2), (2, 9, 7, 5 if use_bias else 33))
    expected, y = (
        jax.jit(unit.apply)(variables, x)
        for unit, variables in both_forms(UNITS[name], options, x, **attentions)
    )
    assert_equal_but_for_contraction(y, expected, 100.0)


@pytest.mark.parametrize("scale", [2, 3])
def test_the_upsampler_is_equal_when_packed(scale):
    x = jax.random.normal(jax.random.key(4), (1, 5, 6, 12))
    (floats, variables), (packed, params) = both_forms(partial(BinaryUpsampler, scale), {}, x)
    y = jax.jit(packed.apply)(params, x)
    assert_equal_but_for_contraction(y, jax.jit(floats.apply)(variables, x))
    by_hand = packed_by_hand(variables["params"])
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), params["params"], by_hand)


def test_normalisation_is_folded():
    rng = np.random.default_rng(5)
    x = jnp.asarray(rng.choice([-1.0, 1.0], (2, 5, 4, 7)), jnp.float32)
    for use_bias in (False, True):
        conv = BinaryConv(6, use_bias=use_bias, norm=True)
        variables = random_variables(conv, x)
        y, updates = jax.jit(partial(conv.apply, mutable=[FOLDED]))(variables, x)
        folded: Any = updates[FOLDED]
        params, statistics = variables["params"], variables["batch_stats"]["norm"]
        alpha = np.abs(params["kernel"]).mean((0, 1, 2))
        factor = params["norm"]["scale"] / np.sqrt(statistics["var"] + 1e-5)
        bias = params["bias"] if use_bias else 0
        expected = factor * (bias - statistics["mean"]) + params["norm"]["bias"]
        np.testing.assert_allclose(folded["scale"], alpha * factor, rtol=1e-5)
        np.testing.assert_allclose(folded["bias"], expected, rtol=1e-5, atol=1e-6)
        packed = PackedConv(6, use_bias=use_bias, norm=True)
        z: Any = packed.apply({"params": folded}, x)
        np.testing.assert_allclose(z, y, rtol=1e-5, atol=1e-5)
