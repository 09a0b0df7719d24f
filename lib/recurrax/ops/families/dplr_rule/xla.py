"""Compute the DPLR rule in chunks, with the C dependent steps of a chunk as one triangular system.

Step i reads w_i = S_{i-1}^T a_i, the rows of W. With the state S before the chunk

    (I - A) W = tril(A' K^T * e^{G_{i-1} - G_j}) V + (e^{G_{i-1}} A') S,    A_ij = a_i^T (e^{G_{i-1} - G_j} b_j), j < i
    O         = tril(Q B^T * e^{G_i - G_j}) W + tril(Q K^T * e^{G_i - G_j}) V + (e^{G_i} Q) S
    S'        = e^{G_C} S + (e^{G_C - G_j} B)^T W + (e^{G_C - G_j} K)^T V

where A' has the rows a_i. Step i reads before its decay, which equals a read at i - 1 after that token's decay. So
everything that depends on a is computed one token early and then shifted.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from recurrax.ops import blocks
from recurrax.ops.decay import local_decay
from recurrax.ops.triangular import unit_lower_inverse

CHUNK_SIZE = 32


@functools.partial(jax.jit, static_argnames=("scale", "chunk_size"))
def dplr(q, k, v, a, b, log_decay, state, reset, *, scale, chunk_size=None):
    """Return the same as `reference.dplr`."""
    block, tokens = functools.partial(_block, scale), blocks.Tokens(q, (k, v, a, b), None, log_decay)
    return blocks.sweep(block, chunk_size or CHUNK_SIZE, state, tokens, reset, rows=2)


def _block(scale, chunks, state, tokens, reset):
    q, (k, v, a, b), _, log_decay = tokens
    batch, length, heads, _ = k.shape
    size, rows = length // chunks, (q.shape[2] // heads, 1)
    matmul = functools.partial(jnp.matmul, precision=blocks.exactness(q.dtype))
    decay = local_decay(log_decay, reset, heads, chunks, size, state.dtype, blocks.exactness(q.dtype))
    queries = scale * blocks.queries_to_chunks(q, heads, chunks).astype(state.dtype)
    if reset is not None:  # a reads before the decay, so the decay of a reset does not affect it
        a = jnp.where(reset[..., None, None], 0, a)
    of_token = (blocks.to_chunks(x[..., None, :], chunks).astype(state.dtype) for x in (k, v, a, b))
    keys, values, reads, writes = of_token

    # One matrix product for all readers and all sources.
    early = jnp.concatenate([reads[..., 1:, :], jnp.zeros_like(reads[..., :1, :])], -2)
    readers, sources = blocks.interleave(size, queries, early), blocks.interleave(size, writes, keys)
    query_scores, early_scores = blocks.separate(size, decay.scores(readers, sources), *rows)
    queries, early = blocks.separate(size, decay.since_start(readers), *rows)
    of_writes, of_keys = _later(early_scores[..., 0::2]), _later(early_scores[..., 1::2])
    inverse = unit_lower_inverse(-of_writes)
    from_values = matmul(inverse, matmul(of_keys, values))
    from_state = matmul(inverse, _later(early, reads[..., :1, :]))
    added = matmul(jnp.swapaxes(decay.until_end(keys), -1, -2), values)
    last_writes = jnp.swapaxes(decay.until_end(writes), -1, -2)

    def step(state, chunk):
        kept, added, last_writes, from_values, from_state = chunk
        read = from_values + matmul(from_state, state)
        return kept * state + matmul(last_writes, read) + added, (state, read)

    state = state.reshape(batch * heads, *state.shape[2:])
    chunked = (decay.over_chunk, added, last_writes, from_values, from_state)
    last, (states, read) = lax.scan(step, state, chunked)

    output = matmul(query_scores, blocks.interleave(size, read, values)) + matmul(queries, states)
    return last.reshape(batch, heads, *last.shape[1:]), blocks.from_chunks(output, batch, rows[0]).astype(q.dtype)


def _later(x, first=None):
    """Shift the rows one token later; `first` (None is zero) becomes the first row."""
    first = jnp.zeros_like(x[..., :1, :]) if first is None else first
    return jnp.concatenate([first, x[..., :-1, :]], axis=-2)
