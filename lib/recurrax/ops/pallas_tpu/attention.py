"""Let the queries of a head read its state and the rows that its chunk writes, inside of a kernel.

With rows V, keys K, D_ij = e^{G_i - G_j} for j <= i and 0 above, and the state S before the chunk:

    O  = (Q K^T * D) V + (e^{G_i} Q) S                  S' = e^{G_C} S + (e^{G_C - G_j} K)^T V

Both functions yield like a head (`chunks.side_by_side`).
"""

from recurrax.ops.pallas_tpu.chunks import NONE, head, write
from recurrax.ops.pallas_tpu.decays import product


def read(chunk, inputs, h, decay, keys, values, before, o, spoil):
    """Write the outputs of head h and return the state after the chunk."""
    for n in chunk.queries_of(h):
        queries = head(inputs.q, n, chunk.key) * chunk.scale
        scores = decay.scores(queries, keys)
        yield
        inside = product(scores, values, (1, 0), chunk.precision)
        before_it = product(decay.since_start(queries), before, (1, 0), chunk.precision)
        write(o, n, chunk.value, inside + before_it, spoil)
    return decay.over_chunk(before) + product(decay.until_end(keys), values, (0, 0), chunk.precision)


def read_back(chunk, inputs, h, decay, keys, values, before, g, after, gradients, spoil):
    """Write the gradients of the queries of head h and return those of keys, values and the state before the chunk.

    `g` refers to the cotangents of the outputs, and `after` is that of the state after the chunk. With A = dO V^T * D
    and P = Q K^T * D:

        dQ = A K + e^{G_i} dO S^T                       dK = A^T Q + e^{G_C - G_j} V dS'^T
        dV = P^T dO + (e^{G_C - G_j} K) dS'             dS = e^{G_C} dS' + (e^{G_i} Q)^T dO
    """
    d_keys = decay.until_end(product(values, after, (1, 1), chunk.precision))
    d_values = product(decay.until_end(keys), after, (1, 0), chunk.precision)
    d_before = decay.over_chunk(after)
    yield
    if chunk.decay != NONE:
        decay.kept(keys, d_keys)
        decay.carried(before, after)
    for n in chunk.queries_of(h):
        queries, cotangent = head(inputs.q, n, chunk.key) * chunk.scale, head(g, n, chunk.value)
        d_scores = product(cotangent, values, (1, 1), chunk.precision)
        yield
        scores, d_queries, more = decay.scores_back(queries, keys, d_scores)
        of_state = decay.since_start(product(cotangent, before, (1, 1), chunk.precision))
        if chunk.decay != NONE:
            decay.seen(queries, of_state)
        write(gradients.q, n, chunk.key, (d_queries + of_state) * chunk.scale, spoil)
        d_keys = d_keys + more
        d_values += product(scores, cotangent, (0, 0), chunk.precision)
        d_before += product(decay.since_start(queries), cotangent, (0, 0), chunk.precision)
        yield
    return d_keys, d_values, d_before
