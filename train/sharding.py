"""Provides the mesh, and the assignment of its axes to the dimensions of parameters.

    data     splits the rows of the batch; parameters are replicated
    fsdp     splits the rows of the batch and the parameters: a device holds one shard and gathers the others
    tensor   splits parameters within matrix products: heads and hidden units
    time     splits the sequence: a device has one shard of each row (`recurrax.ops.time_sharding`)

A parameter's table says which logical axis each of its dimensions has (`recurrax.parameters`), and SPLITS which axes of
the mesh split it.
"""

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from recurrax import checks
from recurrax.ops import platforms
from recurrax.ops.sharding import DEFAULT
from recurrax.parameters import Parameter

BATCH_AXES = DEFAULT.B
AXES = (*BATCH_AXES, *DEFAULT.H, *DEFAULT.T)

Rules = Sequence[tuple[str, PartitionSpec]]


class Split(NamedTuple):
    """The axes of the mesh that split a logical axis."""

    axes: tuple[str, ...] = ()
    strict: bool = False
    """Whether a dimension that they do not divide is an error; else it is replicated."""


SPLITS: Mapping[str | None, Split] = {
    "embed": Split(("fsdp",), strict=True),
    "heads": Split(("tensor",), strict=True),
    "hidden": Split(("tensor",), strict=True),
    "vocab": Split(("tensor",), strict=True),
    "outputs": Split(("tensor",)),
    "latent": Split(("fsdp",)),
    "inner": Split(("tensor", "fsdp")),
    "blocks": Split(("tensor",)),
    "block": Split(("fsdp",)),
    "experts": Split(),
    "channels": Split(),
    "state": Split(),
    "layers": Split(),
    None: Split(),
}
"""Which axes of the mesh split a logical axis. Of one parameter, each splits the first dimension that it may split.
Vectors are replicated, whatever their axes."""


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
    """Exceptions by path, such as 'in_gate$=fsdp,tensor': a regular expression, and the axes that split the last
    dimensions of the parameters whose paths it matches ('-' does not split a dimension)."""

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


def kind(mesh: Mesh) -> str:
    """Return the kind of the mesh's devices, such as "tpu"."""
    return mesh.devices.flat[0].platform


@contextlib.contextmanager
def on(mesh: Mesh) -> Iterator[None]:
    """Return a context for tracing, in which ops are sharded over this mesh and chosen for its kind of device."""
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), platforms.on(kind(mesh)):
        yield


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


def shardings(declared: Mapping[str, Parameter], mesh: Mesh, first: Rules = ()) -> dict[str, NamedSharding]:
    """Return the sharding of every parameter by its path: of the first rule whose pattern matches, else by SPLITS.

    Raises:
      ValueError: a rule in `first` matches nothing, a parameter has too few dimensions for its rule, or a dimension is
        not divisible by its axes.
    """
    used, problems, found = set(), [], {}
    for path, parameter in declared.items():
        name, shape = f"params/{path}", parameter.shape
        match = next((i for i, (pattern, _) in enumerate(first) if re.search(pattern, name)), None)
        if match is None:
            spec = _by_axes(parameter, mesh)
        else:
            used.add(match)
            pattern, spec = first[match]
            if len(spec) > len(shape):
                problems.append(f"{name} has shape {shape}, too few dimensions for the rule {pattern!r}: {spec}")
                continue
            spec = PartitionSpec(*[None] * (len(shape) - len(spec)), *spec) if len(spec) else spec
        for size, axes in zip(shape, spec, strict=False):
            if size % _parts(mesh, axes):
                problems.append(
                    f"{name} has shape {shape}: {size} is not divisible by mesh.{axes} = {_parts(mesh, axes)}"
                )
        found[path] = NamedSharding(mesh, spec)
    problems += [f"the rule {pattern!r} matches no parameter" for i, (pattern, _) in enumerate(first) if i not in used]
    if problems:
        raise ValueError("the sharding rules do not fit the model:\n  " + "\n  ".join(problems))
    return found


def _by_axes(parameter, mesh):
    """Return the PartitionSpec that SPLITS gives; dimensions of strict axes may still not be divisible."""
    if parameter.role == "vector":
        return PartitionSpec()
    free, spec = set(mesh.axis_names), []
    for size, axis in zip(parameter.shape, parameter.axes, strict=True):
        split = SPLITS[axis]
        axes = tuple(name for name in split.axes if name in free)
        free -= set(axes)
        fits = bool(axes) and (split.strict or size % _parts(mesh, axes) == 0)
        spec.append((axes[0] if len(axes) == 1 else axes) if fits else None)
    return PartitionSpec(*spec) if any(spec) else PartitionSpec()


def _parts(mesh, axes):
    """Return the number of shards along one dimension of a PartitionSpec."""
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ()))


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
