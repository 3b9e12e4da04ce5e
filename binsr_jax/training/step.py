"""One training step: the loss, its gradients and the update, compiled for all devices."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from binsr_jax import models
from binsr_jax.config import Config
from binsr_jax.nn.fence import UNIT_INPUT
from binsr_jax.settings import TrainConfig
from binsr_jax.training.adversary import generator_loss, update_adversary
from binsr_jax.training.compression import sparsity_penalty, with_rounding
from binsr_jax.training.devices import AXIS
from binsr_jax.training.losses import make_loss
from binsr_jax.training.perceptual import load_vgg, perceptual_distance, perceptual_layers
from binsr_jax.training.sharpening import sharpened
from binsr_jax.training.state import (
    TrainState,
    discriminator_settings,
    learning_rate,
    make_optimizer,
)

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Collections = dict[str, Any]
Terms = dict[str, jax.Array]  # terms of the loss by name; also the network's "output" if needed
Gradient = Callable[[TrainState, Batch, Any], tuple[jax.Array, Collections, Any, Terms]]
# Takes parameters, other variables, a batch, the progress, the discriminator and fixed networks.
TrainingLoss = Callable[..., tuple[jax.Array, tuple[Collections, Terms]]]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def _average(old: Any, new: Any, step: jax.Array, decay: float) -> Any:
    """``d * old + (1 - d) * new``, with d at most ``decay`` and smaller in the first steps.

    With ``d = min(decay, (1 + t) / (10 + t))`` the average forgets the random start quickly.
    """
    t = step.astype(jnp.float32)
    d = jnp.minimum(jnp.float32(decay), (1.0 + t) / (10.0 + t))
    return optax.incremental_update(new, old, 1.0 - d)


def _clip(params: Any, names: frozenset[tuple[str, ...]]) -> Any:
    """The parameters; those with these names are clipped to -1..1.

    Outside of this range the gradient of a binary weight is 0, so it would never return.
    """
    flat: dict[tuple[str, ...], Any] = flatten_dict(params)
    project = optax.projections.projection_box
    clipped = {name: project(flat[name], -1.0, 1.0) for name in names & flat.keys()}
    return unflatten_dict({**flat, **clipped})


def _parts(array: jax.Array, count: int) -> jax.Array:
    """``[B, ...] -> [count, B / count, ...]``; each part has an equal share of every device."""
    return array.reshape(-1, count, *array.shape[1:]).swapaxes(0, 1)


def make_training_loss(config: Config, model: nn.Module) -> TrainingLoss:
    """Returns the loss function of a batch.

    If the loss has several terms, they are ``pixel``, ``scales``, ``perceptual`` and
    ``adversarial``, each before its weight. With a discriminator, the terms also hold the network's
    ``output``.

    Args:
        config: The run.
        model: As in ``make_step``; with ``train.scan`` it has an attribute ``scan``.

    Returns:
        ``(params, collections, batch, progress, adversary, fixed) -> (loss, (collections,
        terms))``. ``collections`` are the network's other variables, ``adversary`` is the state of
        a discriminator or None, and ``fixed`` is the result of ``fixed_networks``. With
        ``train.remat``, the gradient saves only the inputs of the units and recomputes the rest.
    """
    loss_of, train = make_loss(config.train), config.train
    layers = perceptual_layers(train) if train.perceptual_weight else {}
    # A teacher's output is the target as it is, without sharpening.
    sharpen = config.real.sharpen if config.task == "real" and not config.data.taught else 0.0
    if config.train.scan:
        model = model.clone(scan=True)

    def loss_and_collections(
        params: Any,
        collections: Collections,
        batch: Batch,
        progress: jax.Array,
        adversary: Any,
        fixed: Any,
    ) -> tuple[jax.Array, tuple[Collections, Terms]]:
        variables = {"params": with_rounding(config, params), **collections}
        output, updated = model.apply(
            variables, batch["lq"], train=True, progress=progress, mutable=list(collections)
        )
        target = sharpened(batch["hq"], sharpen) if sharpen else batch["hq"]
        pixel, terms = loss_of(output, target), {}
        if layers or adversary is not None:
            terms["pixel"] = pixel
        loss = train.pixel_weight * pixel
        if "teacher" in batch:
            loss += train.teacher_weight * loss_of(output, batch["teacher"])
        if train.sparsity:
            terms["pixel"], terms["scales"] = pixel, sparsity_penalty(config, params)
            loss += train.sparsity * terms["scales"]
        if layers:
            terms["perceptual"] = perceptual_distance(fixed["vgg"], layers, output, target)
            loss += train.perceptual_weight * terms["perceptual"]
        if adversary is not None:
            terms["adversarial"] = generator_loss(config, adversary, output, batch["hq"])
            loss += train.gan_weight * terms["adversarial"]
            terms["output"] = output
        return loss, (dict(updated), terms)

    if not config.train.remat:
        return loss_and_collections
    keep = jax.checkpoint_policies.save_only_these_names(UNIT_INPUT)
    return jax.checkpoint(loss_and_collections, policy=keep)


def make_gradient(config: Config, model: nn.Module) -> Gradient:
    """Returns a function for a batch's mean loss, new variables, loss terms and mean gradient.

    Its third argument is the result of ``fixed_networks``. With ``train.accumulate`` the batch is
    split into parts, which are processed one after the other. Losses are means, so the mean over
    the parts equals the mean over the batch. Other variables, such as batch statistics, are passed
    from part to part. ``train.remat`` and ``train.scan`` change the program but not the values.
    With ``train.compute`` "bfloat16" the factors in convolutions are rounded.

    Args:
        config: The run.
        model: As in ``make_step``; with ``train.scan`` it has an attribute ``scan``.
    """
    parts = config.train.accumulate
    differentiate = jax.value_and_grad(make_training_loss(config, model), has_aux=True)

    def of_part(state: TrainState, collections: Collections, batch: Batch, fixed: Any):
        progress = state.step.astype(jnp.float32) / config.train.steps
        (loss, (collections, terms)), gradient = differentiate(
            state.params, collections, batch, progress, state.adversary, fixed
        )
        return loss, collections, gradient, terms

    def in_parts(state: TrainState, batch: Batch, fixed: Any):
        def add(sums: Any, part: Batch) -> tuple[Any, Terms]:
            total, collections, total_gradient = sums
            loss, collections, gradient, terms = of_part(state, collections, part, fixed)
            return (total + loss, collections, optax.tree.add(total_gradient, gradient)), terms

        start = jnp.zeros((), jnp.float32), state.collections, optax.tree.zeros_like(state.params)
        split = {name: _parts(array, parts) for name, array in batch.items()}
        (total, collections, total_gradient), terms = jax.lax.scan(add, start, split)
        gradient = jax.tree.map(lambda g: g / parts, total_gradient)
        return total / parts, collections, gradient, jax.tree.map(lambda t: t.mean(0), terms)

    def gradient_of(state: TrainState, batch: Batch, fixed: Any):
        with jax.default_matmul_precision(config.train.compute):
            if parts > 1:
                return in_parts(state, batch, fixed)
            return of_part(state, state.collections, batch, fixed)

    return gradient_of


def fixed_networks(train: TrainConfig) -> dict[str, Any]:
    """The parameters of networks that a step uses but does not train, by name.

    Raises:
        UserError: Their weights cannot be read.
    """
    return {"vgg": load_vgg(train)} if train.perceptual_weight else {}


def make_step(
    config: Config, model: nn.Module, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Step:
    """Compiles one update: ``state, metrics = step(state, batch)``.

    Both forms of data parallelism run the same function. With ``config.parallel`` "mesh" it is
    jitted on global arrays, with the batch split and the state replicated over the mesh, and XLA
    adds the sums over devices. With "pmap" each device runs it on its part, and gradients, metrics
    and other variables are averaged explicitly.

    Args:
        config: The run.
        model: Called as ``model.apply(variables, lq, train=True, progress=step / steps)``.
        optimizer: From ``make_optimizer``.
        mesh: From ``make_mesh``.

    Returns:
        A function of a state and a batch ``{"lq": f32[B, h, w, C], "hq": f32[B, s*h, s*w, C]}``,
        placed by ``place_state`` and ``place_batch``. If the batch also has a teacher's output,
        ``teacher`` of the shape of ``hq``, the loss against it is added ``train.teacher_weight``
        times. The step donates the state. It returns the new state, and float32 scalars ``loss``,
        ``gradient_norm``, ``learning_rate`` and the terms of the loss if there are several, all
        from before the update. With ``train.gan_weight`` it then updates the discriminator on the
        same output and adds its loss, ``discriminator``.

    Raises:
        UserError: The weights of a perceptual loss cannot be read.
    """
    gradient_of = make_gradient(config, model)
    schedule = learning_rate(config.train)
    latent: frozenset[tuple[str, ...]] = frozenset()
    if config.train.clip_weights:
        latent = models.binary_kernels(config)
    by_hand = config.parallel == "pmap"
    adversarial = make_optimizer(discriminator_settings(config))

    def step(state: TrainState, batch: Batch, fixed: Any) -> tuple[TrainState, Metrics]:
        loss, collections, gradients, terms = gradient_of(state, batch, fixed)
        output = terms.pop("output", None)
        if by_hand:
            loss, collections, gradients, terms = jax.lax.pmean(
                (loss, collections, gradients, terms), AXIS
            )
        adversary = state.adversary
        if adversary is not None and output is not None:
            with jax.default_matmul_precision(config.train.compute):
                adversary, terms["discriminator"] = update_adversary(
                    config, adversarial, adversary, output, batch["hq"]
                )

        with jax.numpy_dtype_promotion("standard"):  # Optax mixes integers and floats
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
            rate = jnp.asarray(schedule(state.step), jnp.float32)
        params = optax.apply_updates(state.params, updates)
        if latent:
            params = _clip(params, latent)
        ema = state.ema
        if ema is not None:
            ema = _average(ema, params, state.step, config.train.ema)
        metrics = {
            "loss": loss,
            "gradient_norm": optax.tree.norm(gradients),
            "learning_rate": rate,
            **terms,
        }
        new = TrainState(state.step + 1, params, collections, opt_state, ema, adversary)
        return new, metrics

    replicated = NamedSharding(mesh, PartitionSpec())
    fixed = jax.device_put(fixed_networks(config.train), replicated)
    if by_hand:
        devices = list(mesh.devices.flat)
        compiled: Any = jax.pmap(
            step, AXIS, in_axes=(None, 0, None), out_axes=None, donate_argnums=0, devices=devices
        )
    else:
        split = NamedSharding(mesh, PartitionSpec(AXIS))
        compiled = jax.jit(
            step,
            donate_argnums=0,
            in_shardings=(replicated, split, replicated),
            out_shardings=replicated,
        )
    return lambda state, batch: compiled(state, batch, fixed)
