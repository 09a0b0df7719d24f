"""Compute what a shard of a sequence does to the state of `linear_attention`, by one matrix product: S -> a * S + u.

a = e^{g_1 + ... + g_T}        u = sum_t e^{g_{t+1} + ... + g_T} k_t v_t^T
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax.ops import blocks
from recurrax.ops.decay import FLOOR
from recurrax.ops.dtypes import wide_dtype


def factors(run: Any, given: dict[str, Any], state: str) -> tuple[Float[Array, "B H _ 1"], Float[Array, "B H K V"]]:
    """Return (a, u) of this shard."""
    del run, state
    k, v, log_decay, reset = (given[name] for name in ("k", "v", "log_decay", "reset"))
    dtype = wide_dtype(k.dtype)
    gates = jnp.zeros((*k.shape[:3], 1), dtype) if log_decay is None else log_decay.astype(dtype)
    gates = jnp.maximum(gates.reshape(*k.shape[:3], -1), FLOOR)
    # Only tokens from the last document start on reach the last state.
    last = jnp.ones((*k.shape[:2], 1, 1), bool)
    if reset is not None:
        started = jnp.cumsum(reset, axis=1, dtype=jnp.int32)
        last = (started == started[:, -1:])[..., None, None]
    # Summed from the end: the decay between a token and the end is then a sum of one sign, not a difference of sums.
    to_end = jnp.flip(jnp.cumsum(jnp.flip(gates, 1), axis=1), 1)
    after = jnp.pad(to_end[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0)))
    keys, values = jnp.where(last, k * jnp.exp(after), 0), jnp.where(last, v.astype(dtype), 0)
    written = jnp.einsum("bthk,bthv->bhkv", keys, values, precision=blocks.exactness(k.dtype))
    return jnp.exp(to_end[:, 0])[..., None], written
