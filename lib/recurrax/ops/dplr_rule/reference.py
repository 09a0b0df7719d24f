"""The definition: one step after the other."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from recurrax.ops.linear_attention.reference import decayed, read


@functools.partial(jax.jit, static_argnames=("scale", "chunk_size"))
def dplr(q, k, v, a, b, log_decay, state, *, scale, chunk_size=None):
    """q (B, T, Hq, K), k, a, b (B, T, H, K), v (B, T, H, V), log_decay None or (B, T, H, 1 | K).

    Returns o (B, T, Hq, V) and the last state.
    """
    del chunk_size

    def step(state, inputs):
        q, k, v, a, b, *gate = inputs
        found = read(a, state)
        state = decayed(state, *gate) + b[..., :, None] * found[..., None, :] + k[..., :, None] * v[..., None, :]
        return state, scale * read(q, state)

    inputs = [x for x in (q, k, v, a, b, log_decay) if x is not None]
    state, o = lax.scan(step, state, [jnp.moveaxis(x, 1, 0).astype(state.dtype) for x in inputs])
    return jnp.moveaxis(o, 0, 1).astype(q.dtype), state
