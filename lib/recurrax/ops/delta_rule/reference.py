"""The definition: one step after the other."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from recurrax.ops.linear_attention.reference import decayed


@functools.partial(jax.jit, static_argnames=("scale", "chunk_size"))
def delta(q, k, v, beta, log_decay, state, *, scale, chunk_size=None):
    """q (B, T, H, G, K), k (B, T, H, R, K), v (B, T, H, R, V), beta (B, T, H, R), log_decay None or (B, T, H, 1 | K).

    Returns o (B, T, H, G, V) and the last state.
    """
    del chunk_size
    einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)

    def write(state, row):
        k, v, beta = row
        error = v - einsum("bhk,bhkv->bhv", k, state)
        return state + (beta[..., None] * k)[..., :, None] * error[..., None, :], None

    def step(state, inputs):
        q, k, v, beta, *gate = inputs
        rows = [jnp.moveaxis(x, 2, 0) for x in (k, v, beta)]
        state, _ = lax.scan(write, decayed(state, *gate), rows)
        return state, scale * einsum("bhgk,bhkv->bhgv", q, state)

    inputs = [x for x in (q, k, v, beta, log_decay) if x is not None]
    state, o = lax.scan(step, state, [jnp.moveaxis(x, 1, 0).astype(state.dtype) for x in inputs])
    return jnp.moveaxis(o, 0, 1).astype(q.dtype), state
