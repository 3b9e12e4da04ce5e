"""Units against the reference arrays and their formulas, and the contract of all units."""

import dataclasses
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
from binsr_jax.nn.units import UNITS
from binsr_jax.nn.units.attention import AttentionUnit
from binsr_jax.nn.units.bbcu import BBCU
from binsr_jax.nn.upsamplers import BinaryUpsampler
from binsr_jax.ops.binarize import binarize_libra, binarize_mean, binary_conv
from binsr_jax.ops.conv import conv2d

KINDS_IN_TURN = ("se", "pixel", "global", "spatial")
KINDS = {"se": "se", "spat": "spatial", "pix": "pixel", "pixel": "pixel", "spatial": "spatial"}


def by_case(arrays):
    """The arrays of a file as ``{case: {name: array}}``."""
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
    """Compares the output and all gradients.

    ``prefix`` is the unit's place in PyTorch's names, and ``part`` its place in ours.
    """
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
    """Asserts equality to 1e-5 of the largest element, since float32 sums differ in their order."""
    scale = float(np.abs(reference).max())
    np.testing.assert_allclose(ours, reference, rtol=1e-4, atol=1e-5 * scale + 1e-9, err_msg=name)


class RepeatingUnit(nn.Module):
    """The reference's BinaryConv2dV2, whose skip repeats all channels and appends the first one."""

    features: int

    @nn.compact
    def __call__(self, x):
        y = RPReLU(name="rprelu")(BinaryConv(self.features, name="conv")(RSign(name="rsign")(x)))
        skip = jnp.repeat(x, self.features // x.shape[-1], axis=-1)
        return y + jnp.concatenate([skip, x[..., :1]], -1)


class Block(nn.Module):
    """The reference's BinaryBlock: two units in a row, named like the first two of a body."""

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


NAMED: dict[str, Any] = dict(UNITS)


def has_attention(unit) -> bool:
    return "binary_attention" in {field.name for field in dataclasses.fields(unit)}


ALL_UNITS = [
    *(pytest.param(unit, id=name) for name, unit in NAMED.items()),
    pytest.param(partial(NAMED["bam"], length=3), id="bam of three"),
    *(
        pytest.param(
            partial(unit, residual_attention=one, binary_attention=other), id=f"{name}-{one}"
        )
        for i, (name, unit) in enumerate(NAMED.items())
        if has_attention(unit) and name != "base"
        for one, other in [(KINDS_IN_TURN[i % 4], KINDS_IN_TURN[(i + 1) % 4])]
    ),
]


@pytest.mark.parametrize("unit", ALL_UNITS)
def test_every_unit_keeps_the_contract(unit):
    """Shape and dtype stay, gradients are finite and reach every parameter, statistics change."""
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 6))
    variables = dict(jax.jit(unit().init)(jax.random.key(1), x))
    # Parameters away from their start, where some gradients are zero by design.
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: p + np.float32(0.1 * rng.normal(size=p.shape)), variables.pop("params")
    )

    def loss(params, x):
        inputs = {"params": params, **variables}
        y, updated = unit().apply(inputs, x, True, jnp.float32(0.5), mutable=list(variables))
        assert y.shape == x.shape
        assert y.dtype == x.dtype
        return jnp.sum(y**2), updated

    (dparams, dx), updated = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, x)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves((dparams, dx, updated)))
    gradients: dict[str, Any] = flatten_dict(dparams, sep="/")
    assert not [name for name, gradient in gradients.items() if not np.any(gradient)]
    for old, new in zip(jax.tree.leaves(variables), jax.tree.leaves(updated), strict=True):
        assert not np.array_equal(old, new)


@pytest.mark.parametrize("unit", NAMED.values(), ids=NAMED)
def test_every_unit_takes_one_pixel_of_one_channel(unit):
    x = jnp.full((1, 1, 1, 1), 0.7)
    y, variables = jax.jit(unit().init_with_output)(jax.random.key(0), x)
    assert y.shape == x.shape
    assert np.isfinite(y).all()
    train = partial(unit().apply, train=True, mutable=list(variables))
    y, _ = jax.jit(train)(variables, x, progress=jnp.float32(1))
    assert np.isfinite(y).all()


def init_and_apply(unit, x):
    variables = jax.jit(unit.init)(jax.random.key(1), x)
    return variables, jax.jit(unit.apply)(variables, x)


X = jax.random.normal(jax.random.key(0), (2, 5, 4, 6))


