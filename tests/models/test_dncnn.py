"""DnCNN, float and binary, against the reference."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from official import (
    BINARY_DEBLOCKER,
    BINARY_DENOISER,
    DNCNN,
    Reference,
    check_network,
    model_config,
    parameters,
    shapes,
)

from binsr_jax.errors import UserError
from binsr_jax.models import network

OFFICIAL = {
    "4_denoise_": BINARY_DENOISER,
    "4_jpeg_": BINARY_DEBLOCKER,
    "4_dncnn_fp_": DNCNN,
}
# name: (kind, channels of the image)
COUNTED = {"denoise_colour": (BINARY_DENOISER, 3), "jpeg_grey": (BINARY_DEBLOCKER, 1)}


@pytest.mark.parametrize("pattern", OFFICIAL)
def test_networks_equal_the_reference(reference_dir, reference, pattern):
    names = [path.stem for path in reference_dir.glob(f"{pattern}*.npz")]
    assert names
    for name in names:
        check_network(Reference(reference(name), OFFICIAL[pattern]), name)


def test_parameter_counts_equal_the_official(reference_dir):
    counts = json.loads((reference_dir / "5_parameter_counts.json").read_text())
    for name, (fields, channels) in COUNTED.items():
        (count,) = [counts[key] for key in counts if key.startswith(name)]
        ours = shapes(model_config(**fields, blocks=18), 1, channels)
        assert parameters(ours) == count["all"], name


@pytest.mark.parametrize("fields", [DNCNN, BINARY_DENOISER, BINARY_DEBLOCKER])
@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 1, 1)])
def test_the_output_has_the_size_of_the_input(fields, shape):
    model = network(model_config(**fields, features=5, blocks=2), 1, channels=shape[-1])
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    y, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
    assert (y.shape, y.dtype) == (shape, jnp.float32)


def test_a_zero_tail_leaves_the_image_as_it_is():
    config = model_config(**BINARY_DENOISER, features=5, blocks=2)
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1), shapes(config, 1))
    params["tail"] = jax.tree.map(jnp.zeros_like, params["tail"])
    x = jax.random.uniform(jax.random.key(0), (1, 6, 6, 3))
    y = jax.jit(network(config, 1).apply)({"params": params}, x)
    np.testing.assert_array_equal(jnp.asarray(y), x)


def test_it_does_not_enlarge():
    with pytest.raises(UserError, match="keeps the size of an image, but the scale is 2"):
        network(model_config(**DNCNN), 2)


def test_blocks_that_are_no_whole_units_are_refused():
    with pytest.raises(UserError, match=r"blocks is 3, .* a multiple of 2"):
        network(model_config(**{**DNCNN, "unit": "residual"}, blocks=3), 1)
