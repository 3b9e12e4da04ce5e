"""Units with attention in one native call, beside double precision and beside each other."""

import itertools
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from native_forms import needs_each, needs_native

from binsr_jax.nn.attention import ATTENTION, POOLED
from binsr_jax.nn.fence import chain
from binsr_jax.nn.packed import PackedConv
from binsr_jax.nn.units.attention import AttentionUnit
from binsr_jax.ops.attended import ARRAYS, Attended, attended_chain, can_chain_attended
from binsr_jax.ops.branch import Branch, PlainResidual
from binsr_jax.ops.native import choose, direct
from binsr_jax.ops.packed import pack_signs, pack_weights, packed_conv_reference

pytestmark = needs_native
KINDS = tuple(ARRAYS)
PAIRS = tuple(itertools.product(KINDS, repeat=2))


@pytest.fixture(autouse=True)
def _chooses_anew():
    yield
    choose.chosen_form.cache_clear()


def make_units(seed, channels, count, kinds, kernel=(3, 3)) -> list[Attended]:
    rng = np.random.default_rng(seed)

    def draw(*shape, size=1.0):
        return jnp.asarray(rng.normal(size=shape) * size, jnp.float32)

    def numbers(kind):
        if kind == "se":
            return [draw(4), draw(channels, 4), draw(channels), draw(4, channels)]
        outputs = {"none": 0, "spatial": 1}.get(kind, channels)
        shapes = [(outputs,), (channels, outputs)] if outputs else []
        return [draw(*shape, size=channels**-0.5) for shape in shapes]

    return [
        Attended(
            Branch(
                threshold=draw(channels),
                w_bits=pack_weights(draw(*kernel, channels, channels)),
                weight_scale=draw(channels, size=0.1),
                bias=draw(channels),
                shift_in=draw(channels),
                slope=draw(channels),
                shift_out=draw(channels),
                factor=draw(),
                residual=PlainResidual(draw()),
            ),
            numbers(kinds[0]),
            numbers(kinds[1]),
            kinds,
        )
        for _ in range(count)
    ]


