"""Compute linear attention in chunks, with matrix products inside a chunk and a state only between chunks.

With the state S before the chunk (Yang et al., arXiv 2312.06635; Dao and Gu, arXiv 2405.21060):

    O  = tril(Q K^T * e^{G_i - G_j}) V + (e^{G_i} Q) S
    S' = e^{G_C} S + (e^{G_C - G_j} K)^T V
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from recurrax.ops import blocks
from recurrax.ops.decay import local_decay

CHUNK_SIZE = 32


@functools.partial(jax.jit, static_argnames=("scale", "chunk_size"))
def attend(q, k, v, log_decay, state, reset, *, scale, chunk_size=None):
    """Return the same as `reference.attend`."""
    block, tokens = functools.partial(_block, scale), blocks.Tokens(q, (k, v), None, log_decay)
    return blocks.sweep(block, chunk_size or CHUNK_SIZE, state, tokens, reset)


def _block(scale, chunks, state, tokens, reset):
    q, (k, v), _, log_decay = tokens
    batch, length, heads, _ = k.shape
    precision = blocks.exactness(q.dtype)
    decay = local_decay(log_decay, reset, heads, chunks, length // chunks, state.dtype, precision)
    queries = scale * blocks.queries_to_chunks(q, heads, chunks).astype(state.dtype)
    keys, values = (blocks.to_chunks(x[..., None, :], chunks).astype(state.dtype) for x in (k, v))

    written = jnp.matmul(jnp.swapaxes(decay.until_end(keys), -1, -2), values, precision=precision)

    def step(state, chunk):
        kept, written = chunk
        return kept * state + written, state

    state = state.reshape(batch * heads, *state.shape[2:])
    last, states = lax.scan(step, state, (decay.over_chunk, written), unroll=min(chunks, 8))

    output = jnp.matmul(decay.scores(queries, keys), values, precision=precision)
    output += jnp.matmul(decay.since_start(queries), states, precision=precision)
    output = blocks.from_chunks(output, batch, q.shape[2] // heads)
    return last.reshape(batch, heads, *last.shape[1:]), output.astype(q.dtype)
