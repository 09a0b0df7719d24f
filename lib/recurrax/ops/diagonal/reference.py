"""The definition: one step after the other."""

import jax.numpy as jnp
from jax import lax

from recurrax.ops.diagonal.double_word import DoubleWord, from_array, multiply_add


def scan(a, x, h0, *, reverse=False, chunk_size=None):
    """h_t = a_t * h_{t-1} + x_t for a, x (B, T, N) and h0 (B, N); all states (B, T, N) and the last one (B, N)."""
    del chunk_size

    def step(h, inputs):
        a_t, x_t = inputs
        h = multiply_add(DoubleWord(a_t), h, DoubleWord(x_t))
        return h, h.high

    time_first = (jnp.moveaxis(a, 1, 0), jnp.moveaxis(x, 1, 0))
    h_last, h = lax.scan(step, from_array(h0), time_first, reverse=reverse)
    return jnp.moveaxis(h, 0, 1), h_last.high
