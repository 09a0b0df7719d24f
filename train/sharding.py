"""Provides the mesh, and the rules that assign its axes to the dimensions of parameters.

    data     splits the rows of the batch; parameters are replicated
    fsdp     splits the rows of the batch and the parameters: a device holds one shard and gathers the others
    tensor   splits parameters within matrix products: heads and hidden units
    time     splits the sequence: a device has one shard of each row (`recurrax.ops.time_sharding`)

A rule is a pattern of the parameter's path and the axes of its *last* dimensions; dimensions before them (the depth
that `nn.scan` stacks) are never split. The first matching rule applies. Mixers and projections name their matrices
in_* if they read the residual stream and out_* if they write to it, so a few rules cover all of them.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from recurrax import checks
from recurrax.ops.sharding import DEFAULT

BATCH_AXES = DEFAULT.B
AXES = (*BATCH_AXES, *DEFAULT.H, *DEFAULT.T)

Rules = Sequence[tuple[str, PartitionSpec]]

RULES: Rules = (
    (r"(^|/)embedding$", PartitionSpec("tensor", "fsdp")),
    (r"(^|/)in_\w+$", PartitionSpec("fsdp", "tensor")),
    (r"(^|/)out_\w+$", PartitionSpec("tensor", "fsdp")),
)
"""Large matrices: a dimension that the mesh axis does not divide is an error."""

WHERE_IT_FITS: Rules = (
    (r"(^|/)(key|value)_kernel$", PartitionSpec("fsdp", "tensor")),  # input: latent vectors
    (r"(^|/)(decay|rate|blend|gate|dt)_kernel$", PartitionSpec(None, ("tensor", "fsdp"))),  # input: low-rank vectors
    (r"(^|/)select_kernel$", PartitionSpec(("tensor", "fsdp"), None)),  # output: a few numbers
    (r"(^|/)router_kernel$", PartitionSpec("fsdp", None)),
    (r"(^|/)(input|recurrence)_gate_kernel$", PartitionSpec("tensor", "fsdp", None)),  # one block per head
    (r"", PartitionSpec()),  # norms, biases and vectors of recurrences: small, replicated
)
"""Small matrices: a dimension that the mesh axis does not divide is replicated."""


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Number of devices along each axis of the mesh."""

    data: int | None = None
    """Replicas of the parameters, each with its own rows of the batch; None: all devices that the other axes leave."""
    fsdp: int = 1
    """Number of shards of the parameters and of the rows of each replica."""
    tensor: int = 1
    """Number of shards of the heads and hidden units."""
    time: int = 1
    """Number of shards of each sequence."""
    rules: tuple[str, ...] = ()
    """Rules that precede the built-in ones, such as 'in_gate$=fsdp,tensor' ('-' does not split a dimension)."""

    def __post_init__(self):
        checks.hashable(self)
        for axis in AXES:
            if getattr(self, axis) is not None and getattr(self, axis) < 1:
                raise ValueError(f"mesh.{axis} must be at least 1, got {getattr(self, axis)}")
        parse_rules(self.rules)


