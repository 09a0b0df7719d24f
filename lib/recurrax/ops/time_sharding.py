"""The state that enters a device's stretch of time, where mesh axis "time" cuts the sequence into stretches.

Two kinds of state, two exchanges, both inside of `jax.shard_map`:

`fold`: a recurrence maps a state over a stretch by S -> A S + U. Each device makes (A, U) of its own stretch from no
state at all; one all-gather hands them to everybody, and each device applies in order those of the stretches before
its own. The bytes are those of one state and one transition per stretch, whatever the length of the sequence; a
gradient goes back by one reduce-scatter of the same. A is never multiplied with another A, only with a state: no digits
are lost in products of transitions, and none of K x K matrices is computed.

`past`: convolutions, token shifts and attention remember the last W tokens themselves. Where a stretch is as long as
that, the neighbour's last W are all (one collective-permute, the halo); otherwise all tokens are gathered, which for
attention without a window is what it needs.

`sharding.sharded` then runs the op with that state, on every device at the same time.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Int

from recurrax.ops.sharding import TIME
from recurrax.types import PyTree, Reset, State


def affine(summary: tuple[Array, Array], state: Array) -> Array:
    """A * S + U, of a transition that acts entry by entry."""
    kept, written = summary
    return kept * state + written


def fold(
    summary: PyTree,
    state: State,
    step: Callable = affine,
    *,
    reset: Bool[Array, "B T"] | None = None,
    reverse: bool = False,
) -> tuple[State, State]:
    """Return the state that enters this shard and the one that leaves the last: S <- step(summary, S) for each shard.

    Args:
      summary: what this shard does to a state, such as (A, U).
      state: what enters the first shard, (B, ...), the same on every device.
      step: (summary, state) -> state.
      reset: True where a document starts: such a shard is given a state of zeros, whatever the one before it left.
      reverse: time runs backwards, so the last shard comes first.
    """
    cut = None if reset is None else reset.any(1)

    def through(state, shard):
        summary, cut = shard
        kept = state
        if cut is not None:
            kept = jax.tree.map(lambda leaf: jnp.where(cut.reshape(-1, *(1,) * (leaf.ndim - 1)), 0, leaf), state)
        return step(summary, kept), state

    last, entering = lax.scan(through, state, lax.all_gather((summary, cut), TIME), reverse=reverse)
    here = lax.axis_index(TIME)
    return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, here, keepdims=False), entering), last


def past(
    tokens: PyTree, state: PyTree, reset: Reset | None = None
) -> tuple[PyTree, Bool[Array, "B W"], PyTree, Bool[Array, "B W"]]:
    """The last W tokens before this stretch and those before the end of the last one.

    Args:
      tokens: this stretch's, leaves (B, T, ...).
      state: the W tokens before the first stretch, leaves (B, W, ...), the same on every device.
      reset: True where a document starts.

    Returns:
      The tokens before this stretch, and which of them are of the document that is open there; and the same at the end.
    """
    (batch, length), size = jax.tree.leaves(tokens)[0].shape[:2], jax.tree.leaves(state)[0].shape[1]
    number = jnp.zeros((batch, length), jnp.int32) if reset is None else jnp.cumsum(reset, axis=1, dtype=jnp.int32)
    tokens, state = (tokens, number), (state, jnp.zeros((batch, size), jnp.int32))
    if size <= length:
        return _from_neighbour(tokens, state, size)
    return _from_all(tokens, state, size)


def _from_neighbour(tokens, state, size):
    """Where the stretch before this one holds them all."""
    stretches, here = lax.axis_size(TIME), lax.axis_index(TIME)
    last = tokens[1][:, -1:]
    tokens, number = jax.tree.map(lambda leaf: leaf[:, leaf.shape[1] - size :], tokens)
    kept = number == last
    neighbour = lax.ppermute((tokens, kept), TIME, [(i, i + 1) for i in range(stretches - 1)])
    given = (state[0], jnp.ones_like(kept))
    before = jax.tree.map(lambda first, other: jnp.where(here == 0, first, other), given, neighbour)
    is_last = here == stretches - 1

    def of_the_last(leaf):
        wide = leaf.astype(jnp.int32) if leaf.dtype == jnp.bool_ else leaf
        return lax.psum(jnp.where(is_last, wide, jnp.zeros_like(wide)), TIME).astype(leaf.dtype)

    return *before, *jax.tree.map(of_the_last, (tokens, kept))


def _from_all(tokens, state, size):
    stretches, here = lax.axis_size(TIME), lax.axis_index(TIME)
    length = tokens[1].shape[1]
    tokens, number = lax.all_gather(tokens, TIME, axis=1, tiled=True)
    number = _count_on(number, stretches)
    everything = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), state, (tokens, number))

    def until(position):
        tokens, number = jax.tree.map(lambda leaf: lax.dynamic_slice_in_dim(leaf, position, size, axis=1), everything)
        return tokens, number == number[:, -1:]

    return *until(here * length), *until(stretches * length)


def _count_on(number: Int[Array, "B T"], stretches: int) -> Int[Array, "B T"]:
    """Documents counted from the first stretch on, where each stretch has counted its own."""
    each = number.reshape(number.shape[0], stretches, -1)
    before = jnp.cumsum(each[:, :, -1], axis=1) - each[:, :, -1]
    return (each + before[..., None]).reshape(number.shape)
