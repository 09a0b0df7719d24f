"""Compiles a training step for virtual devices from abstract arrays, and measures the bytes and work of one device."""

import dataclasses
import math
import pathlib
import tempfile
import time

import jax
import numpy as np
from jax.extend.core import Var
from jax.sharding import AxisType, Mesh

from recurrax import patterns
from train import sharding
from train.config import TrainConfig
from train.programs.cost import Cost, program_cost
from train.sharding import MeshConfig
from train.state import TrainState, abstract_frozen, abstract_state, trained_declarations
from train.step import loss_sums, make_train_step

AFTER_PARTITIONING = "*after_spmd-partitioning*.txt"
# The machine code is never run, so it need not be fast.
NEVER_RUN = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@dataclasses.dataclass(frozen=True)
class Plan:
    """The memory, work and communication of one device in a step; sizes are in bytes."""

    mesh: dict[str, int]
    tokens: int
    """Tokens of a step on all devices."""
    parameter_count: int
    parameters: int
    gradients: int
    optimizer: int
    activations: int
    """Results of the forward pass that are saved for the backward pass, in their dtypes."""
    held: int
    """Peak memory of the program by XLA's CPU compiler, which holds some bfloat16 values as float32: an upper bound."""
    cost: Cost
    seconds: float
    """Seconds that the compilation took."""

    @property
    def devices(self) -> int:
        return math.prod(self.mesh.values())

    @property
    def least(self) -> int:
        """Bytes that every compiler needs."""
        return self.parameters + self.gradients + self.optimizer + self.activations

    @property
    def most(self) -> int:
        return max(self.held, self.least)


def devices_of(config: MeshConfig) -> int:
    """Return the number of devices of a mesh; a `data` axis of None counts as 1."""
    return (config.data or 1) * config.fsdp * config.tensor * config.time


def use_virtual_devices(number: int) -> None:
    """Give JAX this many CPU devices; to be called before anything else asks JAX for devices.

    Raises:
      RuntimeError: JAX has already created its devices.
    """
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(number, 2))
    # A program from the cache is not compiled, so its text would not be written.
    jax.config.update("jax_enable_compilation_cache", False)


def make_plan(config: TrainConfig) -> Plan:
    """Compile the training step of this run for its mesh, on virtual devices.

    Raises:
      ValueError: the config does not fit its mesh.
      RuntimeError: XLA did not write the text of its program.
    """
    start = time.monotonic()
    config = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, data=config.mesh.data or 1))
    mesh = sharding.make_mesh(config.mesh)
    sizes, alone = dict(mesh.shape), mesh.size == 1
    mesh = _with_a_copy(mesh) if alone else mesh
    lowered, abstract = lowered_step(config, mesh)
    text, memory = compiled(lowered)
    cost = program_cost(text)
    return Plan(
        mesh=sizes,
        tokens=config.data.batch_size * config.data.sequence_length,
        parameter_count=sum(leaf.size for leaf in jax.tree.leaves(abstract.params)),
        parameters=_bytes(abstract.params),
        gradients=_bytes(patterns.split(abstract.params, trained_declarations(config))[0]),
        optimizer=_bytes(abstract.opt_state),
        activations=_activations(config, abstract, mesh),
        held=memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        cost=dataclasses.replace(cost, collectives=()) if alone else cost,
        seconds=time.monotonic() - start,
    )


def lowered_step(config: TrainConfig, mesh: Mesh) -> tuple[jax.stages.Lowered, TrainState]:
    """Return the training step of this run, lowered for the devices of a mesh, and its abstract state.

    Raises:
      ValueError: the config does not fit the mesh.
    """
    rows, length = config.data.batch_size, config.data.sequence_length
    sharding.check_batch("data.batch_size / optimizer.accumulate", rows // config.optimizer.accumulate, length, mesh)
    abstract, frozen = abstract_state(config, mesh), abstract_frozen(config, mesh)
    step = make_train_step(config, abstract, mesh, frozen)
    return step.lower(abstract, abstract_batch(config.data, mesh, rows), *([frozen] if frozen else [])), abstract


def compiled(lowered: jax.stages.Lowered):
    """Return the text of the program of one device, and XLA's memory analysis of it."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"xla_dump_to": folder, "xla_dump_hlo_pass_re": "spmd-partitioning", **NEVER_RUN}
        memory = lowered.compile(compiler_options=options).memory_analysis()
        written = list(pathlib.Path(folder).glob(AFTER_PARTITIONING))
        if len(written) != 1:
            raise RuntimeError(f"XLA wrote {len(written)} partitioned programs, not one; is a compilation cache on?")
        return written[0].read_text(), memory


def _with_a_copy(mesh: Mesh) -> Mesh:
    """Return a mesh of two devices that do the same as one: XLA does not partition programs of a single device."""
    devices = np.array(jax.devices()[:2]).reshape(*mesh.devices.shape, 2)
    return Mesh(devices, (*mesh.axis_names, "copies"), axis_types=(AxisType.Auto,) * devices.ndim)


def abstract_batch(data, mesh: Mesh, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes, dtypes and sharding of the batches of `train.data`."""
    split = sharding.batch_sharding(mesh)
    return {
        name: jax.ShapeDtypeStruct((rows, data.sequence_length, *inner), dtype, sharding=split)
        for name, (dtype, inner) in data.fields.items()
    }


def _bytes(tree) -> int:
    """Return the bytes of one device's shards."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def _activations(config: TrainConfig, abstract: TrainState, mesh: Mesh) -> int:
    """Return the bytes that jax.vjp saves on one device for the backward pass of one slice of the batch."""
    loss = loss_sums(config)
    trained, untrained = patterns.split(abstract.params, trained_declarations(config))

    def residuals(trained, untrained, *others):
        with sharding.on(mesh):
            return jax.vjp(lambda trained: loss(patterns.merge(trained, untrained), *others).total, trained)[1]

    batch = abstract_batch(config.data, mesh, config.data.batch_size // config.optimizer.accumulate)
    traced = jax.jit(residuals).trace(trained, untrained, abstract_frozen(config, mesh), batch, abstract.key)
    jaxpr = traced.jaxpr.jaxpr
    # A residual that is a parameter counts as a parameter, and one that is saved twice is one array.
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
