"""The engine against the network it packs, whole and in pieces."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from binsr_jax import models
from binsr_jax.deploy import engine as engine_module
from binsr_jax.deploy.engine import Engine, _reconstruct, in_strips
from binsr_jax.deploy.loading import Arithmetic
from binsr_jax.deploy.pack import pack_params
from binsr_jax.ops.conv import conv2d

ATTENTIONS = list(itertools.product(("none", "se", "spatial", "pixel"), repeat=2))


def picture(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).random((height, width, channels), np.float32)


@pytest.fixture
def engine(make_model):
    def make(arithmetic: Arithmetic = "packed", **fields):
        return Engine(make_model(**fields), arithmetic)

    return make


@pytest.mark.little_optimised
@pytest.mark.parametrize(("residual", "binary"), ATTENTIONS)
def test_packed_equals_float(make_config, make_variables, make_model, residual, binary):
    fields = {"residual_attention": residual, "binary_attention": binary}
    config = make_config(2, **fields)
    variables = make_variables(config)
    x = picture(9, 14)
    network = models.build(config)
    expected = jax.jit(network.apply)(variables, x[None])[0]
    model = make_model(**fields)
    assert jax.tree.all(
        jax.tree.map(
            lambda a, b: bool((a == b).all()), model.params, pack_params(config, variables)
        )
    )
    y = Engine(model).run(x)
    # Integers are equal; scales and sums are rounded in whatever order XLA fuses them.
    np.testing.assert_allclose(y, expected, atol=1e-4)
    np.testing.assert_allclose(Engine(model, "float").run(x), y, atol=1e-4)


@pytest.mark.little_optimised
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("image_skip", ["none", "bilinear"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (13, 6)])
def test_every_scale_and_size(engine, scale, image_skip, shape):
    fields = {"scale": scale, "image_skip": image_skip}
    packed, floats = engine(**fields), engine(**fields, arithmetic="float")
    x = picture(*shape)
    y = packed.run(x)
    assert (packed.scale, packed.channels) == (scale, 3)
    assert y.shape == (scale * shape[0], scale * shape[1], 3)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, floats.run(x), atol=1e-4)


@pytest.mark.parametrize("scale", [2, 4])
def test_strips_equal_the_whole(make_model, monkeypatch, scale):
    model = make_model(scale=scale, image_skip="bilinear", features=8)
    x = picture(45, 11)
    whole = Engine(model).run(x)
    monkeypatch.setattr("binsr_jax.deploy.program._STRIP_BYTES", 0)
    for rows in (4, 8, 32):
        monkeypatch.setattr("binsr_jax.deploy.program._STRIP_ROWS", rows)
        np.testing.assert_array_equal(Engine(model).run(x), whole)


@pytest.mark.parametrize("height", [3, 6, 7, 12, 23])
def test_in_strips_of_two_inputs_of_two_widths(height):
    x, other = jnp.asarray(picture(height, 5)[None]), jnp.asarray(picture(height, 2)[None])
    kernel = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3, 3, 4)), jnp.float32)

    def f(x, other):
        return (
            jnp.repeat(conv2d(x, kernel), 2, 1)
            + jnp.repeat(other, 2, 1).sum((2, 3))[:, :, None, None]
        )

    np.testing.assert_allclose(in_strips(f, (x, other), 4, 1), f(x, other), atol=1e-5)


@pytest.mark.parametrize(
    ("residual", "binary"), [("none", "none"), ("spatial", "none"), ("spatial", "pixel")]
)
def test_a_pixel_has_one_value_in_every_tile(engine, residual, binary):
    network = engine(
        features=64, blocks=2, residual_attention=residual, binary_attention=binary, scale=2
    )
    x = picture(60, 70)
    whole, radius = network.run(x), network.radius
    for top, left, height, width in ((0, 0, 31, 40), (7, 13, 29, 37), (20, 1, 40, 69)):
        y = network.run(x[top : top + height, left : left + width])
        rows = slice(radius if top else 0, height - (radius if top + height < 60 else 0))
        columns = slice(radius if left else 0, width - (radius if left + width < 70 else 0))
        part = whole[2 * top : 2 * (top + height), 2 * left : 2 * (left + width)]
        kept = slice(2 * rows.start, 2 * rows.stop), slice(2 * columns.start, 2 * columns.stop)
        np.testing.assert_array_equal(y[kept], part[kept])


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_radius_is_what_the_network_looks_at(engine, scale):
    network = engine(scale=scale, blocks=2, features=8, image_skip="bilinear")
    assert network.radius in range(7, 11)  # head, four units, body end, upsampler and tail
    x = picture(1, 41)
    changed = x.copy()
    changed[:, 20] = 1 - changed[:, 20]
    moved = np.flatnonzero((network.run(x) != network.run(changed)).any((0, 2))) // scale
    assert moved.size
    assert np.abs(moved - 20).max() <= network.radius


@pytest.mark.parametrize("kind", ["residual_attention", "binary_attention"])
def test_pieces_use_the_means_of_the_whole(engine, kind):
    network = engine(**{kind: "se"}, features=16)
    assert network.global_pooling
    x = picture(40, 36)
    pooled = network.pooled_of(x)
    whole, radius = network.run(x), network.radius
    np.testing.assert_allclose(network.run(x, pooled), whole, atol=1e-5)
    piece = network.run(x[:, 10:], pooled)[:, 2 * radius :]
    np.testing.assert_array_equal(piece, network.run(x, pooled)[:, 2 * (10 + radius) :])
    assert np.abs(network.run(x[:, 10:])[:, 2 * radius :] - piece).max() > 0


def test_without_pooling_there_are_no_means(engine):
    network = engine(residual_attention="spatial")
    assert not network.global_pooling
    assert not network.pooled_of(picture(4, 4))


def test_a_shape_is_compiled_once(make_model, monkeypatch):
    traced = []

    def counted(*args, **kwargs):
        traced.append(args)
        return _reconstruct(*args, **kwargs)

    monkeypatch.setattr("binsr_jax.deploy.engine._reconstruct", counted)
    network = Engine(make_model())
    for seed in range(3):
        network.run(picture(6, 9, seed=seed))
    assert len(traced) == 1
    network.run(picture(9, 6))
    assert len(traced) == 2


@pytest.mark.parametrize(("unit", "maps"), [("bbcu", 6), ("bam", 2 * 8 + 2)])
def test_the_memory_of_a_tile_is_that_of_the_program(make_model, unit, maps):
    # A body of eight convolutions, all of whose feature maps the unit bam keeps.
    network = Engine(make_model(unit=unit, blocks=4, features=16))
    assert network.bytes_per_pixel == 4 * (16 * maps + 3 * (1 + 2**2))
    x = jnp.zeros((1, 64, 64, 3))
    used = network._extract.lower(network._params, None, x).compile().memory_analysis()
    assert used is not None
    taken = (used.temp_size_in_bytes + used.output_size_in_bytes) / x[0, ..., 0].size
    assert network.bytes_per_pixel / 4 < taken < network.bytes_per_pixel


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (np.zeros((4, 4, 1), np.float32), ValueError),
        (np.zeros((0, 4, 3), np.float32), ValueError),
        (np.zeros((4, 4, 3), np.uint8), TypeError),
    ],
)
def test_wrong_images(engine, image, error):
    with pytest.raises(error, match="image must be"):
        engine().run(image)


def test_programs_of_many_shapes_do_not_add_up(engine, monkeypatch):
    """A folder may hold pictures of any number of sizes, each of which is a program."""
    monkeypatch.setattr(engine_module, "_MOST_PROGRAMS", 2)
    packed = engine()
    first = packed.run(picture(4, 4))
    for side in (5, 6, 7):
        packed.run(picture(side, 4))
        assert packed._extract._cache_size() <= 2
    np.testing.assert_array_equal(packed.run(picture(4, 4)), first)
