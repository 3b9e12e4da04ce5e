"""Muon against the singular value decomposition, and Nesterov's Adam against its formula."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from binsr_jax.training.state import discriminator_settings, make_optimizer, orthogonal_axes

RATE, SIZE = 1e-3, 0.5


def _first_update(config, gradients) -> Any:
    optimizer = make_optimizer(config.train)
    params = jax.tree.map(jnp.zeros_like, gradients)
    with jax.numpy_dtype_promotion("standard"):
        return optimizer.update(gradients, optimizer.init(params), params)[0]


def _muon(tiny, **fields):
    return tiny(
        **{
            "train.optimizer": "muon",
            "train.learning_rate": RATE,
            "train.muon_rate": SIZE,
            **fields,
        }
    )


def test_large_kernels_are_named():
    shapes = {
        "binary": (3, 3, 64, 64),
        "upsampler": (3, 3, 16, 64),
        "head": (3, 3, 3, 64),
        "tail": (3, 3, 64, 3),
        "map": (1, 1, 64, 1),
        "bias": (64,),
        "factor": (),
    }
    axes = orthogonal_axes({name: jnp.zeros(shape) for name, shape in shapes.items()})
    assert {name for name, own in axes.items() if own is not None} == {"binary", "upsampler"}
    assert axes["binary"].reduction_axis == (0, 1, 2)
    assert axes["binary"].output_axis == 3


def test_the_update_of_a_kernel_is_nearly_orthogonal(tiny):
    rng = np.random.default_rng(0)
    # Singular values from 1 to 10: the update of Adam or SGD would keep such a spread.
    u = np.linalg.qr(rng.normal(size=(9 * 16, 32)))[0]
    v = np.linalg.qr(rng.normal(size=(32, 32)))[0]
    gradient = (u * np.geomspace(1, 10, 32)) @ v.T
    kernel = jnp.asarray(gradient.reshape(3, 3, 16, 32), jnp.float32)
    update = np.asarray(_first_update(_muon(tiny), {"kernel": kernel})["kernel"], np.float64)
    values = u.T @ (update.reshape(-1, 32) / -(RATE * SIZE * np.sqrt(9 * 16))) @ v
    # The iteration's coefficients bring singular values between about 0.7 and 1.2.
    assert 0.65 < np.diag(values).min() < np.diag(values).max() < 1.25
    assert np.abs(values - np.diag(np.diag(values))).max() < 1e-4


def test_a_kernel_without_gradient_stays(tiny):
    zeros = {"kernel": jnp.zeros((3, 3, 16, 16), jnp.float32)}
    assert not np.asarray(_first_update(_muon(tiny), zeros)["kernel"]).any()


def test_other_parameters_follow_adam_with_nesterovs_momentum(tiny):
    gradient = np.array([3.0, -0.5, 1e-3], np.float32)
    config = _muon(tiny, **{"train.beta1": 0.9, "train.beta2": 0.99, "train.epsilon": 1e-8})
    update = _first_update(config, {"bias": jnp.asarray(gradient)})["bias"]
    # Dozat's first step: b1 m / (1 - b1^2) + (1 - b1) g / (1 - b1), with m = (1 - b1) g.
    mean = 0.9 * 0.1 * gradient / (1 - 0.9**2) + gradient
    np.testing.assert_allclose(update, -RATE * mean / (np.abs(gradient) + 1e-8), rtol=1e-5)


def test_gradients_are_clipped_before_muon(tiny):
    gradients = {"bias": jnp.asarray([3.0, 4.0])}
    states = {}
    with jax.numpy_dtype_promotion("standard"):
        for norm in (0.0, 1.0):
            optimizer = make_optimizer(_muon(tiny, **{"train.clip_norm": norm}).train)
            states[norm] = optimizer.update(gradients, optimizer.init(gradients), gradients)[1]
    # The first two arrays of that shape are Adam's moments.
    first, second = zip(
        *(
            [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (2,)]
            for state in states.values()
        ),
        strict=True,
    )
    np.testing.assert_allclose(first[1], first[0] / 5, rtol=1e-6)
    np.testing.assert_allclose(second[1], second[0] / 25, rtol=1e-6)


def test_the_discriminator_is_left_to_adam(tiny):
    assert discriminator_settings(_muon(tiny)).optimizer == "adam"
