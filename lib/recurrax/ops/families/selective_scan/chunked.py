"""Run Mamba's recurrence as a loop over chunks of time, with a diagonal scan over the E N states in each.

Only the states of one chunk are in memory at a time: the backward pass stores the inputs and the state before each
chunk, and recomputes the chunk's states.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from recurrax.ops.families.diagonal.api import diagonal_scan
from recurrax.ops.tokenwise import scale

# On a CPU a chunk's states should fit in the cache; a GPU or TPU needs few, large launches.
CHUNK = {"cpu": 16, "default": 128}


@functools.partial(jax.jit, static_argnames="chunk_size")
def scan(x, dt, a, b, c, state, reset, *, chunk_size=None):
    """Return the same as `reference.scan`."""
    length = x.shape[1]
    size = min(chunk_size or CHUNK.get(jax.default_backend(), CHUNK["default"]), length)

    @jax.checkpoint
    def chunk(h, inputs):
        x, dt, b, c, *reset = inputs
        # dt a^T as a scale: the gradient of a is a sum over tokens.
        decay = jnp.exp(scale(jnp.broadcast_to(dt[..., None], (*dt.shape, a.shape[1])), a))
        drive = (dt * x)[..., None] * b[:, :, None, :]
        h, last = diagonal_scan(decay, drive, h, reset=reset[0] if reset else None)
        return last, jnp.einsum("bten,btn->bte", h, c, precision=lax.Precision.HIGHEST)

    inputs = (x, dt, b, c) if reset is None else (x, dt, b, c, reset)
    if size == length:
        state, y = chunk(state, inputs)
        return y, state
    # Zeros fill the last chunk: steps of size 0 leave the state as it is.
    missing = -length % size
    chunks = tuple(_chunks(array, missing, size) for array in inputs)
    state, y = lax.scan(chunk, state, chunks)
    return y.swapaxes(0, 1).reshape(x.shape[0], -1, x.shape[2])[:, :length], state


def _chunks(array, missing, size):
    """Reshape (B, T, ...) to (chunks, B, size, ...), with `missing` zeros at the end."""
    padded = jnp.pad(array, [(0, 0), (0, missing), *[(0, 0)] * (array.ndim - 2)])
    return padded.reshape(array.shape[0], -1, size, *array.shape[2:]).swapaxes(0, 1)
