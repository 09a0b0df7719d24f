"""Provide the state of attention: a cache of fixed size for the last W tokens, and a mask of its filled entries."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool

from recurrax.layers import LayerConfig
from recurrax.mixers.softmax import Seen
from recurrax.ops import time_sharding
from recurrax.ops.summaries import LastTokens
from recurrax.types import Dtype, Reset, State


class Cached:
    """What configs of attention share; a dataclass that inherits it has the two fields."""

    window: int | None
    max_length: int

    @property
    def cache_size(self) -> int:
        """Number of tokens in the cache, W."""
        return self.window or self.max_length

    @property
    def context(self) -> int | None:
        """The size of a cache without a window, which forgets tokens that attention would use."""
        return None if self.window else self.max_length

    def with_context(self, context: int) -> LayerConfig:
        """Return this config with a cache of `context` tokens, or itself with its window."""
        return self if self.window else dataclasses.replace(self, max_length=context)


def check_length(length: int, window: int | None, max_length: int) -> None:
    """Raise ValueError if a call without a window is longer than the cache, which could not hold all of its tokens."""
    if window is None and length > max_length:
        raise ValueError(f"{length} tokens in one call, but max_length is {max_length}; raise it or set a window")


def empty(batch_size: int, size: int, dtype: Dtype, **shapes: tuple[int, ...]) -> State:
    """Return the cache before the first token: zeros (B, W, *shape) by name, and "seen", (B, W) bool, all False."""
    arrays = {name: jnp.zeros((batch_size, size, *shape), dtype) for name, shape in shapes.items()}
    return {**arrays, "seen": jnp.zeros((batch_size, size), bool)}


def extended(
    new: dict[str, Array], state: State | None, size: int, *, reset: Reset | None
) -> tuple[dict[str, Array], Seen, State]:
    """Return the cached entries followed by the new ones, which of them each query sees, and the next cache."""
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
    return new, Seen(past, mask, document), {name: _last(array, size) for name, array in after.items()}


class LastEntries(LastTokens):
    """How a cache crosses a cut in time, for functions of (new, state, reset, config)."""

    def __init__(self):
        super().__init__(tokens=_entries, empty=_no_entries)

    def across(self, run: Callable, given: dict[str, Any], state: str) -> tuple[Array, State]:
        """Run the shard from the cache before it.

        If no cache enters the sequence, that of a shard is no longer than all the other shards together.
        """
        before, last = self.around(given, state)
        if given[state] is None:
            others = (time_sharding.count() - 1) * next(iter(given["new"].values())).shape[1]
            before = {name: _last(array, min(array.shape[1], others)) for name, array in before.items()}
        return run({**given, state: before})[0], last

    def masked(self, tokens: State, kept: Bool[Array, "B W"]) -> State:
        """Return the cache in which entries of earlier documents are not seen; like on one device, they stay in it."""
        return {**tokens, "seen": tokens["seen"] & kept}


def _entries(given):
    new = given["new"]
    return {**new, "seen": jnp.ones(next(iter(new.values())).shape[:2], bool)}


def _no_entries(given):
    new, size = given["new"], given["config"].cache_size
    shapes = {name: array.shape[2:] for name, array in new.items()}
    first = next(iter(new.values()))
    return empty(len(first), size, first.dtype, **shapes)


def _last(array, size):
    """Return the last `size` entries of axis 1, padded in front with zeros (False) if there are fewer."""
    missing = max(size - array.shape[1], 0)
    padded = jnp.pad(array, ((0, 0), (missing, 0), *((0, 0) for _ in array.shape[2:])))
    return padded[:, padded.shape[1] - size :]
