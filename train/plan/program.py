"""A training step compiled for devices that are not there: abstract arrays in, bytes and work per device out."""

import dataclasses
import functools
import math
import pathlib
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Var
from jax.sharding import AxisType, Mesh

from recurrax.models import LanguageModel, parameters
from train import precision, sharding
from train.config import TrainConfig
from train.plan.cost import Cost, program_cost
from train.sharding import MeshConfig
from train.state import TrainState, abstract_state
from train.step import make_train_step, negative_log_likelihood

AFTER_PARTITIONING = "*after_spmd-partitioning*.txt"
# Machine code that nobody runs need not be good.
NEVER_RUN = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one device holds and does in a step. Sizes in bytes."""

    mesh: dict[str, int]
    tokens: int
    """Per step, over all devices."""
    parameter_count: int
    parameters: int
    gradients: int
    optimizer: int
    activations: int
    """What the backward pass needs of the forward pass, in the dtypes that JAX keeps it in."""
    held: int
    """All arrays of the program that XLA's CPU compiler keeps at once, where bfloat16 is held as float32 for a while:
    an upper bound."""
    cost: Cost
    seconds: float
    """What it took to compile."""

    @property
    def devices(self) -> int:
        return math.prod(self.mesh.values())

    @property
    def least(self) -> int:
        """Bytes that no compiler can do without."""
        return self.parameters + self.gradients + self.optimizer + self.activations

    @property
    def most(self) -> int:
        return max(self.held, self.least)


def devices_of(config: MeshConfig) -> int:
    """Devices that a mesh needs; an open `data` axis counts as 1."""
    return (config.data or 1) * config.fsdp * config.tensor * config.time


def use_virtual_devices(number: int) -> None:
    """Makes JAX believe in so many CPU devices. Call it before anything else asks JAX for devices.

    Raises:
      RuntimeError: JAX has its devices already.
    """
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(number, 2))
    # A program out of the cache is not compiled, and so not written down.
    jax.config.update("jax_enable_compilation_cache", False)


def make_plan(config: TrainConfig) -> Plan:
    """Compiles the training step of this run for its mesh, on virtual devices.

    Raises:
      ValueError: the config does not fit its mesh.
      RuntimeError: XLA did not write its program down.
    """
    start = time.monotonic()
    config = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, data=config.mesh.data or 1))
    mesh = sharding.make_mesh(config.mesh)
    sizes, alone = dict(mesh.shape), mesh.size == 1
    mesh = _with_a_copy(mesh) if alone else mesh
    rows, length = config.data.batch_size, config.data.sequence_length
    sharding.check_batch("data.batch_size / optimizer.accumulate", rows // config.optimizer.accumulate, length, mesh)
    abstract = abstract_state(config, mesh)
    step = make_train_step(config, abstract, mesh)
    text, memory = compiled(step.lower(abstract, abstract_batch(mesh, rows, length)))
    cost = program_cost(text)
    return Plan(
        mesh=sizes,
        tokens=rows * length,
        parameter_count=sum(leaf.size for leaf in jax.tree.leaves(abstract.params)),
        parameters=_bytes(abstract.params),
        gradients=_bytes(abstract.params),
        optimizer=_bytes(abstract.opt_state),
        activations=_activations(config, abstract, mesh),
        held=memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        cost=dataclasses.replace(cost, collectives=()) if alone else cost,
        seconds=time.monotonic() - start,
    )


def compiled(lowered: jax.stages.Lowered):
    """The text of the program for one device of several, and XLA's memory analysis of it."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"xla_dump_to": folder, "xla_dump_hlo_pass_re": "spmd-partitioning", **NEVER_RUN}
        memory = lowered.compile(compiler_options=options).memory_analysis()
        written = list(pathlib.Path(folder).glob(AFTER_PARTITIONING))
        if len(written) != 1:
            raise RuntimeError(f"XLA wrote {len(written)} partitioned programs, not one; is a compilation cache on?")
        return written[0].read_text(), memory


def _with_a_copy(mesh: Mesh) -> Mesh:
    """Two devices that do the same, in place of one: for one alone XLA does not run its partitioner."""
    devices = np.array(jax.devices()[:2]).reshape(*mesh.devices.shape, 2)
    return Mesh(devices, (*mesh.axis_names, "copies"), axis_types=(AxisType.Auto,) * devices.ndim)


def abstract_batch(mesh: Mesh, rows: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and sharding of what `train.data` gives."""
    split = sharding.batch_sharding(mesh)
    dtypes = {"inputs": jnp.int32, "targets": jnp.int32, "reset": jnp.bool_, "weights": jnp.float32}
    return {name: jax.ShapeDtypeStruct((rows, length), dtype, sharding=split) for name, dtype in dtypes.items()}


def _bytes(tree) -> int:
    """Of one device's part."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def _activations(config: TrainConfig, abstract: TrainState, mesh: Mesh) -> int:
    """Bytes on one device that the backward pass of one slice of the batch waits for: the residuals of jax.vjp."""
    model, declared = LanguageModel(config.model), parameters(config.model)

    def loss(params, batch, key):
        params = precision.for_products(params, declared, config.precision)
        return negative_log_likelihood(model, params, batch, rngs={"dropout": key})[0]

    def residuals(params, batch, key):
        with sharding.on(mesh):
            return jax.vjp(functools.partial(loss, batch=batch, key=key), params)[1]

    batch = abstract_batch(mesh, config.data.batch_size // config.optimizer.accumulate, config.data.sequence_length)
    traced = jax.jit(residuals).trace(abstract.params, batch, abstract.key)
    jaxpr = traced.jaxpr.jaxpr
    # A parameter that is handed through is counted among the parameters; what is kept twice is one array.
    seen, kept = set(jaxpr.invars), []
    for i, variable in enumerate(jaxpr.outvars):
        if isinstance(variable, Var) and variable not in seen:
            seen.add(variable)
            kept.append(i)
    splits = jax.tree.leaves(traced.lower().compile().output_shardings)
    total = 0
    for i in kept:
        aval = jaxpr.outvars[i].aval
        total += math.prod(splits[i].shard_shape(aval.shape)) * aval.dtype.itemsize
    return total
