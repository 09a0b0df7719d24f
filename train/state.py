"""Define the training state, one pytree, its optimizer, and its creation in shards on the devices of a mesh."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recurrax.models import LanguageModel, parameters
from recurrax.parameters import Parameter
from train import sharding
from train.config import OptimizerConfig, TrainConfig

WINDOW = 128
"""Number of recent losses that spike detection compares the next one with."""


class TrainState(flax.struct.PyTreeNode):
    """What a training step reads and changes."""

    step: jax.Array
    batch: jax.Array
    """Number of the next batch: that of the step, or a later one after the run has skipped batches at a spike."""
    skipped: jax.Array
    """Number of steps so far that changed nothing, because the loss or the gradient was not finite."""
    recent: jax.Array
    """The last WINDOW losses that were not spikes; -1 in entries without a loss yet."""
    params: dict
    opt_state: optax.OptState
    key: jax.Array
    """Step n draws its random numbers from fold_in(key, n), so they are the same after a restart."""


def make_schedule(config: OptimizerConfig) -> optax.Schedule:
    """Return a linear warm-up, then a cosine to final_fraction of the peak, then a constant."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if config.warmup_steps else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=config.decay_steps,
        end_value=config.final_fraction * config.learning_rate,
    )


def make_optimizer(config: OptimizerConfig, declared: Mapping[str, Parameter] | None) -> optax.GradientTransformation:
    """Return AdamW behind clipping by the global norm, with the decay and learning rates that parameters declare.

    Args:
      declared: `recurrax.models.parameters` of the model; its paths are those of the tree of parameters. None: of
        parameters that no table declares, which are trained without weight decay.

    Raises:
      ValueError: weight decay of undeclared parameters.
    """
    if declared is None:
        if config.weight_decay:
            raise ValueError(f"weight_decay {config.weight_decay} must be 0 for parameters that no table declares")
        declared = {}

    def decayed(params):
        return _by_path(params, {path: parameter.is_decayed for path, parameter in declared.items()})

    adamw = optax.adamw(
        make_schedule(config),
        b1=config.beta1,
        b2=config.beta2,
        weight_decay=config.weight_decay,
        mask=decayed if declared else None,
    )

    def update(grads, state, params):
        updates, state = adamw.update(grads, state, params)
        if declared:
            factors = _by_path(updates, {path: parameter.learning_rate for path, parameter in declared.items()})
            updates = jax.tree.map(lambda u, factor: u if factor == 1 else factor * u, updates, factors)
        return updates, state

    # Not one more link of the chain, whose length is a part of checkpoints.
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optax.GradientTransformation(adamw.init, update))


def _by_path(params, values: Mapping[str, Any]):
    """Return the tree of parameters with each leaf replaced by the value of its path."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: values[jax.tree_util.keystr(path, simple=True, separator="/")], params
    )


def abstract_state(config: TrainConfig, mesh: Mesh) -> TrainState:
    """Return the shape, dtype and sharding of every array of the state, without allocating any.

    Raises:
      ValueError: the sharding rules do not fit the model.
    """
    declared, whole = parameters(config.model), NamedSharding(mesh, PartitionSpec())
    split = sharding.shardings(declared, mesh, sharding.parse_rules(config.mesh.rules))
    shapes = jax.eval_shape(lambda: _create(config))
    params = _by_path(shapes.params, split)
    # The moments of a parameter are split like it.
    opt_state = optax.tree.map_params(
        make_optimizer(config.optimizer, declared),
        lambda _, of_parameter: of_parameter,
        shapes.opt_state,
        params,
        transform_non_params=lambda _: whole,
    )
    splits = jax.tree.map(lambda _: whole, shapes).replace(params=params, opt_state=opt_state)
    return jax.tree.map(lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), shapes, splits)


def init_state(config: TrainConfig, abstract: TrainState) -> TrainState:
    """Return the state before the first step. Each device creates its own shards, so no device holds the whole."""
    return jax.jit(lambda: _create(config), out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract))()


def _create(config: TrainConfig) -> TrainState:
    init_key, key = jax.random.split(jax.random.key(config.seed))
    tokens = jnp.zeros((1, 1), jnp.int32)
    params = LanguageModel(config.model).init(init_key, tokens)["params"]
    zero, recent = jnp.zeros((), jnp.int32), jnp.full(WINDOW, -1, jnp.float32)
    opt_state = make_optimizer(config.optimizer, parameters(config.model)).init(params)
    return TrainState(step=zero, batch=zero, skipped=zero, recent=recent, params=params, opt_state=opt_state, key=key)
