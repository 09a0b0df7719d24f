"""Communicate states between the shards of a sequence, inside `jax.shard_map` where a mesh splits it along time.

`fold`: a recurrence maps a state over a shard by a function with a short summary, such as S -> A S + U. Each device
computes (A, U) of its own shard, which needs no state; one all-gather sends them to all devices, and each device
applies those of the shards before its own in order. The bytes are those of one state and one transition per shard, for
any length of the sequence; the backward pass is one reduce-scatter of the same size. A is multiplied with a state,
never with another A: products of transitions lose no precision, and no product of K x K matrices is computed.

`past`: convolutions, token shifts and attention store the last W tokens themselves. If a shard has at least W tokens,
the neighbour's last W tokens suffice (one collective-permute, the halo); otherwise all tokens are gathered, which
attention without a window needs anyway.

`recurrax.ops.summaries` says which of them an op needs.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from recurrax.ops import sharding
from recurrax.types import PyTree, Reset, State


def count() -> int:
    """Return the number of shards of the sequence."""
    return lax.axis_size(sharding.axis("T"))


def index() -> Int[Array, ""]:
    """Return the index of this device's shard."""
    return lax.axis_index(sharding.axis("T"))


def from_shard(shard: int | Int[Array, ""], tree: PyTree) -> PyTree:
    """Return the arrays of one shard on every device."""
    mine, axis = index() == shard, sharding.axis("T")

    def one(leaf):
        wide = leaf.astype(jnp.int32) if leaf.dtype == jnp.bool_ else leaf
        return lax.psum(jnp.where(mine, wide, jnp.zeros_like(wide)), axis).astype(leaf.dtype)

    return jax.tree.map(one, tree)


def fold(
    summary: PyTree,
    state: State,
    step: Callable,
    *,
    reset: Bool[Array, "B T"] | None = None,
    reverse: bool = False,
    empty: float = 0.0,
) -> tuple[State, State]:
    """Return the state that enters this shard and the one that leaves the last: S <- step(summary, S) for each shard.

    Args:
      summary: the map of a state over this shard, such as (A, U).
      state: the state that enters the first shard, (B, ...), the same on every device.
      step: (summary, state) -> state.
      reset: True where a document starts; `step` receives an empty state for a shard that contains a start.
      reverse: whether time runs backwards, so that the last shard comes first.
      empty: the entries of an empty state.
    """
    cut = None if reset is None else reset.any(1)

    def through(state, shard):
        summary, cut = shard
        kept = state
        if cut is not None:
            kept = jax.tree.map(lambda leaf: jnp.where(cut.reshape(-1, *(1,) * (leaf.ndim - 1)), empty, leaf), state)
        return step(summary, kept), state

    last, entering = lax.scan(through, state, lax.all_gather((summary, cut), sharding.axis("T")), reverse=reverse)
    return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, index(), keepdims=False), entering), last


def past(
    tokens: PyTree, state: PyTree, reset: Reset | None = None
) -> tuple[PyTree, Bool[Array, "B W"], PyTree, Bool[Array, "B W"]]:
    """Return the last W tokens before this shard and the last W tokens of the sequence.

    Args:
      tokens: the tokens of this shard, leaves (B, T, ...).
      state: the W tokens before the first shard, leaves (B, W, ...), the same on every device.
      reset: True where a document starts.

    Returns:
      The tokens before this shard, a mask of those that belong to the document which is open there, and the same two
      at the end of the sequence.
    """
    (batch, length), size = jax.tree.leaves(tokens)[0].shape[:2], jax.tree.leaves(state)[0].shape[1]
    number = jnp.zeros((batch, length), jnp.int32) if reset is None else jnp.cumsum(reset, axis=1, dtype=jnp.int32)
    tokens, state = (tokens, number), (state, jnp.zeros((batch, size), jnp.int32))
    if size <= length:
        return _from_neighbour(tokens, state, size)
    return _from_all(tokens, state, size)


def _from_neighbour(tokens, state, size):
    """Return the results of `past` if the neighbouring shard has all W tokens."""
    shards, here = count(), index()
    last = tokens[1][:, -1:]
    tokens, number = jax.tree.map(lambda leaf: leaf[:, leaf.shape[1] - size :], tokens)
    kept = number == last
    neighbour = lax.ppermute((tokens, kept), sharding.axis("T"), [(i, i + 1) for i in range(shards - 1)])
    given = (state[0], jnp.ones_like(kept))
    before = jax.tree.map(lambda first, other: jnp.where(here == 0, first, other), given, neighbour)
    return *before, *from_shard(shards - 1, (tokens, kept))


def _from_all(tokens, state, size):
    """Return the results of `past` if W tokens span several shards."""
    shards, here = count(), index()
    length = tokens[1].shape[1]
    tokens, number = lax.all_gather(tokens, sharding.axis("T"), axis=1, tiled=True)
    number = _count_on(number, shards)
    everything = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), state, (tokens, number))

    def until(position):
        tokens, number = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, position, size, axis=1), everything)
        return tokens, number == number[:, -1:]

    return *until(here * length), *until(shards * length)


def _count_on(number: Int[Array, "B T"], shards: int) -> Int[Array, "B T"]:
    """Return document numbers counted from the first shard, given numbers that start at 0 in each shard."""
    each = number.reshape(number.shape[0], shards, -1)
    before = jnp.cumsum(each[:, :, -1], axis=1) - each[:, :, -1]
    return (each + before[..., None]).reshape(number.shape)
