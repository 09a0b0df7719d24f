"""The training state: one pytree, and how it comes into being already split over the mesh."""

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

# Losses that the next one is compared with, where spikes are looked for.
WINDOW = 128


class TrainState(flax.struct.PyTreeNode):
    """Everything a step needs and changes."""

    step: jax.Array
    batch: jax.Array
    """Number of the next batch: that of the step, and more once a run has gone back past some."""
    skipped: jax.Array
    """Steps so far that changed nothing, because loss or gradient was not finite."""
    recent: jax.Array
    """The last WINDOW losses that were no spikes; -1 where there is none yet."""
    params: dict
    opt_state: optax.OptState
    key: jax.Array
    """Random numbers of step n come from fold_in(key, n): nothing to save, the same after a restart."""


def make_schedule(config: OptimizerConfig) -> optax.Schedule:
    """Linear warm-up, then a cosine to final_fraction of the peak, then constant."""
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
    """Shape, dtype and sharding of every array of the state; nothing is allocated.

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
    """The state before the first step: each device makes its own part, the whole is never on one of them."""
    return jax.jit(lambda: _create(config), out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract))()


def _create(config: TrainConfig) -> TrainState:
    init_key, key = jax.random.split(jax.random.key(config.seed))
    tokens = jnp.zeros((1, 1), jnp.int32)
    params = LanguageModel(config.model).init(init_key, tokens)["params"]
    zero, recent = jnp.zeros((), jnp.int32), jnp.full(WINDOW, -1, jnp.float32)
    opt_state = make_optimizer(config.optimizer, parameters(config.model)).init(params)
    return TrainState(step=zero, batch=zero, skipped=zero, recent=recent, params=params, opt_state=opt_state, key=key)
