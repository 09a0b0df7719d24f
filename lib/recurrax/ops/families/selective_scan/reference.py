"""Define `selective_scan` step by step."""

import functools

import jax
import jax.numpy as jnp
from jax import lax


@functools.partial(jax.jit, static_argnames="chunk_size")
def scan(x, dt, a, b, c, state, reset, *, chunk_size=None):
    """Return y (B, T, E) and the last state, for x and dt (B, T, E), a (E, N), b and c (B, T, N), state (B, E, N) and
    reset (B, T) or None. All is computed in the dtype of the state.
    """
    del chunk_size
    dtype = x.dtype
    x, dt, a, b, c = (each.astype(state.dtype) for each in (x, dt, a, b, c))
    reset = jnp.zeros(x.shape[:2], bool) if reset is None else reset

    def step(h, inputs):
        x, dt, b, c, reset = inputs
        h = jnp.where(reset[:, None, None], 0, h)
        h = jnp.exp(dt[:, :, None] * a[None]) * h + (dt * x)[:, :, None] * b[:, None, :]
        return h, jnp.einsum("ben,bn->be", h, c, precision=lax.Precision.HIGHEST)

    state, y = lax.scan(step, state, tuple(array.swapaxes(0, 1) for array in (x, dt, b, c, reset)))
    return y.swapaxes(0, 1).astype(dtype), state
