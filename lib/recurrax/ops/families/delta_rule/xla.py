"""Compute the delta rule in chunks (Yang et al., arXiv 2406.06484), whose R C steps are a triangular system.

Step i writes w_i = b_i (v_i - S^T k_i), the rows of W. With the state S before the chunk

    (I + A) W = diag(b) (V - (e^{G_i} K) S),    A_ij = b_i k_i^T (e^{G_i - G_j} k_j) for j < i
    O         = tril(Q K^T * e^{G_i - G_j}) W + (e^{G_i} Q) S
    S'        = e^{G_C} S + (e^{G_C - G_j} K)^T W

The decay of a token applies before its R steps, and its queries read after them (arXiv 2502.10297).
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from recurrax.ops import blocks
from recurrax.ops.decay import local_decay
from recurrax.ops.families.delta_rule.reference import with_steps
from recurrax.ops.triangular import unit_lower_inverse

ROWS = 32  # rows per chunk: tokens times steps per token


@functools.partial(jax.jit, static_argnames=("scale", "chunk_size"))
def delta(q, k, v, beta, log_decay, state, reset, *, scale, chunk_size=None):
    """Return the same as `reference.delta`."""
    block, tokens = functools.partial(_block, scale), blocks.Tokens(q, (k, v), beta, log_decay)
    steps = k.shape[2] if k.ndim == 5 else 1
    chunk_size = chunk_size or -(-ROWS // steps)
    return blocks.sweep(block, chunk_size, state, tokens, reset, rows=steps)


def _block(scale, chunks, state, tokens, reset):
    q, (k, v), beta, log_decay = tokens
    # Axes are added here, inside a block, because XLA copies arrays that enter a loop as a different view.
    k, v, beta = with_steps(k, v, beta)
    batch, length, steps, heads, _ = k.shape
    size, rows = length // chunks, (q.shape[2] // heads, steps)
    matmul = functools.partial(jnp.matmul, precision=blocks.exactness(q.dtype))
    decay = local_decay(log_decay, reset, heads, chunks, size, state.dtype, blocks.exactness(q.dtype))
    queries = scale * blocks.queries_to_chunks(q, heads, chunks).astype(state.dtype)
    keys, values, strength = (
        blocks.to_chunks(jnp.moveaxis(x, 2, 3), chunks).astype(state.dtype) for x in (k, v, beta[..., None])
    )

    # Queries and steps read from the same keys: one matrix product computes both.
    readers = blocks.interleave(size, queries, strength * keys)
    query_scores, step_scores = blocks.separate(size, decay.scores(readers, keys), *rows)
    queries, steps = blocks.separate(size, decay.since_start(readers), *rows)
    inverse = unit_lower_inverse(jnp.tril(step_scores, -1))
    from_values, from_state = matmul(inverse, strength * values), matmul(inverse, steps)
    last_keys = jnp.swapaxes(decay.until_end(keys), -1, -2)

    def step(state, chunk):
        kept, last_keys, from_values, from_state = chunk
        written = from_values - matmul(from_state, state)
        return kept * state + matmul(last_keys, written), (state, written)

    state = state.reshape(batch * heads, *state.shape[2:])
    chunked = (decay.over_chunk, last_keys, from_values, from_state)
    last, (states, written) = lax.scan(step, state, chunked)

    output = matmul(query_scores, written) + matmul(queries, states)
    return last.reshape(batch, heads, *last.shape[1:]), blocks.from_chunks(output, batch, rows[0]).astype(q.dtype)
