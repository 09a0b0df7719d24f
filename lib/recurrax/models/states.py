"""Provides what is done with the states of whole models: selecting, repeating and choosing rows.

A model's state is a tree {"first", "groups", "rest"} of one entry per block. Rows are on axis 0 of a leaf, and on
axis 1 below "groups", whose leaves a scan over depth has stacked.
"""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from recurrax import checks
from recurrax.layers import LayerConfig
from recurrax.models.backbone import Backbone, BackboneConfig, block_name
from recurrax.types import ArrayLike, State

STACKED = "groups"
"""The part of a state whose leaves have depth before rows."""


def batch_axis(path: str) -> int:
    """Return the axis of rows of the leaf at this path."""
    return 1 if path.split("/")[0] == STACKED else 0


def select_rows(state: State, indices: Int[ArrayLike, " N"]) -> State:
    """Return the states of these rows, in this order: those of beams, or those that are not finished yet.

    Raises:
      ValueError: outside of a trace, a row is not in the state.
    """
    indices = jnp.asarray(indices)
    paths = jax.tree_util.tree_leaves_with_path(state)
    if paths and checks.is_known(indices) and indices.size:
        path, leaf = paths[0]
        rows = leaf.shape[batch_axis(_name(path))]
        if int(indices.min()) < 0 or int(indices.max()) >= rows:
            raise ValueError(f"indices must be in [0, {rows}), got {indices.tolist()}")
    return _map(lambda path, leaf: jnp.take(leaf, indices, axis=batch_axis(path)), state)


def repeat_rows(state: State, batch_size: int) -> State:
    """Return the state of one row for each of `batch_size` rows."""
    return _map(lambda path, leaf: jnp.repeat(leaf, batch_size, axis=batch_axis(path)), state)


def join_rows(given: Sequence[State]) -> State:
    """Return the rows of several states as one state."""
    return _map(lambda path, *leaves: jnp.concatenate(leaves, axis=batch_axis(path)), *given)


def where_rows(condition: Bool[Array, " B"], state: State, other: State) -> State:
    """Return for each row the first state where the condition holds, else the second."""

    def choose(path, leaf, another):
        shape = [1] * leaf.ndim
        shape[batch_axis(path)] = -1
        return jnp.where(condition.reshape(shape), leaf, another)

    return _map(choose, state, other)


def first(config: BackboneConfig) -> State:
    """Return the state of one row before the first token."""
    return Backbone(config, parent=None).init_state(1)


def leaves(config: BackboneConfig, state: State) -> Iterator[tuple[str, LayerConfig, Array]]:
    """Yield path, layer and leaf of a state, in the order of `jax.tree.leaves`; paths name blocks as parameters do."""
    for part, blocks in sorted(_parts(config).items()):
        for i, block in enumerate(blocks):
            for name, layer in sorted(block.layers.items()):
                for path, leaf in jax.tree_util.tree_leaves_with_path(state[part][i][name]):
                    yield "/".join((part, block_name(i, block), name, _name(path) or "state")), layer, leaf


def map_with_path(function: Callable[[str, Array], Array], config: BackboneConfig, state: State) -> State:
    """Return the state with each leaf replaced by function(path, leaf), with the paths of `leaves`."""
    replaced = [function(path, leaf) for path, _, leaf in leaves(config, state)]
    return jax.tree.unflatten(jax.tree.structure(state), replaced)


def _parts(config: BackboneConfig):
    layout = config.layout
    return {"first": layout.first, "groups": layout.pattern if layout.repeats else (), "rest": layout.rest}


def _map(function, state, *others):
    return jax.tree_util.tree_map_with_path(lambda path, *given: function(_name(path), *given), state, *others)


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
