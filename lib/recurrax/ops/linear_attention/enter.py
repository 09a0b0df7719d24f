"""The state of `linear_attention` that enters a stretch of time: no pass over it is needed, one product of matrices is.

A = e^{g_1 + ... + g_T}        U = sum_t e^{g_{t+1} + ... + g_T} k_t v_t^T
"""

import jax.numpy as jnp

from recurrax.ops import blocks, time_sharding
from recurrax.ops.decay import FLOOR


def enter(op, given):
    """(S before this stretch, S after the last one), inside of `jax.shard_map`."""
    del op
    k, v, log_decay, state, reset = (given[name] for name in ("k", "v", "log_decay", "state", "reset"))
    dtype = jnp.promote_types(k.dtype, jnp.float32)
    gates = jnp.zeros((*k.shape[:3], 1), dtype) if log_decay is None else jnp.asarray(log_decay).astype(dtype)
    gates = gates.reshape(*k.shape[:3], -1)
    if reset is not None:
        gates = jnp.where(reset[..., None, None], FLOOR, gates)
    gates = jnp.maximum(gates, FLOOR)
    # From the end: what lies between a token and the end is a sum of gates of one sign, never a difference of sums.
    to_end = jnp.flip(jnp.cumsum(jnp.flip(gates, 1), axis=1), 1)
    after = jnp.pad(to_end[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0)))
    precision = blocks.exactness(k.dtype)
    written = jnp.einsum("bthk,bthv->bhkv", k * jnp.exp(after), v.astype(dtype), precision=precision)
    state = jnp.zeros_like(written) if state is None else state.astype(dtype)
    return time_sharding.fold((jnp.exp(to_end[:, 0])[..., None], written), state)
