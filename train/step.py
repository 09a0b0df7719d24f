"""Provides the training step and the evaluation step as pure, jitted functions."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from recurrax import patterns
from recurrax.adapters import adapted
from recurrax.layers import LOSSES, UPDATES
from recurrax.models import build
from recurrax.parameters import Parameter
from recurrax.types import Params
from train import precision, sharding, spikes
from train.compiler import OPTIONS
from train.config import TrainConfig
from train.objectives import Objective
from train.optimizers import Optimizer
from train.state import TrainState, declarations, trained_declarations

Batch = dict[str, jax.Array]

MASKS = 2**31 - 1
"""Number that makes the key of an objective from that of a step."""


class Sums(NamedTuple):
    """Sums over the targets of a batch, and what else a loss returns."""

    total: jax.Array
    """Sum of what is minimized: the loss and the layers' losses."""
    parts: dict[str, jax.Array]
    """Sums of the loss and of other quantities, by name."""
    weight: jax.Array
    """Sum of the targets' weights."""
    updates: Params
    """Numbers that are added to the parameters of the same paths after the step, without the optimizer."""


LossSums = Callable[[Params, Any, Batch, jax.Array], Sums]
"""A function (params, frozen, batch, key) -> Sums, where `frozen` is what is never trained, such as a teacher."""


def make_step(
    loss: LossSums,
    optimizer: Optimizer,
    trained: Mapping[str, Parameter] | None,
    on_nonfinite: str = "stop",
    spike_sigmas: float | None = None,
) -> Callable:
    """Return step(state, batch, frozen=None) -> (state, metrics), a pure function for `jax.jit` and `jax.vmap`.

    Only the parameters `trained` are trained; None: all, and no table declares them. The metrics are loss, the mean
    over the batch's targets before the update; the other parts of `Sums`, likewise; grad_norm, the global norm before
    clipping; learning_rate; with on_nonfinite = "skip", skipped, the number of skipped steps so far; and with
    `spike_sigmas`, batch, the number of the step's batch, and spike, whether its loss is a spike.
    """
    transform, schedule, slices = optimizer.build(trained), optimizer.rates(), optimizer.accumulate

    def split(params):
        return (params, {}) if trained is None else patterns.split(params, trained)

    def objective(own, others, frozen, batch, key):
        sums = loss(patterns.merge(own, others), frozen, batch, key)
        return sums.total, sums

    def gradients(own, *rest):
        """Return the gradient of the total, and all sums, over `slices` parts of the batch, taken in turn."""
        differentiate = jax.grad(objective, has_aux=True)
        if slices == 1:
            return differentiate(own, *rest)
        others, frozen, batch, key = rest
        # Row i goes to slice i mod slices, so that every device has rows in every slice.
        parts = jax.tree.map(lambda v: v.reshape(-1, slices, *v.shape[1:]).swapaxes(0, 1), batch)

        def add(carry, inputs):
            part, number = inputs
            more, sums = differentiate(own, others, frozen, part, jax.random.fold_in(key, number))
            return jax.tree.map(jnp.add, carry, more), sums

        grads, sums = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, own), (parts, jnp.arange(slices)))
        return grads, jax.tree.map(lambda each: each.sum(0), sums)

    def step(state: TrainState, batch: Batch, frozen=None):
        own, others = split(state.params)
        point, key = optimizer.gradient_point(own, state.opt_state), jax.random.fold_in(state.key, state.step)
        grads, sums = gradients(point, others, frozen, batch, key)
        count = jnp.maximum(sums.weight, 1)
        grads = jax.tree.map(lambda g: g / count, grads)
        changes, opt_state = transform.update(grads, state.opt_state, own)
        metrics = {
            **{name: each / count for name, each in sums.parts.items()},
            "grad_norm": optax.tree.norm(grads),
            # The schedule counts the steps that were not skipped, as the optimizer does.
            "learning_rate": jnp.asarray(schedule(state.step - state.skipped), jnp.float32),
        }
        new = _plus(optax.apply_updates(own, changes), split(sums.updates)[0], 1 / slices), opt_state
        skipped = state.skipped
        if on_nonfinite == "skip":
            finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
            new = jax.tree.map(functools.partial(jnp.where, finite), new, (own, state.opt_state))
            metrics["skipped"] = skipped = skipped + ~finite
        own, opt_state = new
        if spike_sigmas is not None:
            metrics["batch"] = state.batch
            metrics["spike"], recent = spikes.seen(metrics["loss"], state.recent, spike_sigmas)
            state = state.replace(recent=recent)
        state = state.replace(step=state.step + 1, batch=state.batch + 1, skipped=skipped)
        return state.replace(params=patterns.merge(own, others), opt_state=opt_state), metrics

    return step


