"""The state of a run and the optimiser that updates it."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.extend.core import Literal, jaxpr_as_fun

from binsr_jax.config import Config, copy_of
from binsr_jax.settings import TrainConfig
from binsr_jax.tasks import task_of
from binsr_jax.training.adversary import Adversary, create_adversary

Params = Any  # the nested dict of arrays that Flax calls variables["params"]
_LARGE = 16  # channels, from which on a kernel is a matrix worth making orthogonal


@struct.dataclass
class TrainState:
    """Everything that a step reads and writes; a checkpoint stores exactly this.

    Attributes:
        step: int32 scalar, the number of updates.
        params: The network's parameters.
        collections: Its other variables by name, such as ``batch_stats``; often none.
        opt_state: Moments and counters of the optimiser.
        ema: Moving average of the parameters, or None if ``config.train.ema`` is 0.
        adversary: The discriminator, or None if ``config.train.gan_weight`` is 0.
    """

    step: jax.Array
    params: Params
    collections: dict[str, Any]
    opt_state: optax.OptState
    ema: Params | None
    adversary: Adversary | None = None

    @property
    def variables(self) -> dict[str, Any]:
        """The variables to score: averaged parameters if there are any, otherwise the raw ones."""
        return {"params": self.params if self.ema is None else self.ema, **self.collections}


def warmup_steps(train: TrainConfig) -> int:
    """Steps of warm-up: ``train.warmup``, but at most half of the run."""
    return min(train.warmup, train.steps // 2)


def _constant(train: TrainConfig, steps: int) -> optax.Schedule:
    del steps
    return optax.constant_schedule(train.learning_rate)


def _multistep(train: TrainConfig, steps: int) -> optax.Schedule:
    del steps
    # Milestones count from the first step, a joined schedule from the end of the warm-up.
    drops = {milestone - warmup_steps(train): train.decay for milestone in train.milestones}
    return optax.piecewise_constant_schedule(train.learning_rate, drops)


def _cosine(train: TrainConfig, steps: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(
        train.learning_rate, steps, alpha=train.final_rate / train.learning_rate
    )


SCHEDULES: dict[str, Callable[[TrainConfig, int], optax.Schedule]] = {
    "constant": _constant,
    "multistep": _multistep,
    "cosine": _cosine,
}


def learning_rate(train: TrainConfig) -> optax.Schedule:
    """The learning rate as a function of the step: a linear warm-up from 0, then a schedule.

    Args:
        train: ``config.train``; its ``schedule`` is a key of ``SCHEDULES``.
    """
    warmup = warmup_steps(train)
    schedule = SCHEDULES[train.schedule](train, train.steps - warmup)
    if not warmup:
        return schedule
    ramp = optax.linear_schedule(0.0, train.learning_rate, warmup)
    return optax.join_schedules([ramp, schedule], [warmup])


def make_optimizer(train: TrainConfig) -> optax.GradientTransformation:
    """The optimiser ``train.optimizer`` with the rate of ``learning_rate(train)``.

    ``"adam"`` is Adam (Kingma and Ba, 2015). ``"muon"`` is Muon (Jordan et al., 2024) for the
    kernels that ``orthogonal_axes`` names, and Adam with Nesterov's momentum for the rest.

    With ``train.clip_norm``, gradients with a larger global norm are first scaled down to it. The
    state does not depend on it, so a run can be continued with another ``clip_norm``.
    """
    inner = _OPTIMIZERS[train.optimizer](train)
    if not train.clip_norm:
        return inner
    clip = optax.clip_by_global_norm(train.clip_norm)

    def update(
        updates: optax.Updates, state: optax.OptState, params: Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        clipped, _ = clip.update(updates, optax.EmptyState(), params)
        return inner.update(clipped, state, params)

    return optax.GradientTransformation(inner.init, update)


def _adam(train: TrainConfig) -> optax.GradientTransformation:
    return optax.adam(learning_rate(train), b1=train.beta1, b2=train.beta2, eps=train.epsilon)


def _muon(train: TrainConfig) -> optax.GradientTransformation:
    """Muon: a kernel's update is the orthogonal matrix nearest to the mean of its gradients.

        W -= rate muon_rate sqrt(max(m, n)) U V^T,    U S V^T = the mean of the m x n gradients

    The matrix of a kernel has a row for each of the ``kh kw I`` inputs of an output. Five
    Newton-Schulz iterations approximate ``U V^T``; its singular values are then 0.7 to 1.2. The
    factor gives the update the root mean square ``rate muon_rate``, as in Liu et al., "Muon is
    Scalable for LLM Training".
    """
    return optax.contrib.muon(
        learning_rate(train),
        beta=train.muon_beta,
        adam_b1=train.beta1,
        adam_b2=train.beta2,
        eps=train.epsilon,
        muon_weight_dimension_numbers=orthogonal_axes,
        consistent_rms=train.muon_rate,
    )


_OPTIMIZERS: dict[str, Callable[[TrainConfig], optax.GradientTransformation]] = {
    "adam": _adam,
    "muon": _muon,
}


def orthogonal_axes(params: Params) -> Any:
    """Which parameters Muon updates: kernels ``[kh, kw, I, O]`` with I and O of at least 16.

    Args:
        params: A tree of arrays.

    Returns:
        The same tree with the kernels' axes of inputs (kh, kw, I) and of outputs (O), and None for
        parameters that Adam updates.
    """

    def axes(array: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
        if array.ndim != 4 or min(array.shape[2:]) < _LARGE:
            return None
        return optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)

    return jax.tree.map(axes, params)


def discriminator_settings(config: Config) -> TrainConfig:
    """``config.train`` with the discriminator's learning rate, for its optimiser, Adam."""
    own = copy_of(config).train
    own.learning_rate, own.optimizer = own.discriminator_rate, "adam"
    return own


