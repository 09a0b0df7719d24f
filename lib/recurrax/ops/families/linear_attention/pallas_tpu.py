"""Compute linear attention and its gradient as Pallas TPU kernels (`recurrax.ops.pallas_tpu`).

With D_ij = e^{G_i - G_j} for j <= i and 0 above (`pallas_tpu.decays`), and the state S before the chunk:

    O  = (Q K^T * D) V + (e^{G_i} Q) S                  S' = e^{G_C} S + (e^{G_C - G_j} K)^T V

The gradient goes through the chunks from the last one, with the cotangent dS of the state after the chunk, and
A = dO V^T * D, P = Q K^T * D:

    dQ = A K + e^{G_i} dO S^T                           dK = A^T Q + e^{G_C - G_j} V dS^T
    dV = P^T dO + (e^{G_C - G_j} K) dS                  dS <- e^{G_C} dS + (e^{G_i} Q)^T dO

Products of inputs in bfloat16 have factors in bfloat16; those of float32 are as exact as float32.
"""

import functools

import jax
from jax.experimental import pallas as pl

from recurrax.ops import blocks
from recurrax.ops.pallas_tpu import calls
from recurrax.ops.pallas_tpu.chunks import NONE, head, side_by_side, write
from recurrax.ops.pallas_tpu.decays import product


@functools.partial(jax.jit, static_argnames=("scale", "chunk_size", "interpret"))
def attend(q, k, v, log_decay, state, reset, *, scale, chunk_size=None, interpret=False):
    """Return the same as `reference.attend`."""
    options = {"scale": scale, "chunk_size": chunk_size, "interpret": interpret}
    return calls.run(KERNELS, state, blocks.Tokens(q, (k, v), None, log_decay), reset, **options)


def forward(chunk, inputs, start, spoil, o, last, kept, state):
    """Write the outputs, the last state and the states before chunks."""

    @pl.when(pl.program_id(2) == 0)
    def _():
        state[...] = start[...]

    def one(h):
        decay = chunk.decay_of(inputs, h)
        keys, values, before = head(inputs.k, h, chunk.key), head(inputs.v, h, chunk.value), state[h]
        if kept is not None:
            kept.states[h] = before
        for n in chunk.queries_of(h):
            queries = head(inputs.q, n, chunk.key) * chunk.scale
            scores = decay.scores(queries, keys)
            yield
            inside = product(scores, values, (1, 0), chunk.precision)
            before_it = product(decay.since_start(queries), before, (1, 0), chunk.precision)
            write(o, n, chunk.value, inside + before_it, spoil)
        state[h] = decay.over_chunk(before) + product(decay.until_end(keys), values, (0, 0), chunk.precision)

    side_by_side(one(h) for h in range(chunk.heads))
    last[...] = state[...]


def backward(chunk, inputs, kept, g, g_last, spoil, spoil_keys, gradients, d_start, d_state):
    """Write the gradients of the inputs and of the first state."""

    @pl.when(pl.program_id(2) == 0)
    def _():
        d_state[...] = g_last[...]

    def one(h):
        decay = chunk.decay_of(inputs, h)
        keys, values = head(inputs.k, h, chunk.key), head(inputs.v, h, chunk.value)
        before, after = kept.states[h], d_state[h]
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
        write(gradients.k, h, chunk.key, d_keys, spoil_keys)
        write(gradients.v, h, chunk.value, d_values, spoil_keys)
        chunk.write_gates(gradients, h, decay, spoil_keys)
        d_state[h] = d_before

    side_by_side(one(h) for h in range(chunk.heads))
    d_start[...] = d_state[...]


KERNELS = calls.Kernels("linear_attention", forward, backward, heads=8, products=(4, 10), solves=False)
