"""Run Mamba's recurrence as a loop over chunks of time, with a diagonal scan over the E N states in each.

Only the states of one chunk are in memory at a time: the backward pass stores the inputs and the state before each
chunk, and recomputes the chunk's states.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from recurrax.ops.families.diagonal.api import diagonal_scan
from recurrax.ops.time_loop import Split, time_loop
from recurrax.ops.tokenwise import scale

# On a CPU a chunk's states should fit in the cache; a GPU or TPU needs few, large launches.
CHUNK = {"cpu": 16, "default": 128}


@functools.partial(jax.jit, static_argnames="chunk_size")
def scan(x, dt, a, b, c, state, reset, *, chunk_size=None):
    """Return the same as `reference.scan`."""
    length, dtype = x.shape[1], x.dtype
    x, dt, a, b, c = (each.astype(state.dtype) for each in (x, dt, a, b, c))

    def split(platform):
        size = min(chunk_size or CHUNK.get(platform, CHUNK["default"]), length)
        return Split(-(-length // size), size)

    y, last = time_loop(_chunk, split, a, state, (x, dt, b, c), reset)
    return y.astype(dtype), last


def _chunk(a, h, inputs, reset):
    """Return the state after the chunk and its outputs; steps of size 0 leave the state as it is."""
    x, dt, b, c = inputs
    # dt a^T as a scale: the gradient of a is a sum over tokens.
    decay = jnp.exp(scale(jnp.broadcast_to(dt[..., None], (*dt.shape, a.shape[1])), a))
    drive = (dt * x)[..., None] * b[:, :, None, :]
    h, last = diagonal_scan(decay, drive, h, reset=None if reset is None else reset.starts)
    return last, jnp.einsum("bten,btn->bte", h, c, precision=lax.Precision.HIGHEST)
