"""The steps that docs/architecture.md gives for a unit, an attention, a backbone, a task, a source.

Each test takes exactly those steps, and builds or reads what was added.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from binsr_jax import models
from binsr_jax.config import FIELDS, default
from binsr_jax.data import sources
from binsr_jax.data.cache import Undecoded
from binsr_jax.data.sources import SOURCES, open_source
from binsr_jax.fields import one_of
from binsr_jax.models import building
from binsr_jax.models.dncnn import DnCNN
from binsr_jax.nn.attention import ATTENTION
from binsr_jax.nn.packed import PackedConv
from binsr_jax.nn.units import UNITS
from binsr_jax.nn.units.base import BinaryUnit
from binsr_jax.tasks import TASKS, Task, task_of


class Halved(BinaryUnit):
    """``y = RPReLU(bconv(RSign(x))) / 2 + x``."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress=0.0) -> jax.Array:
        return self._branch(x, train, progress) / 2 + x


class Constant(nn.Module):
    """The map 1/2 everywhere."""

    bare: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, progress=0.0) -> jax.Array:
        half = jnp.full((1, 1, 1, 1), 0.5, x.dtype)
        return half if self.bare else half * x


@pytest.fixture
def allow(monkeypatch):
    """Adds a choice to a field, as a name in ``binsr_jax/settings.py`` does."""

    def add(field: str, choice: str) -> None:
        rule = FIELDS[field].rule
        assert rule is not None
        changed = dataclasses.replace(FIELDS[field], rule=one_of(*rule.choices, choice))
        for fields in (FIELDS, building._FIELDS):
            if field in fields:
                monkeypatch.setitem(fields, field, changed)

    return add


def small(**fields):
    config = default()
    config.model.update({"features": 4, "blocks": 1, **fields})
    return config


@pytest.mark.parametrize("packed", [False, True])
def test_a_unit(monkeypatch, allow, packed):
    allow("model.unit", "halved")
    monkeypatch.setitem(UNITS, "halved", Halved)
    conv = {"conv": PackedConv} if packed else {}
    params = models.shapes(small(unit="halved"), **conv)["params"]
    leaf = "w_bits" if packed else "kernel"
    assert leaf in params["body_0"]["conv"]


def test_an_attention(monkeypatch, allow):
    allow("model.residual_attention", "constant")
    monkeypatch.setitem(ATTENTION, "constant", Constant)
    config = small(residual_attention="constant")
    network: Any = models.build(config)
    image = jnp.ones((1, 3, 3, 3))
    variables = jax.jit(network.init)(jax.random.key(0), image)
    # A branch scale starts at 2 where there is an attention: with 1/2 it has no effect.
    plain: Any = models.build(small())
    expected, _ = jax.jit(plain.init_with_output)(jax.random.key(0), image)
    y = jax.jit(network.apply)(variables, image)
    np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_a_backbone(monkeypatch, allow):
    class Doubled(DnCNN):
        """DnCNN with everything that it takes off taken off twice."""

        def reconstruct(self, features, x, progress=0.0):
            return 2 * super().reconstruct(features, x, progress) - x

    def doubled(config, scale, channels, conv):
        del scale
        frame = building._frame(config, 1, conv, config.blocks)
        head = building._head(config, conv, config.amplification / 2)
        return Doubled(**frame, head=head, tail=building._tail(config, conv, channels, "uniform"))

    allow("model.name", "doubled")
    monkeypatch.setitem(models.MODELS, "doubled", doubled)
    config = small(name="doubled")
    config.task, config.scale = "denoise", 1
    assert isinstance(models.build(config), Doubled)
    names = flatten_dict(models.shapes(config)["params"])
    assert ("body_0", "conv", "kernel") in names


def test_a_task(monkeypatch, allow):
    def threefold(config):
        return Task("SR x3 of grey", 3, 1, border=3, luma=False, sets=("Set5",))

    allow("task", "threefold")
    monkeypatch.setitem(TASKS, "threefold", threefold)
    config = small()
    config.task, config.scale = "threefold", 3
    assert task_of(config).protocol == "Y, border 3"
    y = jax.eval_shape(
        lambda x: models.build(config).init_with_output(jax.random.key(0), x)[0],
        jax.ShapeDtypeStruct((1, 5, 4, 1), jnp.float32),
    )
    assert y.shape == (1, 15, 12, 1)


def test_a_data_source(monkeypatch, allow, tmp_path):
    def ramps(config, split):
        count = 2 if split == "train" else 1
        lq = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(8, 8, 3)
        hq = lq.repeat(config.scale, 0).repeat(config.scale, 1)
        names = tuple(f"{split}-{i}" for i in range(count))
        return Undecoded("ramps", [split], config.scale, names, lambda i: (lq, hq))

    allow("data.source", "ramps")
    monkeypatch.setitem(sources.SOURCES, "ramps", ramps)
    assert SOURCES["ramps"] is ramps
    config = small()
    config.data.source, config.data.cache_dir = "ramps", str(tmp_path)
    source = open_source(config, "train")
    assert len(source) == 2
    assert source[0][1].shape == (16, 16, 3)
