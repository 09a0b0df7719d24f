"""Define `delta_rule` and `delta_product` step by step."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from recurrax.ops.families.linear_attention.reference import decayed, over_time, read


@functools.partial(jax.jit, static_argnames=("scale", "chunk_size"))
def delta(q, k, v, beta, log_decay, state, reset, *, scale, chunk_size=None):
    """Return o (B, T, Hq, V) and the last state, for q (B, T, Hq, K), k and v (B, T, [R,] H, K | V), beta
    (B, T, [R,] H), log_decay None or (B, T, H, 1 | K), state (B, H, K, V) and reset None or (B, T).
    """
    del chunk_size
    k, v, beta = with_steps(k, v, beta)

    def write(state, row):
        k, v, beta = row
        error = v - read(k, state)
        return state + (beta[..., None] * k)[..., :, None] * error[..., None, :], None

    def step(state, token):
        q, k, v, beta, gate, reset = token
        rows = [jnp.moveaxis(x, 1, 0) for x in (k, v, beta)]
        state, _ = lax.scan(write, decayed(state, gate, reset), rows)
        return state, scale * read(q, state)

    return over_time(step, state, (q, k, v, beta, log_decay), reset)


def with_steps(k, v, beta):
    """Add a step axis R of length 1 if it is missing, so that the delta rule is the delta product with R = 1."""
    return (k, v, beta) if k.ndim == 5 else (k[:, :, None], v[:, :, None], beta[:, :, None])
