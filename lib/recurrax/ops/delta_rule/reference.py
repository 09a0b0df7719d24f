"""The definition: one step after the other."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from recurrax.ops.linear_attention.reference import decayed, read


@functools.partial(jax.jit, static_argnames=("scale", "chunk_size"))
def delta(q, k, v, beta, log_decay, state, *, scale, chunk_size=None):
    """q (B, T, Hq, K), k, v (B, T, [R,] H, K | V), beta (B, T, [R,] H), log_decay None or (B, T, H, 1 | K).

    Returns o (B, T, Hq, V) and the last state.
    """
    del chunk_size
    k, v, beta = with_steps(k, v, beta)

    def write(state, row):
        k, v, beta = row
        error = v - read(k, state)
        return state + (beta[..., None] * k)[..., :, None] * error[..., None, :], None

    def step(state, inputs):
        q, k, v, beta, *gate = inputs
        rows = [jnp.moveaxis(x, 1, 0) for x in (k, v, beta)]
        state, _ = lax.scan(write, decayed(state, *gate), rows)
        return state, scale * read(q, state)

    inputs = [x for x in (q, k, v, beta, log_decay) if x is not None]
    state, o = lax.scan(step, state, [jnp.moveaxis(x, 1, 0).astype(state.dtype) for x in inputs])
    return jnp.moveaxis(o, 0, 1).astype(q.dtype), state


def with_steps(k, v, beta):
    """With the axis R after time, which the delta rule has not: its one step."""
    return (k, v, beta) if k.ndim == 5 else (k[:, :, None], v[:, :, None], beta[:, :, None])
