"""The mesh, and the rules that say which axis of it each parameter is split over.

    data     rows of the batch; parameters are copied
    fsdp     rows of the batch too, and parameters are split: a device holds one part and gathers the others
    tensor   parameters are split inside matrix products: heads and hidden units
    time     the sequence: a device has one stretch of each row (`recurrax.ops.time_sharding`)

A rule is a pattern of the parameter's path and the axes of its *last* dimensions; what comes before them (the depth
that `nn.scan` stacks) is never split. The first rule that matches decides. Mixers and projections name their matrices
in_* where they lead from the residual stream and out_* where they lead back to it, so a few rules cover them all.
"""

import dataclasses
import math
import re
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from recurrax import checks
from recurrax.ops.sharding import AXES as AXES_OF

BATCH_AXES = AXES_OF["B"]
AXES = (*BATCH_AXES, *AXES_OF["H"], *AXES_OF["T"])

Rules = Sequence[tuple[str, PartitionSpec]]

RULES: Rules = (
    (r"(^|/)embedding$", PartitionSpec("tensor", "fsdp")),
    (r"(^|/)in_\w+$", PartitionSpec("fsdp", "tensor")),
    (r"(^|/)out_\w+$", PartitionSpec("tensor", "fsdp")),
)
"""Of the large matrices: a dimension that cannot be split as its rule says is an error."""

WHERE_IT_FITS: Rules = (
    (r"(^|/)(key|value)_kernel$", PartitionSpec("fsdp", "tensor")),  # from latent vectors
    (r"(^|/)(decay|rate|blend|gate|dt)_kernel$", PartitionSpec(None, ("tensor", "fsdp"))),  # from low ranks
    (r"(^|/)select_kernel$", PartitionSpec(("tensor", "fsdp"), None)),  # to a few numbers
    (r"(^|/)router_kernel$", PartitionSpec("fsdp", None)),
    (r"(^|/)(input|recurrence)_gate_kernel$", PartitionSpec("tensor", "fsdp", None)),  # one block per head
    (r"", PartitionSpec()),  # norms, biases and the recurrences' own vectors: small, on every device
)
"""Of the small ones, whose sizes are as they are: a dimension that cannot be split stays whole."""


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices along each axis of the mesh."""

    data: int | None = None
    """Copies of the parameters, each with its own rows of the batch; None: all devices the other axes leave."""
    fsdp: int = 1
    """Parts that parameters and rows are split into."""
    tensor: int = 1
    """Parts that heads and hidden units are split into."""
    time: int = 1
    """Stretches that each sequence is cut into."""
    rules: tuple[str, ...] = ()
    """Rules before the built-in ones, such as 'in_gate$=fsdp,tensor' ('-' leaves a dimension whole)."""

    def __post_init__(self):
        checks.hashable(self)
        for axis in AXES:
            if getattr(self, axis) is not None and getattr(self, axis) < 1:
                raise ValueError(f"mesh.{axis} must be at least 1, got {getattr(self, axis)}")
        parse_rules(self.rules)


def parse_rules(rules: Sequence[str]) -> Rules:
    """'PATTERN=AXIS,AXIS' as (pattern, PartitionSpec). Raises ValueError for anything else."""
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
    """The mesh over the first data * fsdp * tensor * time devices.

    Raises:
      ValueError: it needs more devices than there are.
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
    """Rows over `data` and `fsdp`, their tokens over `time`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES, "time"))


def on(mesh: Mesh):
    """A context for tracing: ops called in it run split over this mesh."""
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def check_batch(name: str, batch_size: int, sequence_length: int, mesh: Mesh) -> None:
    """Raises ValueError if rows or their tokens cannot be dealt evenly to the devices."""
    if sequence_length % mesh.shape["time"]:
        raise ValueError(f"data.sequence_length {sequence_length} is not divisible by mesh.time {mesh.shape['time']}")
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % parts:
        raise ValueError(
            f"{name} {batch_size} is not divisible by mesh.data * mesh.fsdp = "
            f"{mesh.shape['data']} * {mesh.shape['fsdp']} = {parts}"
        )


def shardings(abstract_state, mesh: Mesh, first: Rules = ()):
    """A NamedSharding for every array of the state, by the first rule whose pattern its path matches.

    The rules are those of `first`, RULES and WHERE_IT_FITS. Optimizer moments have the path of their parameter behind
    their own, so they are split like it.

    Raises:
      ValueError: one of `first` matches nothing, or a dimension is not divisible by its axes.
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
    """The rows of a global batch that this process has to read: those of its own devices."""
    return _held(sharding, (batch_size, sharding.mesh.shape["time"]), 0)


def to_devices(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """This process's rows as its part of the global batch."""
    parts = sharding.mesh.shape["data"] * sharding.mesh.shape["fsdp"]

    def put(rows):
        # Where `time` splits a row over processes, each has read all of it and takes what is its own.
        columns = _held(sharding, (parts, rows.shape[1]), 1)
        return jax.make_array_from_process_local_data(sharding, rows[:, columns])

    return {name: put(rows) for name, rows in batch.items()}


def _held(sharding, shape, axis):
    """The part of an array's axis that this process's devices hold."""
    indices = sharding.addressable_devices_indices_map(shape).values()
    bounds = [index[axis].indices(shape[axis])[:2] for index in indices]
    return slice(min(start for start, _ in bounds), max(stop for _, stop in bounds))
