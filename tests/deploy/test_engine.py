"""The engine against the network it packs."""

import itertools

import jax
import numpy as np
import pytest

from binsr_jax import models
from binsr_jax.deploy import engine as engine_module
from binsr_jax.deploy.engine import Engine, _reconstruct

ATTENTIONS = list(itertools.product(("none", "se", "spatial", "pixel"), repeat=2))


def picture(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).random((height, width, channels), np.float32)


@pytest.mark.parametrize(("residual", "binary"), ATTENTIONS)
def test_packed_equals_float(make_config, make_variables, make_model, residual, binary):
    fields = {"residual_attention": residual, "binary_attention": binary}
    config = make_config(2, **fields)
    variables = make_variables(config)
    x = picture(9, 14)
    network = models.build(config)
    expected = jax.jit(network.apply)(variables, x[None])[0]
    model = make_model(**fields)
    y = Engine(model).run(x)
    # Integers are equal; scales and sums are rounded in whatever order XLA fuses them.
    np.testing.assert_allclose(y, expected, atol=1e-4)
    np.testing.assert_allclose(Engine(model, "float").run(x), y, atol=1e-4)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("image_skip", ["none", "bilinear"])
def test_every_scale_and_size(engine, scale, image_skip):
    fields = {"scale": scale, "image_skip": image_skip}
    packed, floats = engine(**fields), engine(**fields, arithmetic="float")
    assert (packed.scale, packed.channels) == (scale, 3)
    for shape in ((1, 1), (1, 7), (5, 1), (13, 6)):
        x = picture(*shape)
        y = packed.run(x)
        assert y.shape == (scale * shape[0], scale * shape[1], 3)
        assert y.dtype == np.float32
        np.testing.assert_allclose(y, floats.run(x), atol=1e-4, err_msg=str(shape))


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