def create_state(
    config: Config, model: nn.Module, optimizer: optax.GradientTransformation
) -> TrainState:
    """The state before the first step, as a function of ``config.seed`` alone.

    All leaves are strongly typed. A weak type would change after the first update, and the step
    would be compiled twice.
    """
    low = jnp.zeros((1, 16, 16, task_of(config).channels), jnp.float32)

    def initial(key: jax.Array) -> TrainState:
        variables = dict(model.init(key, low, train=False, progress=jnp.float32(0.0)))
        params = variables.pop("params")
        # The average is a copy, because a buffer that appears twice cannot be donated.
        average = jax.tree.map(jnp.copy, params) if config.train.ema else None
        step = jnp.zeros((), jnp.int32)
        adversary = None
        if config.train.gan_weight:
            own = make_optimizer(discriminator_settings(config))
            adversary = create_adversary(config, own, jax.random.fold_in(key, 1))
        return TrainState(step, params, variables, optimizer.init(params), average, adversary)

    state = _without_waste(initial, jax.random.key(config.seed))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype=leaf.dtype), state)


def _without_waste(f: Callable[[jax.Array], Any], key: jax.Array) -> Any:
    """``f(key)``, computed operation by operation, without those that the result does not need.

    Each distinct operation is compiled once. In one program, XLA would compile every random draw
    separately, which takes seconds and more than 200 MB for 16 blocks of 64 channels. Without a
    program, the network would run although its output is not used. JAX's own dead-code elimination,
    ``dce_jaxpr``, is not public.
    """
    closed, shapes = jax.make_jaxpr(f, return_shape=True)(key)
    needed = {variable for variable in closed.jaxpr.outvars if not isinstance(variable, Literal)}
    equations = []
    for equation in reversed(closed.jaxpr.eqns):
        if needed.intersection(equation.outvars):
            equations.append(equation)
            needed.update(v for v in equation.invars if not isinstance(v, Literal))
    needed_alone = closed.replace(jaxpr=closed.jaxpr.replace(eqns=equations[::-1]))
    return jax.tree.unflatten(jax.tree.structure(shapes), jaxpr_as_fun(needed_alone)(key))
