"""Provides the training step and the evaluation step as pure, jitted functions."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from recurrax.layers import LOSSES, UPDATES
from recurrax.models import LanguageModel, parameters
from train import precision, sharding, spikes
from train.config import TrainConfig
from train.state import TrainState

Batch = dict[str, jax.Array]


def negative_log_likelihood(model: LanguageModel, params, batch: Batch, state=None, rngs=None, mutable=()):
    """Return the sum of -log p(target) in nats over the weighted targets, their number, the state, and collections.

    A target of weight 0 is left out, even if its loss is not finite. The collections are those of `mutable`.
    """
    apply = functools.partial(model.apply, {"params": params}, batch["inputs"], state, reset=batch["reset"], rngs=rngs)
    (logits, state), collections = apply(mutable=list(mutable)) if mutable else (apply(), {})
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["targets"])
    weights = batch["weights"]
    return jnp.where(weights == 0, 0, losses * weights).sum(), weights.sum(), state, collections


def make_train_step(config: TrainConfig, abstract: TrainState, mesh: Mesh) -> Callable:
    """Return step(state, batch) -> (state, metrics), which donates the state.

    The metrics are loss, the mean of the batch in nats per byte before the update; each extra loss of the layers,
    summed over them, by its name; grad_norm, the global norm before clipping; learning_rate; with on_nonfinite =
    "skip", skipped, the number of skipped steps so far; and with spike detection, batch, the number of the step's
    batch, and spike, whether its loss is a spike.
    """
    model, declared = LanguageModel(config.model), parameters(config.model)
    optimizer, schedule = config.optimizer.build(declared), config.optimizer.rates()
    parts = config.optimizer.accumulate

    def loss_sum(params, batch, key):
        """Return the sum over targets of the loss and the layers' losses; then its parts, and updates of parameters."""
        params = precision.for_products(params, declared, config.precision)
        total, count, _, collections = negative_log_likelihood(
            model, params, batch, rngs={"dropout": key}, mutable=(LOSSES, UPDATES)
        )
        extra = {name: count * loss for name, loss in _by_name(collections.get(LOSSES, {})).items()}
        return sum(extra.values(), total), (total, extra, collections.get(UPDATES, {}))

    def gradients(params, batch, key):
        """Return the gradient of `loss_sum` and its parts, summed over `parts` slices of the batch, taken in turn."""
        differentiate = jax.grad(loss_sum, has_aux=True)
        if parts == 1:
            return differentiate(params, batch, key)
        # Row i goes to slice i mod parts, so that every device has rows in every slice.
        slices = jax.tree.map(lambda v: v.reshape(-1, parts, *v.shape[1:]).swapaxes(0, 1), batch)

        def add(carry, inputs):
            part, number = inputs
            more, found = differentiate(params, part, jax.random.fold_in(key, number))
            return jax.tree.map(jnp.add, carry, more), found

        grads, found = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), (slices, jnp.arange(parts)))
        return grads, jax.tree.map(lambda each: each.sum(0), found)

    def step(state: TrainState, batch: Batch):
        with sharding.on(mesh):
            grads, (total, extra, added) = gradients(state.params, batch, jax.random.fold_in(state.key, state.step))
        count = jnp.maximum(batch["weights"].sum(), 1)
        grads = jax.tree.map(lambda g: g / count, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics = {
            "loss": total / count,
            **{name: loss / count for name, loss in extra.items()},
            "grad_norm": optax.tree.norm(grads),
            # The schedule counts the steps that were not skipped, as the optimizer does.
            "learning_rate": jnp.asarray(schedule(state.step - state.skipped), jnp.float32),
        }
        new = _plus(optax.apply_updates(state.params, updates), added, 1 / parts), opt_state
        skipped = state.skipped
        if config.on_nonfinite == "skip":
            finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
            new = jax.tree.map(functools.partial(jnp.where, finite), new, (state.params, state.opt_state))
            metrics["skipped"] = skipped = skipped + ~finite
        params, opt_state = new
        if config.spike.sigmas is not None:
            metrics["batch"] = state.batch
            metrics["spike"], recent = spikes.seen(metrics["loss"], state.recent, config.spike.sigmas)
            state = state.replace(recent=recent)
        state = state.replace(step=state.step + 1, batch=state.batch + 1, skipped=skipped)
        return state.replace(params=params, opt_state=opt_state), metrics

    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    state_shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(
        step,
        in_shardings=(state_shardings, sharding.batch_sharding(mesh)),
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


def make_evaluation_step(model: LanguageModel, mesh: Mesh, state_shardings) -> Callable:
    """Return step(params, state, batch) -> (loss sum in nats, bytes, state).

    It donates the model's state and returns it with `state_shardings`.
    """

    def step(params, state, batch: Batch):
        with sharding.on(mesh):
            return negative_log_likelihood(model, params, batch, state)[:3]

    return jax.jit(step, donate_argnums=1, out_shardings=(None, None, state_shardings))
