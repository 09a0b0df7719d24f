"""Define `dplr_rule` step by step."""

import functools

import jax

from recurrax.ops.families.linear_attention.reference import decayed, over_time, read


@functools.partial(jax.jit, static_argnames=("scale", "chunk_size"))
def dplr(q, k, v, a, b, log_decay, state, reset, *, scale, chunk_size=None):
    """Return o (B, T, Hq, V) and the last state, for q (B, T, Hq, K), k, a and b (B, T, H, K), v (B, T, H, V),
    log_decay None or (B, T, H, 1 | K), state (B, H, K, V) and reset None or (B, T).
    """
    del chunk_size

    def step(state, token):
        q, k, v, a, b, gate, reset = token
        state = decayed(state, None, reset)
        found = read(a, state)
        state = decayed(state, gate, None) + b[..., :, None] * found[..., None, :] + k[..., :, None] * v[..., None, :]
        return state, scale * read(q, state)

    return over_time(step, state, (q, k, v, a, b, log_decay), reset)
