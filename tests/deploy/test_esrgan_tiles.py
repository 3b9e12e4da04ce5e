"""RRDBNet and SRVGGNetCompact in model files and tiles: exact, or nearly so where it is said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from binsr_jax import models
from binsr_jax.config import default
from binsr_jax.deploy.engine import Engine
from binsr_jax.deploy.model_file import PackedModel, load_model_file, save_model
from binsr_jax.deploy.upscaler import Upscaler


def drawn(name, scale, **fields):
    """A model with drawn weights, whose output is an image."""
    config = default()
    config.task, config.scale = ("sr" if scale > 1 else "denoise"), scale
    config.model.update(name=name, features=8, blocks=1, growth=4, amplification=1.0, **fields)
    network, rng = models.network(config.model, scale), np.random.default_rng(0)
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), image)["params"]
    params = jax.tree.map(lambda s: rng.normal(0, 0.1, s.shape).astype(np.float32), shapes)
    params["tail"]["bias"] += 0.5
    return PackedModel(config, params, {}), network


CASES = [
    ("rrdbnet", 4, {}),
    ("rrdbnet", 2, {}),
    ("rrdbnet", 1, {}),
    ("rrdbnet", 2, {"unshuffle": False}),
    ("srvgg", 4, {"activation": "leaky_relu"}),
]


@pytest.mark.parametrize(("name", "scale", "fields"), CASES)
def test_tiles_give_what_the_whole_gives(name, scale, fields):
    model, network = drawn(name, scale, **fields)
    engine = Engine(model)
    # Such that there are several tiles, and sides are no multiples of the stride.
    height, width = (2 * engine.radius + 43, 2 * engine.radius + 22)
    image = np.random.default_rng(1).random((height, width, 3), np.float32)
    whole = engine.run(image)
    expected = jax.jit(network.apply)({"params": model.params}, image[None])[0]
    np.testing.assert_allclose(whole, expected, atol=1e-5)
    upscaler = Upscaler(engine)
    work = upscaler.plan(height, width, tile=24)
    assert len(work.tiles) > 1
    assert work.overlap == 0
    for tile in work.tiles:
        assert all(part.start % engine.stride == 0 for part in tile.seen)
    output = np.zeros((scale * height, scale * width, 3), np.float32)
    for piece in upscaler.run(image, work):
        output[piece.rows, piece.columns] = piece.pixels
    # Of 8 channels XLA may add products up in another order at another size.
    np.testing.assert_allclose(output, np.clip(whole, 0, 1), atol=2e-6)


def test_less_memory_than_exact_tiles_take_means_an_overlap():
    model, _ = drawn("rrdbnet", 1)
    engine = Engine(model)
    assert (engine.stride, engine.radius, engine.overlap) == (4, 76, 128)
    deep, _ = drawn("rrdbnet", 4)
    deep.config.model.blocks = 4
    deep_params = {f"body_{i}": deep.params["body_0"] for i in range(4)}
    engine = Engine(PackedModel(deep.config, {**deep.params, **deep_params}, {}))
    assert (engine.radius, engine.overlap) == (64, 32)
    exact = (2 * engine.radius + 1) ** 2
    upscaler = Upscaler(engine)
    per_pixel = upscaler._bytes_per_pixel
    few = Upscaler(engine, int(0.6 * exact * per_pixel))
    assert few.plan(95, 100).overlap == 0  # in one piece
    work = few.plan(140, 130)
    assert work.overlap == 32
    for tile in work.tiles:
        for seen, kept, side in zip(tile.seen, tile.kept, (140, 130), strict=True):
            assert kept.start - seen.start >= 32 or seen.start == 0
            assert seen.stop - kept.stop >= 32 or seen.stop == side
    assert Upscaler(engine, int(1.2 * exact * per_pixel)).plan(180, 160).overlap == 0
    image = np.random.default_rng(1).random((140, 130, 3), np.float32)
    output = np.zeros((560, 520, 3), np.float32)
    for piece in few.run(image, work):
        output[piece.rows, piece.columns] = piece.pixels
    np.testing.assert_allclose(output, np.clip(engine.run(image), 0, 1), atol=1e-3)


@pytest.mark.parametrize(("name", "scale", "fields"), CASES[-2:])
@pytest.mark.parametrize("floats", ["float32", "float16"])
def test_a_model_file_holds_it(tmp_path, name, scale, fields, floats):
    model, _ = drawn(name, scale, **fields)
    path = tmp_path / "net.binsr"
    save_model(path, PackedModel(model.config, model.params, {}, floats))
    read = load_model_file(path)
    assert read.config.model.to_dict() == model.config.model.to_dict()
    number = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    assert 0 < path.stat().st_size - number * (2 if floats == "float16" else 4) < 20_000
    for ours, kept in zip(*map(jax.tree.leaves, (model.params, read.params)), strict=True):
        np.testing.assert_array_equal(ours.astype(floats).astype(np.float32), kept)
