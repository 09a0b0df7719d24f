"""Print a model's parameters as a table."""

import math
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import NamedSharding

from recurrax.ops.sharding import used
from recurrax.parameters import Parameter
from recurrax.types import PyTree


def describe(params: PyTree, what: str = "parameters", declared: Mapping[str, Parameter] | None = None) -> str:
    """Return one line per array: path, shape, dtype, sharding, bytes; then totals, and bytes per device.

    If arrays are on a mesh, a line says which of its axes split rows, heads and the sequence of ops, and which do not.

    Args:
      params: arrays or `jax.ShapeDtypeStruct`s, so that a plan can be read before anything is allocated.
      what: name of what is counted in the last line.
      declared: `recurrax.models.parameters` of the model; with it, each line has the logical axes and the role.
    """
    rows, count, total, local, meshes = [], 0, 0, 0, {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        # Extended dtypes (random keys) have no item size; they count as what they are stored in.
        itemsize = np.dtype(leaf.dtype).itemsize if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended) else 8
        sharding = getattr(leaf, "sharding", None)
        shard = sharding.shard_shape(leaf.shape) if sharding is not None else leaf.shape
        spec = None
        if isinstance(sharding, NamedSharding):
            spec = sharding.spec
            meshes[sharding.mesh] = None
        size = math.prod(leaf.shape) * itemsize
        meaning = () if declared is None else _meaning(declared[name.removeprefix("params/")])
        split = "" if spec is None else _tuple(spec)
        shape = "x".join(map(str, leaf.shape)) or "scalar"
        rows.append((name, shape, str(leaf.dtype), *meaning, split, f"{size:,}"))
        count += math.prod(leaf.shape)
        total += size
        local += math.prod(shard) * itemsize
    meaning = () if declared is None else ("axes", "role")
    rows.insert(0, ("path", "shape", "dtype", *meaning, "sharding", "bytes"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for *row, number in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join((*cells, number.rjust(widths[-1]))))
    lines.insert(1, "-" * len(lines[0]))
    lines.append(lines[1])
    lines.extend(filter(None, map(_uses, meshes)))
    lines.append(f"{count:,} {what}, {total:,} bytes, {local:,} bytes on each device")
    return "\n".join(line.rstrip() for line in lines)


def _meaning(parameter):
    """Return the cells of the logical axes and the role."""
    return _tuple(axis or "-" for axis in parameter.axes), parameter.role


def _uses(mesh):
    """Return a line on what the axes of a mesh split in ops; "" for a mesh of one device."""
    uses = {name: word for word, names in used(mesh).items() for name in names}
    axes = [f"{name}={size} ({uses[name]})" for name, size in mesh.shape.items() if size > 1]
    return f"mesh: {', '.join(axes)}" if axes else ""


def _tuple(names):
    return "(" + ", ".join(map(str, names)) + ")"
