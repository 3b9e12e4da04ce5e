"""The engine in strips and pieces: the bits of the whole, and the memory that a piece takes."""

import jax.numpy as jnp
import numpy as np
import pytest
from test_engine import picture

from binsr_jax.deploy.engine import Engine, in_strips
from binsr_jax.ops.conv import conv2d


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
