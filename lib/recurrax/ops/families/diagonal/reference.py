"""Define the diagonal scan step by step."""

import jax
import jax.numpy as jnp
from jax import lax

from recurrax.ops.families.diagonal.double_word import DoubleWord, forgotten, from_array, multiply_add


def scan(a, x, h0, reset, *, reverse=False, chunk_size=None):
    """Return all states h_t = a_t * h_{t-1} + x_t (B, T, N) and the last one (B, N), for a, x (B, T, N), h0 (B, N) and
    reset (B, T) or None.
    """
    del chunk_size

    def step(h, inputs):
        a_t, x_t, reset_t = inputs
        h = multiply_add(DoubleWord(a_t), forgotten(h, reset_t), DoubleWord(x_t))
        return h, h.high

    time_first = jax.tree.map(lambda array: jnp.moveaxis(array, 1, 0), (a, x, reset))
    h_last, h = lax.scan(step, from_array(h0), time_first, reverse=reverse)
    return jnp.moveaxis(h, 0, 1), h_last.high
