"""Define `linear_attention` step by step."""

import functools

import jax
import jax.numpy as jnp
from jax import lax


@functools.partial(jax.jit, static_argnames=("scale", "chunk_size"))
def attend(q, k, v, log_decay, state, reset, *, scale, chunk_size=None):
    """Return o (B, T, Hq, V) and the last state, for q (B, T, Hq, K), k (B, T, H, K), v (B, T, H, V), log_decay None or
    (B, T, H, 1 | K), state (B, H, K, V) and reset None or (B, T).
    """
    del chunk_size

    def step(state, token):
        q, k, v, gate, reset = token
        state = decayed(state, gate, reset) + k[..., :, None] * v[..., None, :]
        return state, scale * read(q, state)

    return over_time(step, state, (q, k, v, log_decay), reset)


def over_time(step, state, inputs, reset):
    """Scan `step(state, (*inputs, reset)) -> (state, o_t)` over axis 1, in the state's dtype; None stays None."""
    tokens = [None if x is None else jnp.moveaxis(x, 1, 0).astype(state.dtype) for x in inputs]
    state, o = lax.scan(step, state, (*tokens, None if reset is None else jnp.moveaxis(reset, 1, 0)))
    return jnp.moveaxis(o, 0, 1).astype(inputs[0].dtype), state


def read(q, state):
    """Return S^T q (B, Hq, V); Hq / H queries read each state."""
    batch, heads, key, value = state.shape
    grouped = q.reshape(batch, heads, -1, key)
    o = jnp.einsum("bhgk,bhkv->bhgv", grouped, state, precision=lax.Precision.HIGHEST)
    return o.reshape(batch, -1, value)


def decayed(state, gate, reset):
    """Return diag(e^g) S, and 0 where a document starts, by a select, because 0 * NaN would be NaN."""
    if reset is not None:
        state = jnp.where(reset[:, None, None, None], 0, state)
    # S + (e^g - 1) S: near 1 a float32 e^g has an error of 3e-8 at each step, always of the same sign.
    return state if gate is None else state + jnp.expm1(gate)[..., None] * state
