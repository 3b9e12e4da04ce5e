"""A fenced unit equals the unit: in parameters, values, gradients and updates."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from binsr_jax.nn.fence import chain, keep
from binsr_jax.nn.units import UNITS
from binsr_jax.nn.units.attention import AttentionUnit


class Scaled(nn.Module):
    """A unit that uses ``train`` and ``progress`` and keeps a running mean."""

    @nn.compact
    def __call__(self, x, train=False, progress=0.0):
        gain = self.param("gain", nn.initializers.constant(0.5), ())
        y = nn.BatchNorm(use_running_average=not train, momentum=0.5, name="norm")(x)
        self.sow("intermediates", "largest", jnp.max(jnp.abs(y)))
        return x + (gain + progress) * jnp.tanh(y)


class Chain(nn.Module):
    """Units in a row, each with its own progress; the last one may be of another kind."""

    unit: Callable[..., nn.Module]
    fenced: bool
    scan: bool = False
    last: type[nn.Module] | None = None

    @nn.compact
    def __call__(self, x, train=False, progress=0.0):
        units = [self.unit(name=f"body_{i}") for i in range(3)]
        units += [] if self.last is None else [self.last(name="last")]
        own = [progress * (i + 1) for i in range(len(units))]
        if self.fenced:
            return chain(units, x, train, own, self.scan)
        for unit, p in zip(units, own, strict=True):
            x = unit(x, train, p)
        return x


NAMED: dict[str, Any] = dict(UNITS)
ALL_UNITS = {
    **NAMED,
    "attention everywhere": partial(
        AttentionUnit, residual_attention="se", binary_attention="pixel"
    ),
    "rescaled": partial(NAMED["dual"], residual_attention="global", binary_attention="spatial"),
    "bam of two": partial(NAMED["bam"], length=2),
    "scaled": Scaled,
}


def _image(seed=0, batch=2):
    # Odd multiples of 1/64, so that no sign depends on the order of a sum.
    steps = np.random.default_rng(seed).integers(-64, 64, (batch, 5, 6, 8))
    return jnp.asarray((2 * steps + 1) / 64, jnp.float32)


def _variables(chain, x):
    """Variables near their start, at which every parameter has an effect."""
    variables = jax.jit(partial(chain.init, train=False))(jax.random.key(0), x, progress=0.0)
    params = jax.tree.map(
        lambda p: p + np.float32(0.1) * np.cos(np.arange(p.size, dtype=p.dtype)).reshape(p.shape),
        variables["params"],
    )
    return {**variables, "params": params}


def _loss_and_gradients(chain, variables, x, progress):
    def loss(params, x, progress):
        inputs = {**variables, "params": params}
        y, updates = chain.apply(inputs, x, train=True, progress=progress, mutable=["batch_stats"])
        return jnp.mean(y**2), updates

    return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(
        variables["params"], x, progress
    )


def _assert_close(a, b):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), a, b)


@pytest.mark.parametrize("unit", ALL_UNITS.values(), ids=ALL_UNITS)
def test_fence_changes_nothing(unit):
    x, progress = _image(), jnp.float32(0.3)
    plain, fenced = Chain(unit, False), Chain(unit, True)
    variables = _variables(plain, x)
    _assert_close(_variables(fenced, x), variables)
    y = jax.jit(fenced.apply)(variables, x)
    _assert_close(y, jax.jit(plain.apply)(variables, x))
    step = jax.jit(_loss_and_gradients, static_argnums=0)
    _assert_close(step(fenced, variables, x, progress), step(plain, variables, x, progress))


@pytest.mark.parametrize("unit", ["scaled", "attention everywhere"])
def test_a_loop_over_equal_units_changes_nothing(unit):
    x, progress = _image(), jnp.float32(0.3)
    plain, scanned = (Chain(ALL_UNITS[unit], f, f, last=UNITS["bbcu"]) for f in (False, True))
    variables = _variables(plain, x)
    _assert_close(_variables(scanned, x), variables)
    step = jax.jit(_loss_and_gradients, static_argnums=0)
    _assert_close(step(scanned, variables, x, progress), step(plain, variables, x, progress))
    loops = [
        sum(eqn.primitive.name == "scan" for eqn in jax.make_jaxpr(c.apply)(variables, x).eqns)
        for c in (plain, scanned)
    ]
    assert loops == [0, 1]


def test_fence_passes_on_what_is_sown():
    x = _image()
    variables = _variables(Chain(Scaled, False), x)
    _, plain = jax.jit(partial(Chain(Scaled, False).apply, mutable=["intermediates"]))(variables, x)
    for scan in (False, True):
        sown = partial(Chain(Scaled, True, scan).apply, mutable=["intermediates"])
        _, fenced = jax.jit(sown)(variables, x)
        _assert_close(fenced, plain)


def test_equal_units_share_one_function():
    x = _image()
    chain = Chain(UNITS["bbcu"], True)
    variables = _variables(chain, x)
    module = jax.jit(chain.apply).lower(variables, x).as_text()
    calls = [line for line in module.splitlines() if "func.call @" in line and "inlineable" in line]
    assert len(calls) == 3
    assert len({line.split("call @")[1].split("(")[0] for line in calls}) == 1


class Keeping(nn.Module):
    """A unit that calls ``run`` whenever it computes the value that it keeps."""

    run: Callable[[], None]

    @nn.compact
    def __call__(self, x, train=False, progress=0.0):
        def waves(x):
            self.run()
            return np.sin(x)

        gain = self.param("gain", nn.initializers.constant(0.5), ())
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        y = gain * x + jax.pure_callback(waves, shape, jax.lax.stop_gradient(x))
        return x + jnp.tanh(keep(self, "waves", y))


def test_what_a_unit_keeps_is_not_computed_again_for_its_gradient():
    x, runs = _image(), []
    chain = Chain(partial(Keeping, lambda: runs.append(1)), True)
    variables = _variables(chain, x)
    plain = _loss_and_gradients(Chain(chain.unit, False), variables, x, 0.0)
    runs.clear()
    step = jax.jit(partial(_loss_and_gradients, chain))
    _assert_close(step(variables, x, 0.0), plain)
    jax.effects_barrier()
    assert len(runs) == 3  # once per unit


def test_fence_over_a_mesh():
    x, progress = _image(batch=8), jnp.float32(0.0)
    chain = Chain(UNITS["bbcu"], True)
    variables = _variables(chain, x)
    expected = _loss_and_gradients(chain, variables, x, progress)
    mesh = jax.make_mesh((4,), ("data",))
    whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    step = jax.jit(partial(_loss_and_gradients, chain), in_shardings=(whole, split, whole))
    _assert_close(step(variables, x, progress), expected)


def test_fence_under_pmap():
    x, progress = _image(batch=8), jnp.float32(0.0)
    chain = Chain(UNITS["bbcu"], True)
    variables = _variables(chain, x)
    (loss, _), (gradients, _, _) = _loss_and_gradients(chain, variables, x, progress)
    step = jax.pmap(
        partial(_loss_and_gradients, chain), in_axes=(None, 0, None), devices=jax.devices()[:4]
    )
    (losses, _), (parts, _, _) = step(variables, x.reshape(4, 2, *x.shape[1:]), progress)
    _assert_close(jnp.mean(losses), loss)
    _assert_close(jax.tree.map(lambda part: part.mean(0), parts), gradients)
