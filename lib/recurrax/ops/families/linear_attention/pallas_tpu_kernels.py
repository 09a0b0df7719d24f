"""Compute one chunk of linear attention, or of its gradient, for a few heads in the memory of a TPU core.

With D_ij = e^{G_i - G_j} for j <= i and 0 above (`pallas_tpu_decays`), and the state S before the chunk:

    O  = (Q K^T * D) V + (e^{G_i} Q) S                  S' = e^{G_C} S + (e^{G_C - G_j} K)^T V

The state stays on the chip from one chunk to the next. The gradient goes through the chunks from the last one, with the
cotangent dS of the state after the chunk, and A = dO V^T * D, P = Q K^T * D:

    dQ = A K + e^{G_i} dO S^T                           dK = A^T Q + e^{G_C - G_j} V dS^T
    dV = P^T dO + (e^{G_C - G_j} K) dS                  dS <- e^{G_C} dS + (e^{G_i} Q)^T dO

Products of inputs in bfloat16 have factors in bfloat16; those of float32 are as exact as float32.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax.experimental import pallas as pl

from recurrax.ops.decay import spacing
from recurrax.ops.families.linear_attention.pallas_tpu_decays import ChannelDecay, HeadDecay, NoDecay, column, product

NONE, HEAD, CHANNEL = "none", "head", "channel"
"""Kinds of decay."""


class Chunk(NamedTuple):
    """Sizes of a chunk, and what its kernel does."""

    size: int
    """C."""
    heads: int
    """Heads of a block."""
    queries: int
    """Queries that read each state."""
    key: int
    value: int
    scale: float
    decay: str
    resets: bool
    """Whether resets come beside the gates of channels."""
    precision: str

    @property
    def gates(self) -> int:
        """Number of arrays of gates."""
        return (self.decay != NONE) + self.resets


def forward(*refs, chunk, keeps):
    """Read q, k, v, gates, the first state and flags; write o, the last state and the states before chunks."""
    inputs = 5 + chunk.gates
    (q, k, v, *gates, start, hidden), (o, last, *states, state) = refs[:inputs], refs[inputs:]

    @pl.when(pl.program_id(2) == 0)
    def _():
        state[...] = start[...]

    for h in range(chunk.heads):
        decay = _decay(gates, h, chunk)
        keys, values, before = _head(k, h, chunk.key), _head(v, h, chunk.value), state[h]
        if keeps:
            states[0][h] = before
        for n in range(h * chunk.queries, (h + 1) * chunk.queries):
            queries = _head(q, n, chunk.key) * chunk.scale
            inside = product(decay.scores(queries, keys), values, (1, 0), chunk.precision)
            before_it = product(decay.since_start(queries), before, (1, 0), chunk.precision)
            o[:, _lanes(n, chunk.value)] = jnp.where(column(hidden[n]) > 0, jnp.nan, inside + before_it).astype(o.dtype)
        state[h] = decay.over_chunk(before) + product(decay.until_end(keys), values, (0, 0), chunk.precision)
    last[...] = state[...]


def backward(*refs, chunk):
    """Read q, k, v, gates, states, cotangents of o and the last state; write those of q, k, v, gates and the first."""
    inputs = 6 + chunk.gates
    (q, k, v, *gates, states, g, g_last), (dq, dk, dv, *d_gates, d_start, d_state) = refs[:inputs], refs[inputs:]

    @pl.when(pl.program_id(2) == 0)
    def _():
        d_state[...] = g_last[...]

    for h in range(chunk.heads):
        decay = _decay(gates, h, chunk)
        keys, values = _head(k, h, chunk.key), _head(v, h, chunk.value)
        before, after = states[h], d_state[h]
        d_keys = decay.until_end(product(values, after, (1, 1), chunk.precision))
        d_values = product(decay.until_end(keys), after, (1, 0), chunk.precision)
        d_before = decay.over_chunk(after)
        if gates:
            decay.kept(keys, d_keys)
            decay.carried(before, after)
        for n in range(h * chunk.queries, (h + 1) * chunk.queries):
            queries, cotangent = _head(q, n, chunk.key) * chunk.scale, _head(g, n, chunk.value)
            d_scores = product(cotangent, values, (1, 1), chunk.precision)
            scores, d_queries, more = decay.scores_back(queries, keys, d_scores)
            of_state = decay.since_start(product(cotangent, before, (1, 1), chunk.precision))
            if gates:
                decay.seen(queries, of_state)
            dq[:, _lanes(n, chunk.key)] = ((d_queries + of_state) * chunk.scale).astype(dq.dtype)
            d_keys = d_keys + more
            d_values += product(scores, cotangent, (0, 0), chunk.precision)
            d_before += product(decay.since_start(queries), cotangent, (0, 0), chunk.precision)
        dk[:, _lanes(h, chunk.key)], dv[:, _lanes(h, chunk.value)] = d_keys.astype(dk.dtype), d_values.astype(dv.dtype)
        if chunk.decay == HEAD:
            d_gates[0][h] = decay.gates()
        elif chunk.decay == CHANNEL:
            d_gates[0][:, _lanes(h, chunk.key)] = decay.gates().astype(d_gates[0].dtype)
        d_state[h] = d_before
    d_start[...] = d_state[...]


def _decay(gates, h, chunk):
    if chunk.decay == NONE:
        return NoDecay(chunk.size, chunk.precision)
    if chunk.decay == HEAD:
        return HeadDecay([gates[0][h, i : i + 1, :] for i in range(2)], chunk.precision)
    log_decay = gates[0][:, _lanes(h, chunk.key)].astype(jnp.float32)
    reset = column(gates[1][...]) > 0 if chunk.resets else None
    return ChannelDecay(log_decay, reset, spacing(chunk.size, jnp.float32), chunk.precision)


def _head(ref, h, size):
    """Return one head of a block (C, heads * size) in float32, and zeros where it is not finite."""
    x = ref[:, _lanes(h, size)].astype(jnp.float32)
    return jnp.where(jnp.abs(x) < jnp.inf, x, 0.0)


def _lanes(h, size):
    return pl.ds(h * size, size)
