"""Provides the training step and the evaluation step as pure, jitted functions."""

import functools
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from recurrax import patterns
from recurrax.adapters import adapted
from recurrax.layers import LOSSES, UPDATES
from recurrax.models import build
from train import precision, sharding, spikes
from train.config import TrainConfig
from train.objectives import Objective
from train.state import TrainState, declarations, trained_declarations

Batch = dict[str, jax.Array]

MASKS = 2**31 - 1
"""Number that makes the key of an objective from that of a step."""


def make_train_step(config: TrainConfig, abstract: TrainState, mesh: Mesh, frozen=None) -> Callable:
    """Return step(state, batch) -> (state, metrics), which donates the state.

    With `frozen`, `abstract_frozen` of an objective that reads more than the model, it is step(state, batch, frozen).

    The metrics are loss, the mean over the batch's targets before the update; the objective's other metrics, likewise;
    each extra loss of the layers, summed over them, by its name; grad_norm, the global norm before clipping;
    learning_rate; with on_nonfinite = "skip", skipped, the number of skipped steps so far; and with spike detection,
    batch, the number of the step's batch, and spike, whether its loss is a spike.
    """
    model, declared, objective = adapted(build(config.model), config.adapter), declarations(config), config.objective
    trained_paths = trained_declarations(config)
    optimizer, schedule = config.optimizer.build(trained_paths), config.optimizer.rates()
    parts = config.optimizer.accumulate

    def loss_sum(trained, untrained, taught, batch, key):
        """Return the sum over targets of the loss and the layers' losses; then its parts, and updates of parameters."""
        params = precision.for_products(patterns.merge(trained, untrained), declared, config.precision)
        found = objective.loss(
            *(model, params, batch),
            frozen=taught,
            key=jax.random.fold_in(key, MASKS),
            rngs={"dropout": key},
            mutable=(LOSSES, UPDATES),
        )
        layers = {name: found.weight * loss for name, loss in _by_name(found.collections.get(LOSSES, {})).items()}
        sums = {"loss": found.total, **found.metrics, **layers}
        return sum(layers.values(), found.total), (sums, found.weight, found.collections.get(UPDATES, {}))

    def gradients(trained, untrained, taught, batch, key):
        """Return the gradient of `loss_sum` and its parts, summed over `parts` slices of the batch, taken in turn."""
        differentiate = jax.grad(loss_sum, has_aux=True)
        if parts == 1:
            return differentiate(trained, untrained, taught, batch, key)
        # Row i goes to slice i mod parts, so that every device has rows in every slice.
        slices = jax.tree.map(lambda v: v.reshape(-1, parts, *v.shape[1:]).swapaxes(0, 1), batch)

        def add(carry, inputs):
            part, number = inputs
            more, found = differentiate(trained, untrained, taught, part, jax.random.fold_in(key, number))
            return jax.tree.map(jnp.add, carry, more), found

        grads, found = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, trained), (slices, jnp.arange(parts)))
        return grads, jax.tree.map(lambda each: each.sum(0), found)

    def step(state: TrainState, batch: Batch, taught=None):
        with sharding.on(mesh):
            trained, untrained = patterns.split(state.params, trained_paths)
            point = config.optimizer.gradient_point(trained, state.opt_state)
            key = jax.random.fold_in(state.key, state.step)
            grads, (sums, weight, added) = gradients(point, untrained, taught, batch, key)
        count = jnp.maximum(weight, 1)
        grads = jax.tree.map(lambda g: g / count, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, trained)
        metrics = {
            **{name: each / count for name, each in sums.items()},
            "grad_norm": optax.tree.norm(grads),
            # The schedule counts the steps that were not skipped, as the optimizer does.
            "learning_rate": jnp.asarray(schedule(state.step - state.skipped), jnp.float32),
        }
        added, _ = patterns.split(added, trained_paths)
        new = _plus(optax.apply_updates(trained, updates), added, 1 / parts), opt_state
        skipped = state.skipped
        if config.on_nonfinite == "skip":
            finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
            new = jax.tree.map(functools.partial(jnp.where, finite), new, (trained, state.opt_state))
            metrics["skipped"] = skipped = skipped + ~finite
        trained, opt_state = new
        if config.spike.sigmas is not None:
            metrics["batch"] = state.batch
            metrics["spike"], recent = spikes.seen(metrics["loss"], state.recent, config.spike.sigmas)
            state = state.replace(recent=recent)
        state = state.replace(step=state.step + 1, batch=state.batch + 1, skipped=skipped)
        return state.replace(params=patterns.merge(trained, untrained), opt_state=opt_state), metrics

    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    state_shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    more = (jax.tree.map(lambda leaf: leaf.sharding, frozen),) if frozen else ()
    return jax.jit(
        step,
        in_shardings=(state_shardings, sharding.batch_sharding(mesh), *more),
        out_shardings=(state_shardings, whole),
        donate_argnums=0,
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

    return jax.jit(step, donate_argnums=1, out_shardings=(None, None, state_shardings))
