"""A cache of fixed size, which gives attention a state: what the last W tokens left, and which of them are there."""

import jax.numpy as jnp
from jaxtyping import Array, Bool

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
        past = size
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


def _last(array, size):
    """The last `size` entries of axis 1, zeros (False) in front where there are fewer."""
    missing = max(size - array.shape[1], 0)
    padded = jnp.pad(array, ((0, 0), (missing, 0), *((0, 0) for _ in array.shape[2:])))
    return padded[:, padded.shape[1] - size :]