def loss_sums(config: TrainConfig) -> LossSums:
    """Return the loss of a run: its objective's, and those of its layers by their names."""
    model, declared, objective = adapted(build(config.model), config.adapter), declarations(config), config.objective

    def loss(params, frozen, batch, key):
        found = objective.loss(
            *(model, precision.for_products(params, declared, config.precision), batch),
            frozen=frozen,
            key=jax.random.fold_in(key, MASKS),
            rngs={"dropout": key},
            mutable=(LOSSES, UPDATES),
        )
        layers = {name: found.weight * each for name, each in _by_name(found.collections.get(LOSSES, {})).items()}
        parts = {"loss": found.total, **found.metrics, **layers}
        return Sums(sum(layers.values(), found.total), parts, found.weight, found.collections.get(UPDATES, {}))

    return loss


def make_train_step(config: TrainConfig, abstract: TrainState, mesh: Mesh, frozen=None) -> Callable:
    """Return the jitted step(state, batch) -> (state, metrics) of a run on a mesh, which donates the state.

    With `frozen`, `abstract_frozen` of an objective that reads more than the model, it is step(state, batch, frozen).
    """
    step = make_step(
        *(loss_sums(config), config.optimizer, trained_declarations(config)),
        *(config.on_nonfinite, config.spike.sigmas),
    )

    def sharded(*arguments):
        with sharding.on(mesh):
            return step(*arguments)

    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    state_shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    more = (jax.tree.map(lambda leaf: leaf.sharding, frozen),) if frozen else ()
    return jax.jit(
        sharded,
        in_shardings=(state_shardings, sharding.batch_sharding(mesh), *more),
        out_shardings=(state_shardings, whole),
        donate_argnums=0,
        compiler_options=OPTIONS.get(sharding.kind(mesh)),
    )


def _by_name(losses):
    """Return the sum of the losses of each name over all layers."""
    sums = {}
    for path, loss in jax.tree_util.tree_leaves_with_path(losses):
        sums[path[-1].key] = sums.get(path[-1].key, 0.0) + loss.sum()
    return sums


def _plus(params, updates, factor):
    """Return the parameters, those that have an update plus the factor times it."""
    if not isinstance(updates, Mapping):
        return params + factor * updates
    return {**params, **{name: _plus(params[name], update, factor) for name, update in updates.items()}}


def make_evaluation_step(objective: Objective, model: nn.Module, mesh: Mesh, state_shardings) -> Callable:
    """Return step(params, state, batch, number) -> (sums of the loss and of the metrics, weight, state).

    What an objective draws for a batch depends on its number alone. The step donates the model's state and returns it
    with `state_shardings`.
    """

    def step(params, state, batch: Batch, number):
        with sharding.on(mesh):
            found = objective.loss(model, params, batch, state, key=jax.random.fold_in(jax.random.key(0), number))
        return {"loss": found.total, **found.metrics}, found.weight, found.state

    return jax.jit(
        step,
        donate_argnums=1,
        out_shardings=(None, None, state_shardings),
        compiler_options=OPTIONS.get(sharding.kind(mesh)),
    )
