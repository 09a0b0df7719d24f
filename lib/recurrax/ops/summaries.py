"""Say how the state of an op crosses a cut in time: what each device does when a mesh splits the sequence into shards.

    EntryWise   S -> a * S + u, entry by entry: each device computes (a, u) of its shard; one all-gather
    Dense       S -> A S + U for a K x K matrix A per head: the same, with a matrix product
    Fold        any other map of the state over a shard, which has a short summary
    LastTokens  the state is the last W tokens: a halo from the neighbour
    Pointwise   there is no state: tokens do not depend on each other
    Sequential  the state can only be passed on: the shards run one after the other

Each of them has `across(run, given, state)`, called inside `jax.shard_map`, where `given` are the arguments of one
device by name, `run(given)` returns (outputs, last state) of its shard, and `state` names the incoming state. It
returns the outputs of the shard, and the last state of the sequence on every device.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from recurrax.ops import time_sharding
from recurrax.ops.dtypes import common_dtype, wide_dtype
from recurrax.types import Array, PyTree

Given = dict[str, Any]
Run = Callable[[Given], tuple[PyTree, PyTree]]


@dataclasses.dataclass(frozen=True)
class Fold:
    """The state after a shard is a function of the state before it and of a summary of the shard."""

    summarise: Callable[[Run, Given, str], tuple[PyTree, Callable[[PyTree, Array], Array]]]
    """(run, given, state) -> (summary, step), with step(summary, S) the state after a shard that S enters. The last
    leaf of a summary is the state after a shard that no state enters."""
    empty: float = 0.0
    """The entries of the state in which a document starts."""

    def across(self, run: Run, given: Given, state: str) -> tuple[PyTree, PyTree]:
        """Run the shard from the state that enters it."""
        summary, step = self.summarise(run, given, state)
        written = jax.tree.leaves(summary)[-1]
        start = given[state]
        start = jnp.full_like(written, self.empty) if start is None else start.astype(common_dtype(start, written))
        before, last = time_sharding.fold(
            summary, start, step, reset=given.get("reset"), reverse=given.get("reverse", False), empty=self.empty
        )
        return run({**given, state: before})[0], last


@dataclasses.dataclass(frozen=True)
class EntryWise:
    """A shard maps the state by S -> a * S + u, entry by entry."""

    factors: Callable[[Run, Given, str], tuple[Array, Array]]
    """(run, given, state) -> (a, u); a broadcasts against u."""

    def across(self, run: Run, given: Given, state: str) -> tuple[PyTree, PyTree]:
        """Run the shard from the state that enters it."""
        return Fold(self._summarise).across(run, given, state)

    def _summarise(self, run, given, state):
        a, u = self.factors(run, given, state)
        if given.get("reset") is not None:  # by a select: 0 * NaN would be NaN
            starts = given["reset"].any(1)
            a = jnp.where(starts.reshape(-1, *(1,) * (a.ndim - 1)), jnp.zeros((), a.dtype), a)
        return (a, u), affine


def affine(summary: tuple[Array, Array], state: Array) -> Array:
    """Return a * S + u."""
    a, u = summary
    return a * state + u


@dataclasses.dataclass(frozen=True)
class Dense:
    """A shard maps matrix states by S -> A S + U, with a K x K matrix A per head.

    The op itself computes A and U in one pass. The columns of a state are independent: with the state [0, I] and the
    values [v, 0] the last state is [U, A].
    """

    key: str = "k"
    """Argument (B, T, ..., H, K) that has the size of the keys."""
    value: str = "v"
    """Argument (B, T, ..., H, V) that is written to the state."""

    def across(self, run: Run, given: Given, state: str) -> tuple[PyTree, PyTree]:
        """Run the shard from the state that enters it."""
        return Fold(self._summarise).across(run, given, state)

    def _summarise(self, run, given, state):
        k, v = given[self.key], given[self.value]
        dtype = wide_dtype(k.dtype)
        (batch, *_, heads, key), value = k.shape, v.shape[-1]
        identity = jnp.broadcast_to(jnp.eye(key, dtype=dtype), (batch, heads, key, key))
        start = jnp.concatenate([jnp.zeros((batch, heads, key, value), dtype), identity], axis=-1)
        both = jnp.concatenate([v, jnp.zeros((*v.shape[:-1], key), v.dtype)], axis=-1)
        written, transition = jnp.split(run({**given, self.value: both, state: start})[1], (value,), axis=-1)
        return (transition, written), _matrix_step


def _matrix_step(summary, state):
    transition, written = summary
    return jnp.einsum("bhij,bhjv->bhiv", transition, state, precision=lax.Precision.HIGHEST) + written


@dataclasses.dataclass(frozen=True)
class LastTokens:
    """The state holds the last W tokens: convolutions, token shifts, attention caches."""

    tokens: Callable[[Given], PyTree]
    """The tokens of this shard as the state holds them, leaves (B, T, ...)."""
    empty: Callable[[Given], PyTree]
    """The state before the first token, leaves (B, W, ...), for calls that pass none."""

    def across(self, run: Run, given: Given, state: str) -> tuple[PyTree, PyTree]:
        """Run the shard from the tokens before it."""
        before, last = self.around(given, state)
        return run({**given, state: before})[0], last

    def around(self, given: Given, state: str) -> tuple[PyTree, PyTree]:
        """Return the state before this shard and the state at the end of the sequence."""
        tokens = self.tokens(given)
        start = self.empty(given) if given[state] is None else given[state]
        start = jax.tree.map(lambda leaf, token: leaf.astype(token.dtype), start, tokens)
        before, kept, last, kept_at_last = time_sharding.past(tokens, start, given.get("reset"))
        return self.masked(before, kept), self.masked(last, kept_at_last)

    def masked(self, tokens: PyTree, kept: Array) -> PyTree:
        """Return the tokens of a state, where `kept` (B, W) is False for those of earlier documents: zeros there."""
        return jax.tree.map(lambda leaf: jnp.where(kept.reshape(*kept.shape, *(1,) * (leaf.ndim - 2)), leaf, 0), tokens)


@dataclasses.dataclass(frozen=True)
class Pointwise:
    """Tokens do not depend on each other, and there is no state."""

    def across(self, run: Run, given: Given, state: str) -> PyTree:
        """Run the shard alone."""
        del state
        return run(given)


@dataclasses.dataclass(frozen=True)
class Sequential:
    """The state after a shard has no shorter summary than the shard: the shards run one after the other.

    While one runs, the other devices wait: splitting the sequence saves memory, not time.
    """

    def across(self, run: Run, given: Given, state: str) -> tuple[PyTree, PyTree]:
        """Run the shard when its turn comes, from the state that the shard before it left."""
        shards, here = time_sharding.count(), time_sharding.index()
        outputs, after = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(lambda: run(given))
        )  # fmt: skip
        start = given[state]
        start = after if start is None else jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), start, after)

        def turn(carry, shard):
            entering, outputs = carry
            outputs, after = lax.cond(
                here == shard, lambda: run({**given, state: entering}), lambda: (outputs, entering)
            )
            return (time_sharding.from_shard(shard, after), outputs), None

        order = jnp.arange(shards)
        (last, outputs), _ = lax.scan(turn, (start, outputs), order, reverse=given.get("reverse", False))
        return outputs, last


SUMMARIES = (Fold, EntryWise, Dense, LastTokens, Pointwise, Sequential)
"""The classes of which a summary may be an instance."""