def parse_rules(rules: Sequence[str]) -> Rules:
    """Parse 'PATTERN=AXIS,AXIS' into (pattern, PartitionSpec). Raises ValueError for anything else."""
    parsed = []
    for rule in rules:
        pattern, separator, axes = rule.rpartition("=")
        names = [None if axis == "-" else axis for axis in axes.split(",")] if axes else []
        unknown = [axis for axis in names if axis is not None and axis not in AXES]
        if not separator or unknown:
            raise ValueError(f"mesh.rules: {rule!r} is not PATTERN=AXIS,AXIS with axes among {', '.join(AXES)} or -")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"mesh.rules: {pattern!r} is no regular expression: {error}") from error
        parsed.append((pattern, PartitionSpec(*names)))
    return tuple(parsed)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return the mesh over the first data * fsdp * tensor * time devices.

    Raises:
      ValueError: the mesh needs more devices than there are.
    """
    devices = jax.devices() if devices is None else devices
    others = config.fsdp * config.tensor * config.time
    data = max(len(devices) // others, 1) if config.data is None else config.data
    needed = data * others
    if needed > len(devices):
        raise ValueError(
            f"the mesh data={data}, fsdp={config.fsdp}, tensor={config.tensor}, time={config.time} needs {needed} "
            f"devices; there are {len(devices)} ({devices[0].platform})"
        )
    shape = (data, config.fsdp, config.tensor, config.time)
    return Mesh(np.asarray(devices[:needed]).reshape(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: rows over `data` and `fsdp`, tokens over `time`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES, "time"))


def on(mesh: Mesh):
    """Return a context for tracing, in which ops are sharded over this mesh."""
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def check_batch(name: str, batch_size: int, sequence_length: int, mesh: Mesh) -> None:
    """Raise ValueError if rows or their tokens cannot be distributed evenly over the devices."""
    if sequence_length % mesh.shape["time"]:
        raise ValueError(f"data.sequence_length {sequence_length} is not divisible by mesh.time {mesh.shape['time']}")
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % parts:
        raise ValueError(
            f"{name} {batch_size} is not divisible by mesh.data * mesh.fsdp = "
            f"{mesh.shape['data']} * {mesh.shape['fsdp']} = {parts}"
        )


def shardings(abstract_state, mesh: Mesh, first: Rules = ()):
    """Return a NamedSharding for every array of the state, by the first rule whose pattern matches its path.

    The rules are `first`, RULES and WHERE_IT_FITS, in this order. The paths of optimizer moments end with the path of
    their parameter, so they are split like it.

    Raises:
      ValueError: a rule in `first` matches nothing, a parameter has too few dimensions for its rule, or a dimension is
        not divisible by its axes.
    """
    rules = (*first, *RULES, *WHERE_IT_FITS)
    used, problems = set(), []

    def parts(axes):
        return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ()))

    def choose(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not leaf.shape:
            return NamedSharding(mesh, PartitionSpec())
        match = next(i for i, (pattern, _) in enumerate(rules) if re.search(pattern, name))
        used.add(match)
        pattern, spec = rules[match]
        if len(spec) > len(leaf.shape):
            problems.append(f"{name} has shape {leaf.shape}, too few dimensions for the rule {pattern!r}: {spec}")
            return None
        spec = PartitionSpec(*[None] * (len(leaf.shape) - len(spec)), *spec) if len(spec) else spec
        if match >= len(first) + len(RULES):
            fitting = [None if size % parts(axes) else axes for size, axes in zip(leaf.shape, spec, strict=False)]
            spec = PartitionSpec(*fitting)
        for size, axes in zip(leaf.shape, spec, strict=False):
            if size % parts(axes):
                problems.append(
                    f"{name} has shape {leaf.shape}: {size} is not divisible by mesh.{axes} = {parts(axes)}"
                )
        return NamedSharding(mesh, spec)

    tree = jax.tree_util.tree_map_with_path(choose, abstract_state)
    problems += [f"the rule {pattern!r} matches no parameter" for i, (pattern, _) in enumerate(first) if i not in used]
    if problems:
        raise ValueError("the sharding rules do not fit the model:\n  " + "\n  ".join(problems))
    return tree


def local_rows(sharding: NamedSharding, batch_size: int) -> slice:
    """Return the slice of a global batch's rows that this process reads: the rows of its own devices."""
    return _held(sharding, (batch_size, sharding.mesh.shape["time"]), 0)


def to_devices(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """Return the global batch, of which this process provides the rows in `batch`."""
    parts = sharding.mesh.shape["data"] * sharding.mesh.shape["fsdp"]

    def put(rows):
        # If `time` splits a row over processes, each process has read the whole row and takes its own shard.
        columns = _held(sharding, (parts, rows.shape[1]), 1)
        return jax.make_array_from_process_local_data(sharding, rows[:, columns])

    return {name: put(rows) for name, rows in batch.items()}


def _held(sharding, shape, axis):
    """Return the slice of an array's axis that this process's devices hold."""
    indices = sharding.addressable_devices_indices_map(shape).values()
    bounds = [index[axis].indices(shape[axis])[:2] for index in indices]
    return slice(min(start for start, _ in bounds), max(stop for _, stop in bounds))
