"""Define the training state, one pytree, its optimizer, and its creation in shards on the devices of a mesh."""

import dataclasses
from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from recurrax import patterns
from recurrax.adapters import ADAPTER
from recurrax.models import build, parameters
from recurrax.parameters import Parameter, flat, nested
from recurrax.types import Params
from train import sharding
from train.checkpoint_check import misfits
from train.config import TrainConfig
from train.optimizers import Optimizer
from train.parametrization import Factors
from train.starts import Run
from train.workdir import Workdir

WINDOW = 128
"""Number of recent losses that spike detection compares the next one with."""


class TrainState(flax.struct.PyTreeNode):
    """The values that a training step reads and changes."""

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


def model_declarations(config: TrainConfig) -> dict[str, Parameter]:
    """Return the declaration of every parameter of the run's model without its adapter."""
    return parameters(config.model, input_dim=config.data.features)


def _factors(config: TrainConfig) -> dict[str, Factors]:
    """Return the factors of the run's parametrization by path."""
    return config.parametrization.factors(config.model, model_declarations(config))


def declarations(config: TrainConfig) -> dict[str, Parameter]:
    """Return the declaration of every parameter of the run: those of the model, and those of its adapter.

    Raises:
      ValueError: the model has nothing of the kind that the adapter changes, or the adapter does not fit the data.
    """
    declared, factors = model_declarations(config), _factors(config)
    declared = {
        path: dataclasses.replace(each, learning_rate=each.learning_rate * factors[path].learning_rate)
        if path in factors
        else each
        for path, each in declared.items()
    }
    if config.adapter is None:
        return declared
    if config.adapter.starts and config.data.kind == "text" and config.data.packed:
        raise ValueError(
            f"{config.adapter} is the state from which documents start, so that each must begin a row: set "
            "data.packed to False (--data.no-packed)"
        )
    own = config.adapter.declare(config.model, declared)
    return {**declared, **{f"{ADAPTER}/{path}": parameter for path, parameter in own.items()}}


def trained_declarations(config: TrainConfig) -> dict[str, Parameter]:
    """Return the declarations of the parameters that are trained. Raises ValueError if a pattern matches none."""
    declared = declarations(config)
    selected = patterns.select("train", config.trained, declared)
    return {path: parameter for path, parameter in declared.items() if path in selected}


def abstract_state(config: TrainConfig, mesh: Mesh) -> TrainState:
    """Return the shape, dtype and sharding of every array of the state, without allocating any.

    Raises:
      ValueError: the sharding rules do not fit the model.
    """
    declared, whole = declarations(config), NamedSharding(mesh, PartitionSpec())
    split = sharding.shardings(declared, mesh, sharding.parse_rules(config.mesh.rules))
    shapes = jax.eval_shape(lambda: _create(config, {}))
    params = patterns.by_path(shapes.params, split)
    opt_state = _like_parameters(shapes.opt_state, {path: (declared[path].shape, split[path]) for path in split}, whole)
    splits = jax.tree.map(lambda _: whole, shapes).replace(params=params, opt_state=opt_state)
    return jax.tree.map(lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s), shapes, splits)


def init_state(config: TrainConfig, abstract: TrainState) -> TrainState:
    """Return the state before the first step. Each device creates its own shards, so no device holds the whole.

    Raises:
      ValueError: the parameters of `config.start` do not fit the model.
    """
    arrays = config.start.arrays(model_declarations(config))
    create = jax.jit(lambda given: _create(config, given), out_shardings=jax.tree.map(lambda s: s.sharding, abstract))
    return create(_put(arrays, abstract.params))


def frozen_shardings(config: TrainConfig, mesh: Mesh) -> dict[str, NamedSharding]:
    """Return how what the objective reads beside the model is split, by path."""
    rules = sharding.parse_rules(config.mesh.rules)
    return sharding.shardings(config.objective.frozen_declarations(config.model), mesh, rules)