def image(seed, batch, height, width, channels):
    draw = np.random.default_rng(seed).normal(size=(batch, height, width, channels))
    return jnp.asarray(draw, jnp.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_map(kind, numbers, x):
    """The map of an attention, as ``nn.attention`` defines it."""
    if kind == "none":
        return 1
    mean = x.mean((1, 2), keepdims=True)
    numbers = [np.asarray(a, np.float64) for a in numbers]
    if kind == "se":
        b, w, c, v = numbers
        return sigmoid(np.maximum(mean @ w + b, 0) @ v + c)
    b, w = numbers
    return sigmoid((mean if kind == "global" else x) @ w + b)


def numpy_unit(x, unit):
    """A unit in double precision; the signs are those of x."""
    branch, (binary, residual) = unit.branch, unit.kinds
    bits = np.asarray(pack_signs(x > branch.threshold))
    dot = packed_conv_reference(bits, np.asarray(branch.w_bits), x.shape[-1]).astype(np.float64)
    b = jax.tree.map(lambda a: np.asarray(a, np.float64), branch)
    u = dot * b.weight_scale + b.bias - b.shift_in
    z = np.where(u > 0, u, u * b.slope) + b.shift_out
    x = np.asarray(x, np.float64)
    y = b.factor * numpy_map(binary, unit.binary, z) * z
    return y + b.residual.factor * numpy_map(residual, unit.residual, x) * x


def arrays_of(x, units, means=None):
    """The arrays that the kernel takes."""
    taken = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("binsr_jax.ops.native.call.packed_attended", lambda *own: taken.extend(own))
        attended_chain(x, units, means)
    return [np.asarray(array) for array in taken[:7]]


def run(form, x, units, means=None, skip=False):
    """``attended_chain`` in a form, without XLA, which would compile it for every shape."""
    kinds, count = units[0].kinds, sum(units[0].pooling)
    attributes = {"binary": kinds[0], "residual": kinds[1], "skip": skip}
    made = np.empty(x.shape, np.float32)
    taken = np.empty((len(x), len(units), count, x.shape[-1]), np.float32)
    arrays = arrays_of(x, units, means)
    direct.call(form, "packed_attended", arrays, attributes, made, taken)
    return made, taken


@needs_each
@pytest.mark.parametrize("kinds", PAIRS)
def test_a_unit_is_that_of_numpy(form, kinds):
    for seed, size in enumerate([(1, 1, 1, 5), (2, 5, 7, 33), (1, 2, 51, 64), (2, 1, 13, 80)]):
        x, (unit,) = image(seed, *size), make_units(seed, size[-1], 1, kinds)
        y, _ = run(form, x, [unit])
        expected = numpy_unit(x, unit)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@needs_each
@pytest.mark.parametrize("kinds", PAIRS)
def test_a_chain_is_its_units(form, kinds):
    """To the last bit, with means that are given or computed, and with what is added at the end."""
    for seed, size in enumerate([(1, 1, 9, 16), (2, 21, 6, 64), (1, 70, 3, 40)]):
        kernel = ((3, 5), (1, 1), (3, 3))[seed]
        x, units = image(seed, *size), make_units(seed, size[-1], 3, kinds, kernel)
        y, each = x, []
        for unit in units:
            y, means = run(form, y, [unit])
            each.append(means)
        chained, means = run(form, x, units)
        np.testing.assert_array_equal(chained, y)
        np.testing.assert_array_equal(means, np.concatenate(each, 1))
        added, again = run(form, x, units, means if any(units[0].pooling) else None, skip=True)
        np.testing.assert_array_equal(added, y + x)
        np.testing.assert_array_equal(again, means)


@needs_each
@pytest.mark.parametrize("kinds", [("se", "spatial"), ("pixel", "pixel"), ("spatial", "global")])
def test_a_pixel_does_not_depend_on_the_image_around_it(form, kinds):
    """What tiles rest on: with the means of the whole, a piece has the very bits of the whole."""
    x, units = image(0, 1, 25, 66, 64), make_units(0, 64, 2, kinds)
    whole, means = run(form, x, units)
    for left, right in ((0, 13), (7, 62), (9, 66)):
        given = means if any(units[0].pooling) else None
        piece, _ = run(form, x[:, 5:20, left:right], units, given)
        inner = slice(left + 2, right - 2)
        np.testing.assert_array_equal(piece[:, 2:-2, 2:-2], whole[:, 7:18, inner])


@needs_each
@pytest.mark.parametrize("kinds", [("se", "none"), ("none", "pixel"), ("global", "se")])
def test_threads_make_no_difference(monkeypatch, form, kinds):
    x, units = image(1, 2, 40, 33, 64), make_units(1, 64, 4, kinds)
    expected = run(form, x, units)
    for threads in (1, 2, 3, 3, 3):
        monkeypatch.setattr(direct, "thread_count", lambda threads=threads: threads)
        for own, other in zip(run(form, x, units), expected, strict=True):
            np.testing.assert_array_equal(own, other)


def test_xla_calls_the_same_kernel():
    x, units = image(1, 2, 7, 5, 16), make_units(1, 16, 2, ("se", "pixel"))
    for own, other in zip(
        jax.jit(attended_chain)(x, units), run(choose.chosen_form(), x, units), strict=True
    ):
        np.testing.assert_array_equal(own, other)


def test_every_attention_has_its_numbers():
    assert set(ARRAYS) == {"none", *ATTENTION}


class Row(nn.Module):
    """Packed units in a row, by one native call or one by one."""

    kinds: tuple[str, str]
    natively: bool = True

    @nn.compact
    def __call__(self, x):
        binary, residual = self.kinds
        options = {"binary_attention": binary, "residual_attention": residual, "conv": PackedConv}
        units = [AttentionUnit(**options, name=f"body_{i}") for i in range(2)]
        if self.natively:
            return chain(units, x)
        for unit in units:
            x = unit(x)
        return x


@pytest.mark.parametrize("kinds", [("se", "none"), ("none", "se"), ("global", "global")])
def test_modules_take_and_give_the_same_means(kinds):
    x, native, slow = image(3, 2, 9, 8, 16), Row(kinds), Row(kinds, natively=False)
    params = native.init(jax.random.key(0), x)["params"]
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    drawn = [
        jnp.asarray(rng.integers(0, 1 << 32, leaf.shape, np.uint32))
        if leaf.dtype == jnp.uint32
        else leaf + jnp.asarray(0.1 * rng.normal(size=leaf.shape), jnp.float32)
        for leaf in leaves
    ]
    params = tree.unflatten(drawn)
    y, means = native.apply({"params": params}, x, mutable=[POOLED])
    expected, others = slow.apply({"params": params}, x, mutable=[POOLED])
    assert jax.tree.structure(means) == jax.tree.structure(others)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), means, others)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    given = {"params": params, POOLED: jax.tree.map(lambda mean: mean + 1, means[POOLED])}
    y, expected = np.asarray(native.apply(given, x)), np.asarray(slow.apply(given, x))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_what_is_no_chain():
    x = jnp.zeros((1, 4, 4, 8))
    first, second = make_units(0, 8, 2, ("se", "none"))
    (other,) = make_units(0, 8, 1, ("none", "se"))
    (larger,) = make_units(0, 8, 1, ("se", "none"), (5, 5))
    assert can_chain_attended(x, [first, second])
    assert not can_chain_attended(x, [first, other])
    assert not can_chain_attended(x, [first, larger])
    assert not can_chain_attended(jnp.zeros((1, 4, 4, 16)), [first, second])
