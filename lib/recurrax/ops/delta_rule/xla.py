"""The chunked form: the R C dependent steps of a chunk as one triangular system (Yang et al., arXiv 2406.06484).

Let w_i = b_i (v_i - S^T k_i) be what step i writes, the rows of W. With the state S before the chunk

    (I + A) W = diag(b) (V - (e^{G_i} K) S),    A_ij = b_i k_i^T (e^{G_i - G_j} k_j) for j < i
    O         = tril(Q K^T * e^{G_i - G_j}) W + (e^{G_i} Q) S
    S'        = e^{G_C} S + (e^{G_C - G_j} K)^T W

The steps of one token share its decay, which comes before them, and its queries come after them (arXiv 2502.10297).
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
def delta(q, k, v, beta, log_decay, state, *, scale, chunk_size=None):
    """As `reference.delta`."""
    block = functools.partial(_block, scale)
    return blocks.sweep(block, chunk_size or CHUNK_SIZE, state, (q, k, v, beta[..., None], log_decay))


def _block(scale, chunks, state, inputs):
    q, k, v, beta, log_decay = inputs
    batch, length, heads, groups, _ = q.shape
    matmul = functools.partial(jnp.matmul, precision=blocks.exactness(q.dtype))
    decay = local_decay(log_decay, chunks, length // chunks, state.dtype, blocks.exactness(q.dtype))
    queries, keys, values, strength = (blocks.to_chunks(x, chunks).astype(state.dtype) for x in (q, k, v, beta))
    queries, steps = scale * queries, strength * keys

    inverse = unit_lower_inverse(jnp.tril(decay.scores(steps, keys), -1))
    from_values = matmul(inverse, strength * values)
    from_state = matmul(inverse, decay.since_start(steps))
    last_keys = jnp.swapaxes(decay.until_end(keys), -1, -2)

    def step(state, chunk):
        kept, last_keys, from_values, from_state = chunk
        written = from_values - matmul(from_state, state)
        return kept * state + matmul(last_keys, written), (state, written)

    state = state.reshape(batch * heads, *state.shape[2:])
    chunked = (decay.over_chunk, last_keys, from_values, from_state)
    last, (states, written) = lax.scan(step, state, chunked, unroll=min(chunks, 8))

    output = matmul(decay.scores(queries, keys), written) + matmul(decay.since_start(queries), states)
    return last.reshape(batch, heads, *last.shape[1:]), blocks.from_chunks(output, batch, groups).astype(q.dtype)
