"""Units against the reference arrays, and the contract that every unit keeps."""

import itertools
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from binsr_jax.models.torch_weights import from_torch
from binsr_jax.nn.attention import ATTENTION
from binsr_jax.nn.binary import BinaryConv, RPReLU, RSign
from binsr_jax.nn.units import BBCU, UNITS, AttentionUnit, BinaryUpsampler

KINDS = {"se": "se", "spat": "spatial", "pix": "pixel", "pixel": "pixel", "spatial": "spatial"}


def by_case(arrays):
    """The arrays of a file as {case: {name: array}}."""
    cases = {}
    for key, array in arrays.items():
        if "/" in key:
            case, name = key.split("/", 1)
            cases.setdefault(case, {})[name] = array
    return cases


def under(prefix, arrays):
    return {key[len(prefix) :]: value for key, value in arrays.items() if key.startswith(prefix)}


def nhwc(array):
    return jnp.asarray(array.transpose(0, 2, 3, 1))


def check_against_reference(module, arrays, prefix, part):
    """Output and all gradients; ``prefix`` and ``part`` are PyTorch's and our place of the unit."""
    x = nhwc(arrays["x"])
    template = jax.eval_shape(module.init, jax.random.key(0), x)["params"]

    path = part.split("/") if part else []

    def ours(kind):
        named = {prefix + name: array for name, array in under(kind, arrays).items()}
        tree = from_torch(named, reduce(lambda inner, name: {name: inner}, path[::-1], template))
        return reduce(lambda outer, name: outer[name], path, tree)

    params = jax.tree.map(jnp.asarray, ours("param/"))

    @jax.jit
    def output_and_gradients(params, x, upstream):
        y, vjp = jax.vjp(lambda params, x: module.apply({"params": params}, x), params, x)
        return y, *vjp(upstream)

    y, dparams, dx = output_and_gradients(params, x, nhwc(arrays["upstream"]))
    assert_close(y, nhwc(arrays["y"]))
    assert_close(dx, nhwc(arrays["grad_x"]))
    expected = flatten_dict(ours("grad/"))
    gradients = flatten_dict(dparams)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert_close(gradient, expected[name], str(name))


def assert_close(ours, reference, name=""):
    """Equal but for the order of float32 sums: 1e-5 of the largest element."""
    scale = float(np.abs(reference).max())
    np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-5 * scale + 1e-9, err_msg=name)


class RepeatingUnit(nn.Module):
    """The reference's BinaryConv2dV2: its skip repeats the channels, then the first one again."""

    features: int

    @nn.compact
    def __call__(self, x):
        y = RPReLU(name="rprelu")(BinaryConv(self.features, name="conv")(RSign(name="rsign")(x)))
        skip = jnp.repeat(x, self.features // x.shape[-1], axis=-1)
        return y + jnp.concatenate([skip, x[..., :1]], -1)


class Block(nn.Module):
    """The reference's BinaryBlock: two units in a row, the first two of a network's body."""

    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x):
        for i in range(2):
            x = BBCU(conv=self.conv, name=f"body_{i}")(x)
        return x


def attention_unit(residual: str, binary: str = "none", hidden: int = 4) -> AttentionUnit:
    return AttentionUnit(
        residual_attention=residual, binary_attention=binary, attention_hidden=hidden
    )


def test_bbcu_blocks_equal_the_reference(reference):
    cases = by_case(reference("3_blocks"))
    assert cases
    for case, arrays in cases.items():
        weight = next(a for name, a in arrays.items() if name.endswith("binary_conv.weight"))
        bias = any(name.endswith("binary_conv.bias") for name in arrays)
        conv = partial(BinaryConv, kernel_size=weight.shape[-1], use_bias=bias)
        if case.startswith("up"):
            scale = arrays["y"].shape[-1] // arrays["x"].shape[-1]
            module, prefix, part = BinaryUpsampler(scale, conv=conv), "upconv.", "upsampler_0"
        elif case.startswith("block"):
            module, prefix, part = Block(conv), "body.0.", ""
        elif case.startswith("convV2"):
            module, prefix, part = RepeatingUnit(len(weight)), "conv_after_body.", "body_end"
        else:
            module, prefix, part = BBCU(conv=conv), "conv_after_body.", "body_end"
        check_against_reference(module, arrays, prefix, part)


def test_attention_units_equal_the_reference(reference):
    cases = by_case(reference("3b_attention_blocks"))
    assert cases
    for case, arrays in cases.items():
        hidden = next((len(a) for n, a in arrays.items() if n.endswith("fc1.weight")), 4)
        if case.startswith("attention_"):
            kind = KINDS[case.removeprefix("attention_")]
            module = ATTENTION[kind](**({"hidden": hidden} if kind == "se" else {}))
            prefix, part = "conv_after_body.resid_attn.", "body_end/residual_attention"
        else:
            words = case.split("_")
            kinds = {
                branch: KINDS[words[words.index(branch) + 1]] if branch in words else "none"
                for branch in ("res", "bin")
            }
            module = attention_unit(kinds["res"], kinds["bin"], hidden)
            prefix, part = "conv_after_body.", "body_end"
        check_against_reference(module, arrays, prefix, part)


ALL_UNITS = [pytest.param(unit(), id=name) for name, unit in UNITS.items()] + [
    pytest.param(attention_unit(residual, binary), id=f"attention-{residual}-{binary}")
    for residual, binary in itertools.product(("none", *ATTENTION), repeat=2)
]


@pytest.mark.parametrize("unit", ALL_UNITS)
def test_every_unit_keeps_the_contract(unit):
    check_contract(unit, (2, 5, 4, 6))


@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_every_unit_takes_one_pixel_of_one_channel(unit):
    check_contract(unit(), (1, 1, 1, 1))


def check_contract(unit, shape):
    """Same shape and type; gradients are finite and, with several channels, reach everything."""
    x = jax.random.normal(jax.random.key(0), shape)
    variables = jax.jit(unit.init)(jax.random.key(1), x)
    # Moved off their start, where some gradients are zero by design.
    params = jax.tree.map(
        lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), variables["params"]
    )

    def loss(params, x):
        y = unit.apply({"params": params}, x, True, jnp.float32(0.5))
        assert y.shape == x.shape
        assert y.dtype == x.dtype
        return jnp.sum(y**2)

    dparams, dx = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, x)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves((dparams, dx)))
    if shape[-1] > 1:
        gradients: dict[str, Any] = flatten_dict(dparams, sep="/")
        untouched = [name for name, gradient in gradients.items() if not np.any(gradient)]
        assert not untouched


@pytest.mark.parametrize("unit", [u for u in ALL_UNITS if isinstance(u.values[0], AttentionUnit)])
def test_attention_starts_without_effect(unit):
    """At the start every branch has gain 1: the unit with attention is the unit without."""
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 6))
    variables = jax.jit(unit.init)(jax.random.key(1), x)
    plain = {"params": {k: variables["params"][k] for k in ("rsign", "conv", "rprelu")}}
    expected = jax.jit(BBCU().apply)(plain, x)
    np.testing.assert_allclose(jax.jit(unit.apply)(variables, x), expected, rtol=1e-5, atol=1e-6)


def test_a_unit_of_unknown_attention_names_the_known():
    with pytest.raises(ValueError, match=r"sigmoidal.*none, se, spatial, pixel"):
        attention_unit("sigmoidal").init(jax.random.key(0), jnp.ones((1, 2, 2, 3)))
