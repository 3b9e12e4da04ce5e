"""The discriminator of adversarial training: its state, its losses and its update."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from binsr_jax.config import Config
from binsr_jax.models.discriminators import DISCRIMINATORS, SPECTRAL

# Maps the logits of real images and of generated ones to a scalar.
GanLoss = Callable[[jax.Array, jax.Array], jax.Array]


@struct.dataclass
class Adversary:
    """The state of a discriminator.

    Attributes:
        params: Its parameters.
        collections: Its other variables by name: the vectors of spectral normalisation.
        opt_state: The state of its optimiser.
    """

    params: Any
    collections: dict[str, Any]
    opt_state: optax.OptState


def create_adversary(
    config: Config, optimizer: optax.GradientTransformation, key: jax.Array
) -> Adversary:
    """The discriminator of ``config.train`` before the first step."""
    model = DISCRIMINATORS[config.train.discriminator](config.train.discriminator_features)
    image = jnp.zeros((1, config.data.patch, config.data.patch, 3), jnp.float32)
    variables = dict(model.init(key, image))
    params = variables.pop("params")
    return Adversary(params, variables, optimizer.init(params))


def _cross_entropy(logits: jax.Array, real: bool) -> jax.Array:
    return jnp.mean(jax.nn.softplus(-logits if real else logits))


def _vanilla(real: jax.Array, made: jax.Array) -> jax.Array:
    return _cross_entropy(real, True) + _cross_entropy(made, False)


def _vanilla_generator(real: jax.Array, made: jax.Array) -> jax.Array:
    del real
    return _cross_entropy(made, True)


def _relativistic(real: jax.Array, made: jax.Array) -> jax.Array:
    """Relativistic loss (Jolicoeur-Martineau, "The relativistic discriminator").

    Each logit is compared with the mean of the other kind.
    """
    more = _cross_entropy(real - made.mean(), True)
    return (more + _cross_entropy(made - real.mean(), False)) / 2


def _relativistic_generator(real: jax.Array, made: jax.Array) -> jax.Array:
    return _relativistic(made, real)


# The discriminator's loss and the generator's loss.
GAN_LOSSES: dict[str, tuple[GanLoss, GanLoss]] = {
    "vanilla": (_vanilla, _vanilla_generator),
    "relativistic": (_relativistic, _relativistic_generator),
}


def generator_loss(config: Config, state: Adversary, output: jax.Array, real: jax.Array) -> Any:
    """The adversarial loss of a generator's output; lower means that it looks more real.

    The discriminator is not changed.
    """
    model = DISCRIMINATORS[config.train.discriminator](config.train.discriminator_features)
    variables = {"params": state.params, **state.collections}
    logits: list[Any] = [model.apply(variables, x) for x in (jax.lax.stop_gradient(real), output)]
    return GAN_LOSSES[config.train.gan_loss][1](*logits)


def update_adversary(
    config: Config,
    optimizer: optax.GradientTransformation,
    state: Adversary,
    made: jax.Array,
    real: jax.Array,
) -> tuple[Adversary, jax.Array]:
    """Updates the discriminator once; returns its new state and its loss before the update."""
    model = DISCRIMINATORS[config.train.discriminator](config.train.discriminator_features)

    def loss_of(params: Any) -> tuple[jax.Array, dict[str, Any]]:
        variables = {"params": params, **state.collections}
        # The vectors are updated once per step, so both images see the same network.
        on_real, collections = model.apply(variables, real, mutable=[SPECTRAL])
        on_made: Any = model.apply(variables, jax.lax.stop_gradient(made))
        return GAN_LOSSES[config.train.gan_loss][0](on_real, on_made), dict(collections)

    (loss, collections), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    with jax.numpy_dtype_promotion("standard"):  # Optax mixes integers and floats
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return Adversary(params, collections, opt_state), loss