def abstract_frozen(config: TrainConfig, mesh: Mesh) -> dict:
    """Return the shape, dtype and sharding of what the objective reads beside the model, such as a teacher.

    Raises:
      ValueError: the objective cannot read it.
    """
    split, declared = frozen_shardings(config, mesh), config.objective.frozen_declarations(config.model)
    leaves = {path: jax.ShapeDtypeStruct(p.shape, jnp.float32, sharding=split[path]) for path, p in declared.items()}
    return nested(leaves)


def load_frozen(config: TrainConfig, abstract: dict) -> dict:
    """Return what the objective reads beside the model, on the devices.

    Raises:
      ValueError: as `abstract_frozen`; or the arrays are not those that were declared.
    """
    arrays, wanted = config.objective.frozen_arrays(), flat(abstract)
    shapes = ({path: str(each.shape) for path, each in tree.items()} for tree in (arrays, wanted))
    if differences := misfits(*shapes):
        listing = "\n  ".join(differences)
        raise ValueError(f"what {type(config.objective).__name__} reads is not what it declares:\n  {listing}")
    return nested({path: jax.device_put(each, wanted[path].sharding) for path, each in arrays.items()})


def _put(arrays: Mapping[str, np.ndarray], params) -> dict[str, jax.Array]:
    """Return the arrays on the devices, each split like the parameter of its path."""
    leaves = flat(params)
    return {path: jax.device_put(array, leaves[path].sharding) for path, array in arrays.items()}


def _create(config: TrainConfig, given: Mapping[str, jax.Array]) -> TrainState:
    """Return the first state, with the given parameters by their paths, and all others drawn."""
    init_key, key = jax.random.split(jax.random.key(config.seed))
    features = config.data.features
    inputs = jnp.zeros((1, 1), jnp.int32) if features is None else jnp.zeros((1, 1, features))
    drawn = build(config.model).init(init_key, inputs)["params"]
    scaled = {path: factors.init * flat(drawn)[path] for path, factors in _factors(config).items()}
    params = patterns.by_path(drawn, {**flat(drawn), **scaled, **given})
    if config.adapter is not None:
        own = config.adapter.init(jax.random.fold_in(init_key, 1), config.model, model_declarations(config))
        params = {**params, ADAPTER: own}
    return first_state(params, config.optimizer, trained_declarations(config), key)


def first_state(params: Params, optimizer: Optimizer, trained: Mapping[str, Parameter] | None, key) -> TrainState:
    """Return the state before the first step, of these parameters; `trained` is as in `train.step.make_step`."""
    zero, recent = jnp.zeros((), jnp.int32), jnp.full(WINDOW, -1, jnp.float32)
    own = params if trained is None else patterns.split(params, trained)[0]
    opt_state = optimizer.build(trained).init(own)
    return TrainState(step=zero, batch=zero, skipped=zero, recent=recent, params=params, opt_state=opt_state, key=key)


def _like_parameters(opt_state, parameters: Mapping[str, tuple[tuple[int, ...], NamedSharding]], whole: NamedSharding):
    """Return the shardings of an optimizer's state: a moment of a parameter, which ends in its path, is split like it.

    What has another shape than its parameter, such as the moments of a matrix's rows, is replicated.
    """

    def split(path, leaf):
        parts = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        suffixes = ("/".join(parts[i:]) for i in range(len(parts)))
        shape, found = next((parameters[suffix] for suffix in suffixes if suffix in parameters), ((), whole))
        return found if leaf.shape == shape else whole

    return jax.tree_util.tree_map_with_path(split, opt_state)


def newest_norms(workdir: str, declared: Mapping[str, Parameter]) -> dict[str, float] | None:
    """Return the norm of each parameter in a run's newest checkpoint; None if it has none yet."""
    if not Workdir(workdir).checkpoints_path.is_dir():
        return None
    params = flat(Run(workdir).parameters())
    return {path: float(jnp.linalg.norm(jnp.ravel(params[path]))) for path in declared}
