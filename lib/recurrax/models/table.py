"""A table of a model's parameters."""

import math

import jax
import numpy as np

from recurrax.types import PyTree


def describe(params: PyTree, what: str = "parameters") -> str:
    """One line per array: path, shape, dtype, sharding, bytes; then totals, and bytes per device where sharded.

    Takes arrays or `jax.ShapeDtypeStruct`s, so that a plan can be read before anything is allocated. `what` names
    what is counted in the last line.
    """
    rows, count, total, local = [("path", "shape", "dtype", "sharding", "bytes")], 0, 0, 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        # Extended dtypes (random keys) have no item size; they count as what they are stored in.
        itemsize = np.dtype(leaf.dtype).itemsize if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended) else 8
        sharding = getattr(leaf, "sharding", None)
        shard = sharding.shard_shape(leaf.shape) if sharding is not None else leaf.shape
        spec = getattr(sharding, "spec", None)
        rows.append(
            (
                jax.tree_util.keystr(path, simple=True, separator="/"),
                "x".join(map(str, leaf.shape)) or "scalar",
                str(leaf.dtype),
                "" if spec is None else "(" + ", ".join(map(str, spec)) + ")",
                f"{math.prod(leaf.shape) * itemsize:,}",
            )
        )
        count += math.prod(leaf.shape)
        total += math.prod(leaf.shape) * itemsize
        local += math.prod(shard) * itemsize
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(w) if i == 4 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    lines.append(lines[1])
    lines.append(f"{count:,} {what}, {total:,} bytes, {local:,} bytes on each device")
    return "\n".join(line.rstrip() for line in lines)
