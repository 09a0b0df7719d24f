"""The chunk-parallel forms as they are usually written in JAX: all chunks at once, the state handed on between them.

Differentiated as they stand. G is the running sum of a chunk's gates; arrays of chunks are (B, N, H, C, ...): N chunks
of C tokens. Gates come last and are missing where nothing decays.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular

from eval.bench.contestants.base import state_dtype
from eval.bench.programs import exactness

CHUNK, SUB_CHUNK = 64, 16


def linear_attention(q, k, v, g=None):
    """Mamba-2's SSD for gates per head (arXiv 2405.21060), GLA for gates per channel (arXiv 2312.06635)."""
    matmul = functools.partial(jnp.matmul, precision=exactness(q.dtype))
    queries, keys, values, gates = _to_chunks(q, k, v, g)
    scores, since_start, until_end, over_chunk = _decays(gates, matmul)
    written = matmul(_transposed(keys * until_end), values)

    def step(state, chunk):
        kept, written = chunk
        return kept * state + written, state

    _, states = _over_chunks(step, jnp.zeros_like(written[:, 0]), over_chunk, written)
    o = matmul(scores(queries, keys), values) + matmul(queries * since_start, states)
    return _from_chunks(o, q)


def delta_rule(q, k, v, beta, g=None):
    """The UT transform (arXiv 2406.06484), the inverse by a solver of triangular systems.

    It solves for the inverse, not for the right-hand sides: the gradient of that would be two solves side by side, and
    two batched solves at once can wait for each other for ever on a CPU of two cores (jaxlib 0.10.2).
    """
    matmul = functools.partial(jnp.matmul, precision=exactness(q.dtype))
    queries, keys, values, strength, gates = _to_chunks(q, k, v, beta[..., None], g)
    scores, since_start, until_end, over_chunk = _decays(gates, matmul)
    steps = strength * keys
    right = jnp.concatenate([strength * values, steps * since_start], -1)
    below = jnp.tril(scores(steps, keys), -1)
    identity = jnp.broadcast_to(jnp.eye(below.shape[-1], dtype=below.dtype), below.shape)
    solved = matmul(solve_triangular(below, identity, lower=True, unit_diagonal=True), right)
    from_values, from_state = solved[..., : v.shape[-1]], solved[..., v.shape[-1] :]
    last_keys = _transposed(keys * until_end)

    def step(state, chunk):
        kept, last_keys, from_values, from_state = chunk
        written = from_values - matmul(from_state, state)
        return kept * state + matmul(last_keys, written), (state, written)

    start = jnp.zeros((*last_keys[:, 0].shape[:-1], v.shape[-1]), values.dtype)
    _, (states, written) = _over_chunks(step, start, over_chunk, last_keys, from_values, from_state)
    o = matmul(scores(queries, keys), written) + matmul(queries * since_start, states)
    return _from_chunks(o, q)


def delta_product(q, k, v, beta, g):
    """The delta rule over R T tokens, of which the first of each R decays and the last is read (arXiv 2502.10297)."""
    batch, length, rank = k.shape[:3]
    k, v, beta = (x.reshape(batch, length * rank, *x.shape[3:]) for x in (k, v, beta))
    g = jnp.stack([g, *[jnp.zeros_like(g)] * (rank - 1)], 2).reshape(batch, length * rank, *g.shape[2:])
    return delta_rule(jnp.repeat(q, rank, 1), k, v, beta, g)[:, rank - 1 :: rank]


def _decays(gates, matmul):
    """`scores(readers, sources)` with e^{G_i - G_j} for j <= i, e^{G_i}, e^{G_C - G_j}, and e^{G_C} as a column."""
    total = jnp.cumsum(gates, axis=3)
    last = total[..., -1:, :]
    factors = jnp.exp(total), jnp.exp(last - total), _transposed(jnp.exp(last))
    if total.shape[-1] > 1:
        return functools.partial(_channel_scores, total, matmul), *factors
    apart = total - _transposed(total)
    between = jnp.exp(jnp.where(jnp.tri(CHUNK, dtype=bool), apart, -jnp.inf))
    return lambda readers, sources: matmul(readers, _transposed(sources)) * between, *factors


def _channel_scores(total, matmul, readers, sources):
    """Sub-chunks read earlier ones through their own start, so that no exponent is positive; themselves pair by pair.

    e^{G_i - G_j} = e^{G_i - G_start} e^{G_start - G_j} for j before the start of i's sub-chunk.
    """
    pieces = CHUNK // SUB_CHUNK
    outer, dim = readers.shape[:3], readers.shape[-1]
    starts = jnp.pad(total[..., SUB_CHUNK - 1 : -1 : SUB_CHUNK, :], [(0, 0)] * 3 + [(1, 0), (0, 0)])[..., None, :]
    split = functools.partial(jnp.reshape, shape=(*outer, pieces, SUB_CHUNK, dim))
    totals, rows, columns = split(total), split(readers), split(sources)

    is_before = jnp.arange(CHUNK)[None, :] < SUB_CHUNK * jnp.arange(pieces)[:, None]
    to_start = jnp.exp(jnp.where(is_before[..., None], starts - total[..., None, :, :], -jnp.inf))
    across = matmul(rows * jnp.exp(totals - starts), _transposed(sources[..., None, :, :] * to_start))

    apart = totals[..., :, None, :] - totals[..., None, :, :]
    between = jnp.exp(jnp.where(jnp.tri(SUB_CHUNK, dtype=bool)[..., None], apart, -jnp.inf))
    inside = jnp.sum(rows[..., :, None, :] * columns[..., None, :, :] * between, -1)

    own = jnp.eye(pieces, dtype=bool)[:, None, :, None]
    across = across.reshape(*outer, pieces, SUB_CHUNK, pieces, SUB_CHUNK)
    return jnp.where(own, inside[..., None, :], across).reshape(*outer, CHUNK, CHUNK)


def _to_chunks(q, *rest):
    """(B, T, H, ...) -> (B, N, H, C, ...), zeros at the end; q scaled, the gates last: per head (..., 1)."""
    *rest, g = rest
    length, dtype = q.shape[1], state_dtype(q)
    if g is None:  # one gate of zero for all sequences and heads, so that little is computed for nothing
        g = jnp.zeros((1, length, 1, 1), dtype)

    def chunks(x):
        x = jnp.pad(x.astype(dtype), [(0, 0), (0, -length % CHUNK)] + [(0, 0)] * (x.ndim - 2))
        return jnp.swapaxes(x.reshape(x.shape[0], -1, CHUNK, *x.shape[2:]), 2, 3)

    gates = g[..., None] if g.ndim == 3 else g
    return chunks(q) * q.shape[-1] ** -0.5, *map(chunks, rest), chunks(gates)


def _from_chunks(o, q):
    batch, length, heads, _ = q.shape
    return jnp.swapaxes(o, 2, 3).reshape(batch, -1, heads, o.shape[-1])[:, :length].astype(q.dtype)


def _over_chunks(step, state, *arrays):
    """`lax.scan` over axis 1."""
    last, outputs = lax.scan(step, state, [jnp.moveaxis(x, 1, 0) for x in arrays])
    return last, jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), outputs)


def _transposed(x):
    return jnp.swapaxes(x, -1, -2)
