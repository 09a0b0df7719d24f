"""The definition: one step after the other."""

import functools

import jax
import jax.numpy as jnp
from jax import lax


@functools.partial(jax.jit, static_argnames="chunk_size")
def scan(x, dt, a, b, c, state, reset, *, chunk_size=None):
    """x, dt (B, T, E), a (E, N), b, c (B, T, N), state (B, E, N), reset (B, T) or None: y (B, T, E), the last state."""
    del chunk_size
    reset = jnp.zeros(x.shape[:2], bool) if reset is None else reset

    def step(h, inputs):
        x, dt, b, c, reset = inputs
        h = jnp.where(reset[:, None, None], 0, h)
        h = jnp.exp(dt[:, :, None] * a[None]) * h + (dt * x)[:, :, None] * b[:, None, :]
        return h, jnp.einsum("ben,bn->be", h, c, precision=lax.Precision.HIGHEST)

    state, y = lax.scan(step, state, tuple(array.swapaxes(0, 1) for array in (x, dt, b, c, reset)))
    return y.swapaxes(0, 1), state
