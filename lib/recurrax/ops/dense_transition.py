"""Compute the state that enters a shard of a sequence, for ops whose transition is a K x K matrix: S -> A S + U.

The op itself computes A and U in one pass. The columns of a state are independent: with the state [0, I] and the values
[v, 0] the last state is [U, A].
"""

import jax.numpy as jnp
from jax import lax

from recurrax.ops import time_sharding
from recurrax.ops.dtypes import wide_dtype


def enter(op, given):
    """Return (S before this shard, S after the last one) for delta rules and `dplr_rule`, inside `jax.shard_map`."""
    k, v, state = (jnp.asarray(given[name]) if given[name] is not None else None for name in ("k", "v", "state"))
    dtype = wide_dtype(k.dtype)
    (batch, *_, heads, key), value = k.shape, v.shape[-1]
    identity = jnp.broadcast_to(jnp.eye(key, dtype=dtype), (batch, heads, key, key))
    nothing = jnp.zeros((batch, heads, key, value), dtype)
    both = jnp.concatenate([v, jnp.zeros((*v.shape[:-1], key), v.dtype)], axis=-1)
    start = jnp.concatenate([nothing, identity], axis=-1)
    written, transition = jnp.split(op(**{**given, "v": both, "state": start})[1], (value,), axis=-1)

    def step(summary, state):
        transition, written = summary
        return jnp.einsum("bhij,bhjv->bhiv", transition, state, precision=lax.Precision.HIGHEST) + written

    return time_sharding.fold(
        (transition, written), nothing if state is None else state.astype(dtype), step, reset=given["reset"]
    )
