"""A chain of units in one native call, beside the same units one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native_forms import FORMS, needs_each, needs_native
from test_native import residuals

from binsr_jax.ops.branch import Branch, can_chain, packed_branch, packed_chain
from binsr_jax.ops.native import choose
from binsr_jax.ops.packed import pack_weights

pytestmark = needs_native


@pytest.fixture(autouse=True)
def _chooses_anew():
    yield
    choose.chosen_form.cache_clear()


def make_chain(seed, channels, units, kernel, kind) -> list[Branch]:
    rng = np.random.default_rng(seed)

    def vector(n, size=1.0):
        return jnp.asarray(rng.normal(size=n) * size, jnp.float32)

    return [
        Branch(
            threshold=vector(channels),
            w_bits=pack_weights(vector((*kernel, channels, channels))),
            weight_scale=vector(channels, 0.1),
            bias=vector(channels),
            shift_in=vector(channels),
            slope=vector(channels),
            shift_out=vector(channels),
            factor=vector(()),
            residual=residuals(channels)[kind],
        )
        for _ in range(units)
    ]


def assert_chained(form, x, branches):
    """The chain gives the bits of single units, with and without what is added at the end."""
    choose.load(form)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, "chosen_form", lambda: form)
        assert can_chain(x, branches)
        y = x
        for branch in branches:
            y = jax.jit(packed_branch)(y, branch)
        np.testing.assert_array_equal(jax.jit(packed_chain)(x, branches), y)
        skipped = jax.jit(lambda x, branches: packed_chain(x, branches, skip=True))(x, branches)
        np.testing.assert_array_equal(skipped, y + x)


@needs_each
@settings(max_examples=5, deadline=None)
@given(
    seed=st.integers(0, 99),
    batch=st.integers(1, 2),
    height=st.integers(1, 40),
    width=st.integers(1, 19),
    channels=st.sampled_from((3, 16, 33, 64, 80, 128)),
    units=st.integers(1, 4),
    kernel=st.sampled_from(((1, 1), (3, 3), (5, 5), (1, 3), (7, 1))),
    kind=st.sampled_from(("plain", "spatial")),
)
def test_any_chain_is_its_units(form, seed, batch, height, width, channels, units, kernel, kind):
    if form == "portable":
        height = min(height, 9)  # it is slow
    draw = np.random.default_rng(seed)
    x = jnp.asarray(draw.normal(size=(batch, height, width, channels)), jnp.float32)
    assert_chained(form, x, make_chain(seed, channels, units, kernel, kind))


@needs_each
def test_many_blocks_of_many_units(form):
    """More units than a group of the order has, and more blocks than are in flight."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 130, 9, 64)), jnp.float32)
    assert_chained(form, x, make_chain(1, 64, 20, (3, 3), "spatial"))


@needs_each
def test_a_chain_does_not_depend_on_who_takes_which_block(monkeypatch, form):
    choose.load(form)
    monkeypatch.setattr(choose, "chosen_form", lambda: form)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(1, 64, 33, 64)), jnp.float32)
    branches = make_chain(2, 64, 5, (3, 3), "spatial")
    run = jax.jit(packed_chain)
    first = run(x, branches)
    for _ in range(20):
        np.testing.assert_array_equal(run(x, branches), first)


@pytest.mark.parametrize("change", ["residual", "kernel", "outputs", "no residual", "xla"])
def test_what_is_no_chain(monkeypatch, change):
    monkeypatch.setattr(choose, "chosen_form", lambda: "xla" if change == "xla" else FORMS[0])
    x = jnp.zeros((1, 4, 4, 8))
    first, second = make_chain(0, 8, 2, (3, 3), "plain")
    if change == "residual":
        second = second._replace(residual=residuals(8)["spatial"])
    if change == "kernel":
        second = make_chain(0, 8, 1, (5, 5), "plain")[0]
    if change == "outputs":
        x = jnp.zeros((1, 4, 4, 16))
    if change == "no residual":
        first, second = first._replace(residual=None), second._replace(residual=None)
    assert not can_chain(x, [first, second])
