"""A cache of fixed size, which gives attention a state: what the last W tokens left, and which of them are there."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from recurrax.ops import time_sharding
from recurrax.types import Dtype, Reset, State


def check_length(length: int, window: int | None, max_length: int) -> None:
    """Raises ValueError where a call without a window is longer than the cache: it could not hold what was seen."""
    if window is None and length > max_length:
        raise ValueError(f"{length} tokens in one call, but max_length is {max_length}; raise it or set a window")


def empty(batch_size: int, size: int, dtype: Dtype, **shapes: tuple[int, ...]) -> State:
    """The cache before the first token: zeros (B, W, *shape) by name, and "seen": (B, W) bool."""
    arrays = {name: jnp.zeros((batch_size, size, *shape), dtype) for name, shape in shapes.items()}
    return {**arrays, "seen": jnp.zeros((batch_size, size), bool)}


def extended(
    new: dict[str, Array], state: State | None, size: int, *, reset: Reset | None
) -> tuple[dict[str, Array], int, Bool[Array, "B 1 T S"] | None, State]:
    """What is cached with what is new after it; how much of it is the cache; who sees whom; and the next cache.

    The mask is None where nothing needs one beyond causality: there is no cache, and no document starts.
    """
    first = next(iter(new.values()))
    (batch, length), past = first.shape[:2], 0
    seen = jnp.ones((batch, length), bool)
    if state is not None:
        past = state["seen"].shape[1]
        new = {name: jnp.concatenate([state[name].astype(array.dtype), array], axis=1) for name, array in new.items()}
        seen = jnp.concatenate([state["seen"], seen], axis=1)
    # Documents are counted from 0, the one that the cache belongs to.
    document = jnp.zeros((batch, length), jnp.int32) if reset is None else jnp.cumsum(reset, axis=1, dtype=jnp.int32)
    key_document = jnp.pad(document, ((0, 0), (past, 0)))
    mask = None
    if state is not None or reset is not None:
        mask = (seen[:, None, :] & (key_document[:, None, :] == document[:, :, None]))[:, None]
        if past:
            ahead = jnp.arange(past + length)[None] - (past + jnp.arange(length))[:, None]
            mask = mask & ((ahead <= 0) & (ahead > -size))[None, None]
    after = {**new, "seen": seen & (key_document == document[:, -1:])}
    return new, past, mask, {name: _last(array, size) for name, array in after.items()}


def enter(op, given: dict) -> tuple[State, State]:
    """The cache before a stretch of time and the one after the last, for ops of (new, state, reset, config).

    Where nothing came before the call, the first is no longer than all other stretches.
    """
    del op
    new, state, reset, size = given["new"], given["state"], given["reset"], given["config"].cache_size
    (batch, length), needed = next(iter(new.values())).shape[:2], size
    if state is None:
        state = {name: jnp.zeros((batch, size, *array.shape[2:]), array.dtype) for name, array in new.items()}
        state["seen"] = jnp.zeros((batch, size), bool)
        needed = min(size, (lax.axis_size(time_sharding.TIME) - 1) * length)
    state = {name: array.astype(new[name].dtype) if name in new else array for name, array in state.items()}
    tokens = {**new, "seen": jnp.ones((batch, length), bool)}
    before, kept, last, kept_at_last = time_sharding.past(tokens, state, reset)
    before["seen"], last["seen"] = before["seen"] & kept, last["seen"] & kept_at_last
    return {name: _last(array, needed) for name, array in before.items()}, last


def _last(array, size):
    """The last `size` entries of axis 1, zeros (False) in front where there are fewer."""
    missing = max(size - array.shape[1], 0)
    padded = jnp.pad(array, ((0, 0), (missing, 0), *((0, 0) for _ in array.shape[2:])))
    return padded[:, padded.shape[1] - size :]
