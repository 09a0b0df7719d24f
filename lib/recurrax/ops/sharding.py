"""Run ops on a mesh: every device runs the op on its own rows, heads and segment of time.

    letter    splits                      mesh axes, unless `axes` says otherwise
    B         rows of the batch           data, fsdp
    H         heads, or channels          tensor
    T         the sequence                time

Rows and heads do not depend on each other, so a device just takes its own. A segment of time needs the state that the
segments before it leave behind: the op's summary finds it (`recurrax.ops.summaries`). The split law does the rest: an
op on x[:, t:] with the state after x[:, :t] is the op on x.

An op is split like this wherever it is called under a mesh with such axes (`jax.set_mesh`, or
`jax.sharding.use_abstract_mesh` inside a jit), of Auto or Explicit axis types. XLA alone would gather: it cannot see
that a loop over time may be cut, nor that (B, H) merged into one axis is split along both.
"""

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from recurrax.types import Array, PyTree


class Axes(NamedTuple):
    """The mesh axes that split each letter."""

    B: tuple[str, ...] = ("data", "fsdp")
    H: tuple[str, ...] = ("tensor",)
    T: tuple[str, ...] = ("time",)
    strict: bool = False
    """Whether a mesh must have all of these axes: of those that a user names."""


DEFAULT = Axes()

_AXES = jax.make_user_context(DEFAULT)
_SPLIT = jax.make_user_context(())


def axes(*, batch: str | tuple[str, ...] = (), heads: str | tuple[str, ...] = (), time: str | None = None):
    """Return a context in which these axes of the mesh split rows, heads and the sequence, and no others.

    `with recurrax.ops.sharding.axes(batch=("dp",), heads="tp", time="sp"):` A function that was jitted outside is
    retraced inside.

    Raises:
      ValueError: one axis is named twice; inside, an op runs on a mesh that does not have one of the axes.
    """
    names = Axes(_names(batch), _names(heads), _names(time), strict=True)
    every = (*names.B, *names.H, *names.T)
    if len(set(every)) < len(every) or len(names.T) > 1:
        raise ValueError(f"each mesh axis splits one thing, and one axis splits time; got {batch=}, {heads=}, {time=}")
    return _AXES(names)


def used(mesh: jax.sharding.Mesh | jax.sharding.AbstractMesh) -> dict[str, tuple[str, ...]]:
    """Return what the axes of a mesh are used for: "batch", "heads", "time", and those that split no op, "unused".

    Raises:
      ValueError: the mesh does not have an axis that `axes` names.
    """
    table = _table(mesh)
    found = {
        word: tuple(name for name in names if name in mesh.shape)
        for word, names in (("batch", table.B), ("heads", table.H), ("time", table.T))
    }
    taken = {name for names in found.values() for name in names}
    return {**found, "unused": tuple(name for name in mesh.axis_names if name not in taken)}


def axis(letter: str) -> tuple[str, ...]:
    """Return the mesh axes over which "B", "H" or "T" is split inside the current split function; () if it is whole."""
    return dict(_SPLIT.value).get(letter, ())


def split(
    run: Callable[[dict[str, Any]], PyTree],
    given: Mapping[str, Any],
    letters: Mapping[str, str],
    results: PyTree,
    *,
    state: str,
    summary: Any,
    constants: tuple[str, ...] = (),
) -> PyTree:
    """Return run(given), on a mesh with each device running it on its own rows, heads and segment of time.

    Args:
      run: a function of all arguments by name that returns (outputs, last state), or the outputs if there is no state.
      given: arrays, trees of arrays and anything else by name.
      letters: the letters of the leading axes of each array, "." for an axis that stays whole: {"k": "B T . H"}. All
        leaves of a tree have the same.
      results: the letters of the results, for each leaf or for a whole subtree.
      state: the argument that is the incoming state.
      summary: how the state crosses a cut in time, one of `recurrax.ops.summaries`.
      constants: arguments that stay whole where they are NumPy arrays: constants of the program.
    """
    mesh = _mesh()
    if mesh is None:
        return run(dict(given))
    letters = {name: each for name, each in letters.items() if given[name] is not None}
    whole = {name for name in constants if isinstance(given.get(name), np.ndarray)}
    arrays = {name: given[name] for name in letters if name not in whole}
    found = _axes(mesh, letters, arrays, {letter for name in whole for letter in letters[name].split()})
    if not found:
        return run(dict(given))

    def local(arrays):
        with _SPLIT(tuple(found.items())):
            mine = {**given, **arrays}
            return summary.across(run, mine, state) if "T" in found else run(mine)

    specs = {name: _specs(letters[name], found, value) for name, value in arrays.items()}
    if AxisType.Explicit in mesh.axis_types:
        arrays = jax.tree.map(jax.sharding.reshard, arrays, specs)
    out_specs = jax.tree.map(lambda each: _spec(each, found), results)
    # Manual along all axes: along others XLA gathers what the collectives over time are given. The check of types would
    # require a cast of every loop's first carry to what its last one varies over.
    return jax.shard_map(local, in_specs=(specs,), out_specs=out_specs, check_vma=False)(arrays)


