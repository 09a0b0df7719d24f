"""Compute the state of `linear_attention` that enters a shard of a sequence, by one matrix product.

A = e^{g_1 + ... + g_T}        U = sum_t e^{g_{t+1} + ... + g_T} k_t v_t^T
"""

import jax.numpy as jnp

from recurrax.ops import blocks, time_sharding
from recurrax.ops.decay import FLOOR
from recurrax.ops.dtypes import wide_dtype


def enter(op, given):
    """Return (S before this shard, S after the last one), inside `jax.shard_map`."""
    del op
    k, v, log_decay, state, reset = (given[name] for name in ("k", "v", "log_decay", "state", "reset"))
    dtype = wide_dtype(k.dtype)
    gates = jnp.zeros((*k.shape[:3], 1), dtype) if log_decay is None else jnp.asarray(log_decay).astype(dtype)
    gates = gates.reshape(*k.shape[:3], -1)
    gates = jnp.maximum(gates, FLOOR)
    # Only tokens from the last document start on reach the last state, and the entering state if no document starts.
    last = jnp.ones((*k.shape[:2], 1, 1), bool)
    if reset is not None:
        started = jnp.cumsum(reset, axis=1, dtype=jnp.int32)
        last = (started == started[:, -1:])[..., None, None]
    # Summed from the end: the decay between a token and the end is then a sum of one sign, not a difference of sums.
    to_end = jnp.flip(jnp.cumsum(jnp.flip(gates, 1), axis=1), 1)
    after = jnp.pad(to_end[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0)))
    precision = blocks.exactness(k.dtype)
    keys, values = jnp.where(last, k * jnp.exp(after), 0), jnp.where(last, v.astype(dtype), 0)
    written = jnp.einsum("bthk,bthv->bhkv", keys, values, precision=precision)
    state = jnp.zeros_like(written) if state is None else state.astype(dtype)
    kept = jnp.exp(to_end[:, 0])[..., None]
    if reset is not None:
        kept = jnp.where(reset.any(1)[:, None, None, None], 0, kept)
    return time_sharding.fold((kept, written), state, reset=reset)
