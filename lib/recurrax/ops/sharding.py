"""Ops on a mesh: every device runs the op on its own rows, heads and stretch of time.

    mesh axis          splits                      letter
    data, fsdp         rows of the batch           B
    tensor             heads, or channels          H
    time               the sequence                T

Rows and heads know nothing of each other, so there a device just takes its own. A stretch of time needs the state that
the stretches before it leave behind: `time_sharding` finds it, and then the split law does the rest, which says that an
op on x[:, t:] with the state after x[:, :t] is the op on x.

An op is split like this wherever it is called under a mesh with such axes (`jax.set_mesh`, or
`jax.sharding.use_abstract_mesh` inside of a jit), of Auto or Explicit axis types. XLA alone would gather: it cannot see
that a loop over time may be cut, nor that (B, H) merged into one axis is split along both.
"""

import functools
import inspect
import math
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from recurrax.types import Array

TIME = "time"
AXES = {"B": ("data", "fsdp"), "H": ("tensor",), "T": (TIME,)}


def sharded(
    arguments: dict[str, str] | Callable[[dict], dict[str, str]],
    results: str | tuple[str, str],
    *,
    state: str = "state",
    enter: Callable | None = None,
) -> Callable:
    """Makes a function one that runs split on a mesh.

    Args:
      arguments: the letters of the leading axes of each array, "." for an axis that stays whole: {"k": "B T . H"}. All
        leaves of a tree have the same. Or a function of all arguments that gives this. NumPy arrays without B and T
        remain constants of the program, and whole.
      results: the letters of outputs and last state, or of the outputs of what has no state.
      state: the argument that is the incoming state.
      enter: (op, arguments) -> the state that enters this device's stretch of time, and the one after the last stretch;
        called inside of `jax.shard_map`, where mesh axis "time" has a name. None: tokens know nothing of each other.
    """

    def decorate(op):
        signature = inspect.signature(op)

        @functools.wraps(op)
        def run(*args, **kwargs):
            mesh = _mesh()
            if mesh is None:
                return op(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            given = bound.arguments
            letters = arguments(given) if callable(arguments) else arguments
            letters = {name: each for name, each in letters.items() if given[name] is not None}
            constants = {name for name in letters if _is_constant(given[name], letters[name])}
            arrays = {name: given[name] for name in letters.keys() - constants}
            axes = _axes(mesh, letters, arrays, {letter for name in constants for letter in letters[name].split()})
            if not axes:
                return op(*args, **kwargs)
            shapes = _shapes(op, given, arrays)

            def local(arrays):
                mine = {**given, **arrays}
                if "T" not in axes or enter is None:
                    return op(**mine)
                before, last = enter(op, mine)
                outputs, _ = op(**{**mine, state: before})
                return outputs, last

            specs = {name: _specs(letters[name], axes, value) for name, value in arrays.items()}
            if AxisType.Explicit in mesh.axis_types:
                arrays = jax.tree.map(jax.sharding.reshard, arrays, specs)
            out_specs = jax.tree.map(lambda letters, shapes: _specs(letters, axes, shapes), results, shapes)
            # Manual along all axes: along others XLA gathers what the collectives over time are given. The check of
            # types would want every loop's first carry cast to what its last one varies over.
            return jax.shard_map(local, in_specs=(specs,), out_specs=out_specs, check_vma=False)(arrays)

        return run

    return decorate


def placed(x: Array, letters: str) -> Array:
    """x, told to XLA to be split like this under a mesh of Auto axes; the same x elsewhere."""
    mesh = _mesh()
    if mesh is None or mesh.size == 1 or AxisType.Explicit in mesh.axis_types:
        return x
    axes = _axes(mesh, {"x": letters}, {"x": x}, set())
    return jax.lax.with_sharding_constraint(x, _specs(letters, axes, x))


def splits_time() -> bool:
    """Whether the sequence is split here: then batch and time must not be merged into one axis, or XLA gathers both."""
    mesh = _mesh()
    return mesh is not None and mesh.shape.get(TIME, 1) > 1


def whole():
    """A context in which no op is split: for arrays whose axes are no batch and no time."""
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))


def _mesh():
    """The mesh that whole arrays are split over; None where there is none, or inside of a shard_map: there an array is
    a device's own already."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.manual_axes else mesh


def _shapes(op, given, arrays):
    """What the op returns. Raises its errors, which are to name whole arrays' shapes, and to know NumPy's values."""
    known = {name for name, value in arrays.items() if isinstance(value, np.ndarray)}
    shapes = {
        name: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), value)
        for name, value in arrays.items()
        if name not in known
    }
    with whole():
        return jax.eval_shape(lambda shapes: op(**{**given, **shapes}), shapes)


def _is_constant(value, letters):
    all_numpy = all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(value))
    return all_numpy and not {"B", "T"} & set(letters.split())


def _axes(mesh, letters, arrays, whole):
    """The mesh axes of each letter that is split; those of constants are not.

    Raises:
      ValueError: the sequence cannot be cut into equal stretches.
    """
    sizes, types = {}, {}
    for name, tree in arrays.items():
        for leaf in jax.tree.leaves(tree):
            spec = getattr(getattr(jax.typeof(leaf), "sharding", None), "spec", ())
            for axis, letter in enumerate(letters[name].split()[: leaf.ndim]):
                sizes.setdefault(letter, set()).add(leaf.shape[axis])
                if axis < len(spec) and spec[axis] is not None:  # Explicit axes are in the array's type
                    types[letter] = (spec[axis],) if isinstance(spec[axis], str) else tuple(spec[axis])
    found = {}
    for letter, names in AXES.items():
        names = types.get(letter, names) if letter != "T" else names
        names = tuple(name for name in names if name in mesh.shape and mesh.shape[name] > 1)
        parts = math.prod(mesh.shape[name] for name in names)
        if letter in whole or letter not in sizes or parts == 1 or (letter == "T" and sizes["T"] == {1}):
            continue
        if all(size % parts == 0 for size in sizes[letter]):
            found[letter] = names
        elif letter == "T":
            raise ValueError(
                f"a sequence of {max(sizes['T'])} cannot be cut into {parts} equal stretches, which mesh axis "
                f"{TIME!r} has; pad it to a multiple of {parts}"
            )
    return found


def _specs(letters, axes, tree):
    """The leaves' PartitionSpecs."""
    parts = [axes.get(letter) for letter in letters.split()]
    return jax.tree.map(lambda leaf: PartitionSpec(*parts[: np.ndim(leaf)]), tree)