@pytest.mark.parametrize("binary", ["none", *ATTENTION])
@pytest.mark.parametrize("residual", ["none", *ATTENTION])
def test_attention_starts_without_effect(residual, binary):
    """Every branch starts with gain 1, so a unit with attention starts equal to one without."""
    variables, y = init_and_apply(attention_unit(residual, binary), X)
    plain = {"params": {k: variables["params"][k] for k in ("rsign", "conv", "rprelu")}}
    np.testing.assert_allclose(y, jax.jit(BBCU().apply)(plain, X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", ["rescale_pre", "rescale_post", "single", "dual", "both"])
def test_the_later_forms_start_as_their_base(form):
    variables, base = init_and_apply(NAMED["base"](), X)
    for residual, binary in (("none", "none"), ("global", "spatial"), ("pixel", "se")):
        options = {"residual_attention": residual, "binary_attention": binary}
        started, y = init_and_apply(NAMED[form](**options), X)
        params = {name: started["params"][name] for name in variables["params"]}
        jax.tree.map(np.testing.assert_array_equal, params, variables["params"])
        np.testing.assert_allclose(y, base, rtol=1e-5, atol=1e-6)


def by_hand(name, z, x, m, n):
    """The later forms in numpy.

    z is the scaled and shifted convolution; m is the map of the residual branch, n of the binary.
    """

    def activate(z):
        return np.where(z > 0.1, z - 0.1, 0.3 * (z - 0.1)) + 0.2

    if name == "rescale_pre":
        return activate(2 * n(x) * z) + x
    if name == "rescale_post":
        return 2 * n(x) * activate(z) + x
    branch = activate(z)
    if name == "both":
        return 2 * n(branch) * branch + 2 * m(x) * x
    gain = 2 * m(x) if name == "dual" else 1
    return gain * 2 * n(branch) * branch + x


@pytest.mark.parametrize("name", ["rescale_pre", "rescale_post", "single", "dual", "both"])
def test_the_later_forms_by_hand(name):
    unit = NAMED[name](residual_attention="global", binary_attention="spatial")
    variables = jax.jit(unit.init)(jax.random.key(0), X)
    rng = np.random.default_rng(0)
    params: Any = jax.tree.map(
        lambda p: np.float32(p + rng.normal(size=p.shape)), variables["params"]
    )
    params["rprelu"] = {
        name: np.full(6, value, np.float32)
        for name, value in (("shift_in", 0.1), ("slope", 0.3), ("shift_out", 0.2))
    }

    def attention(branch, pooled):
        def of(x):
            layer = params[f"{branch}_attention"]["map"]
            x = x.mean((1, 2), keepdims=True) if pooled else x
            return 1 / (1 + np.exp(-(x @ layer["kernel"] + layer["bias"])))

        return of

    conv = binary_conv(jnp.where(X > 0, 1.0, -1.0), binarize_mean(params["conv"]["kernel"]))
    z = params["scale"] * np.asarray(conv) + params["shift"]
    maps = (
        attention("residual", True) if name in ("dual", "both") else None,
        attention("binary", False),
    )
    expected = by_hand(name, z, np.asarray(X), *maps)
    np.testing.assert_allclose(
        jax.jit(unit.apply)({"params": params}, X), expected, rtol=1e-4, atol=1e-5
    )


def normalised(y):
    """Batch normalisation with its initial parameters."""
    return (y - y.mean((0, 1, 2))) / np.sqrt(y.var((0, 1, 2)) + 1e-5)


def rprelu_at_start(y):
    return np.where(y > 0, y, 0.25 * y)


FORMULAS = {
    "bnn": lambda conv, x: normalised(conv),
    "bireal": lambda conv, x: normalised(conv) + x,
    "reactnet": lambda conv, x: rprelu_at_start(normalised(conv) + x),
    "bbcu_v2": lambda conv, x: rprelu_at_start(conv + x),
    "bbcu": lambda conv, x: rprelu_at_start(conv) + x,
    "irnet": lambda conv, x: np.clip(normalised(conv) + x, -1, 1),
    "btm": lambda conv, x: rprelu_at_start(conv) + x,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_units_by_their_formulas(name):
    unit = NAMED[name]()
    variables: Any = jax.jit(unit.init)(jax.random.key(0), X)
    binarize = binarize_libra if name == "irnet" else binarize_mean
    signs = jnp.where(X > 0, 1.0, -1.0)
    conv = np.asarray(conv2d(signs, binarize(variables["params"]["conv"]["kernel"])))
    y, updated = jax.jit(partial(unit.apply, train=True, mutable=["batch_stats"]))(variables, X)
    np.testing.assert_allclose(y, FORMULAS[name](conv, np.asarray(X)), rtol=1e-4, atol=1e-5)
    if updated:
        norm = updated["batch_stats"]["conv"]["norm"]
        np.testing.assert_allclose(norm["mean"], 0.1 * conv.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(norm["var"], 0.9 + 0.1 * conv.var((0, 1, 2)), rtol=1e-4)


def test_xavier_starts_btm():
    kernel = jax.jit(NAMED["btm"]().init)(jax.random.key(0), X)["params"]["conv"]["kernel"]
    bound = np.sqrt(6 / (2 * 9 * 6))
    assert 0.95 * bound < np.abs(kernel).max() <= bound


def test_bam_accumulates_what_came_before():
    unit = NAMED["bam"](length=3)
    params: Any = jax.jit(unit.init)(jax.random.key(0), X)["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: np.float32(p + 0.3 * rng.normal(size=p.shape)), params)
    history = [np.asarray(X)]
    for n in range(3):
        layer = params[f"layer_{n}"]
        s = sum(b * a for b, a in zip(layer["activations"]["kernel"], history, strict=True))
        k = sum(
            g * np.abs(a).mean(-1, keepdims=True)
            for g, a in zip(layer["scales"]["kernel"], history, strict=True)
        )
        signs = jnp.where(s > layer["rsign"]["threshold"], jnp.float32(1), jnp.float32(-1))
        conv = np.asarray(conv2d(signs, binarize_mean(layer["conv"]["kernel"])))
        history.append(k * conv + history[-1])
    y = jax.jit(unit.apply)({"params": params}, X)
    np.testing.assert_allclose(y, history[-1], rtol=1e-4, atol=1e-5)


def test_irnets_surrogate_follows_the_training():
    unit = NAMED["irnet"]()
    variables = jax.jit(unit.init)(jax.random.key(0), X)

    @jax.jit
    def gradient(progress):
        def loss(x):
            y, _ = unit.apply(variables, x, True, progress, mutable=["batch_stats"])
            return jnp.sum(jnp.square(y))

        return jax.grad(loss)(0.01 * X)

    early, late = gradient(0.0), gradient(1.0)
    assert np.abs(late - early).max() > 1e-3


def test_a_unit_of_unknown_attention_names_the_known():
    with pytest.raises(ValueError, match=r"sigmoidal.*none, se, spatial, pixel, global"):
        attention_unit("sigmoidal").init(jax.random.key(0), jnp.ones((1, 2, 2, 3)))