def sharded(
    letters: Mapping[str, str] | Callable[[dict[str, Any]], Mapping[str, str]],
    results: PyTree,
    *,
    summary: Any,
    state: str = "state",
) -> Callable:
    """Return a decorator that runs a function of arrays split on a mesh: `split` for what is not an `Op`.

    `letters` may be a function of all arguments. Arguments that it does not name are the same on all devices, and not
    differentiated.
    """

    def decorate(function):
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args, **kwargs):
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            given = bound.arguments
            of_each = letters(given) if callable(letters) else letters
            of_results = results(given) if callable(results) else results
            return split(lambda given: function(**given), given, of_each, of_results, state=state, summary=summary)

        return call

    return decorate


def placed(x: Array, letters: str) -> Array:
    """Return x, which XLA is told to split like this under a mesh of Auto axes."""
    mesh = _mesh()
    if mesh is None or mesh.size == 1 or AxisType.Explicit in mesh.axis_types:
        return x
    found = _axes(mesh, {"x": letters}, {"x": x}, set())
    return jax.lax.with_sharding_constraint(x, _specs(letters, found, x))


def splits_time() -> bool:
    """Return whether a mesh splits the sequence: then XLA would gather both batch and time if they were merged."""
    mesh = _mesh()
    return mesh is not None and any(mesh.shape.get(name, 1) > 1 for name in _table(mesh).T)


def whole():
    """Return a context in which no op is split: for arrays whose axes are not a batch and time."""
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ()))


def _names(value):
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)


def _mesh():
    """Return the mesh that whole arrays are split over; None without one and inside a shard_map, where an array is
    already a device's own."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.manual_axes else mesh


def _table(mesh):
    """Return the axes in use. Raises ValueError if the mesh does not have one that the user named."""
    table = _AXES.value
    missing = [name for name in (*table.B, *table.H, *table.T) if table.strict and name not in mesh.shape]
    if missing:
        raise ValueError(
            f"recurrax.ops.sharding.axes names {', '.join(map(repr, missing))}; the mesh has "
            f"{', '.join(map(repr, mesh.axis_names))}"
        )
    return table


def _axes(mesh, letters, arrays, whole):
    """Return the mesh axes of each letter that is split; those of constants are not.

    Raises:
      ValueError: the sequence cannot be cut into equal shards.
    """
    sizes, types = {}, {}
    for name, tree in arrays.items():
        for leaf in jax.tree.leaves(tree):
            spec = getattr(getattr(jax.typeof(leaf), "sharding", None), "spec", ())
            for axis, letter in enumerate(letters[name].split()[: leaf.ndim]):
                sizes.setdefault(letter, set()).add(leaf.shape[axis])
                if axis < len(spec) and spec[axis] is not None:  # Explicit axes are in the array's type
                    types[letter] = (spec[axis],) if isinstance(spec[axis], str) else tuple(spec[axis])
    found, table = {}, _table(mesh)
    for letter in ("B", "H", "T"):
        names = getattr(table, letter)
        names = types.get(letter, names) if letter != "T" else names
        names = tuple(name for name in names if mesh.shape.get(name, 1) > 1)
        parts = math.prod(mesh.shape[name] for name in names)
        if letter in whole or letter not in sizes or parts == 1 or (letter == "T" and sizes["T"] == {1}):
            continue
        if all(size % parts == 0 for size in sizes[letter]):
            found[letter] = names
        elif letter == "T":
            raise ValueError(
                f"a sequence of {max(sizes['T'])} cannot be cut into {parts} equal shards, which mesh axis "
                f"{names[0]!r} has; pad it to a multiple of {parts}"
            )
    return found


def _spec(letters, found):
    """Return the PartitionSpec without axes at the end that are whole, which the array need not have."""
    parts = [found.get(letter) for letter in letters.split()]
    while parts and parts[-1] is None:
        parts.pop()
    return PartitionSpec(*parts)


def _specs(letters, found, tree):
    """Return the PartitionSpecs of the leaves, which may have fewer axes than letters."""
    parts = _spec(letters, found)
    return jax.tree.map(lambda leaf: PartitionSpec(*parts[: np.ndim(leaf)]), tree)
