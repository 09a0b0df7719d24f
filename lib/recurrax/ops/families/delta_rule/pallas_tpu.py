"""Compute the delta rule and its gradient as Pallas TPU kernels (`recurrax.ops.pallas_tpu`).

With D_ij = e^{G_i - G_j} for j <= i and 0 above (`pallas_tpu.decays`), the state S before the chunk, and L the part of
K K^T * D below the diagonal, the rows W that the chunk writes solve a triangular system (arXiv 2406.06484):

    E = V - (e^{G_i} K) S        (I + diag(b) L) W = diag(b) E        X = (I + diag(b) L)^-1
    O = (Q K^T * D) W + (e^{G_i} Q) S                 S' = e^{G_C} S + (e^{G_C - G_j} K)^T W

Queries that read W and the state after the chunk differentiate as in `pallas_tpu.attention`, with W for V. The gradient
of the system, with P = Q K^T * D and the cotangent dS of the state after the chunk:

    dW = P^T dO + (e^{G_C - G_j} K) dS                R = X^T dW              M = R W^T below the diagonal
    dE = diag(b) R          dL = -diag(b) M           db_i = (R * E) 1 - (M * L) 1
    dV = dE                 -dE S^T is the cotangent of e^{G_i} K             dS <- ... - (e^{G_i} K)^T dE

X is kept for the backward pass. A token's R steps of `delta_product` are tokens here: the decay applies before the
first of them, and queries read after the last one.
"""

import functools

import jax
import jax.numpy as jnp

from recurrax.ops import blocks
from recurrax.ops.pallas_tpu import attention, calls
from recurrax.ops.pallas_tpu.chunks import NONE, head, side_by_side, write
from recurrax.ops.pallas_tpu.decays import product, rows_and_columns
from recurrax.ops.pallas_tpu.inverse import unit_lower_inverse
from recurrax.ops.pallas_tpu.kernels import start


@functools.partial(jax.jit, static_argnames=("scale", "chunk_size", "interpret"))
def delta(q, k, v, beta, log_decay, state, reset, *, scale, chunk_size=None, interpret=False):
    """Return the same as `reference.delta`."""
    options = {"scale": scale, "chunk_size": chunk_size, "interpret": interpret}
    if k.ndim == 4:
        return calls.run(KERNELS, state, blocks.Tokens(q, (k, v), beta, log_decay), reset, **options)
    steps = k.shape[2]
    k, v, beta = (x.reshape(x.shape[0], -1, *x.shape[3:]) for x in (k, v, beta))
    q, log_decay, reset = _at_step(q, steps, -1), _at_step(log_decay, steps, 0), _at_step(reset, steps, 0)
    options["chunk_size"] = chunk_size and chunk_size * steps
    o, last = calls.run(KERNELS, state, blocks.Tokens(q, (k, v), beta, log_decay), reset, **options)
    return o.reshape(o.shape[0], -1, steps, *o.shape[2:])[:, :, -1], last


def _at_step(x, steps, step):
    """Return x (B, T, ...) as (B, T steps, ...): at one step of each token, and zeros at the others."""
    if x is None:
        return None
    filled = jnp.zeros((*x.shape[:2], steps, *x.shape[2:]), x.dtype).at[:, :, step].set(x)
    return filled.reshape(x.shape[0], -1, *x.shape[2:])


def forward(chunk, inputs, first, spoil, o, last, kept, state):
    """Write the outputs, the last state, and the states before chunks and the inverses of their systems."""
    start(first, state)

    def one(h):
        decay, precision = chunk.decay_of(inputs, h), chunk.precision
        keys, before, strength = head(inputs.k, h, chunk.key), state[h], inputs.strength[:, h : h + 1]
        system = strength * _below(decay.scores(keys, keys))
        yield
        inverse = yield from unit_lower_inverse(system, precision)
        if kept is not None:
            kept.states[h], kept.inverses[h] = before, inverse.astype(kept.inverses.dtype)
        error = head(inputs.v, h, chunk.value) - product(decay.since_start(keys), before, (1, 0), precision)
        yield
        written = product(inverse, strength * error, (1, 0), precision)
        yield
        state[h] = yield from attention.read(chunk, inputs, h, decay, keys, written, before, o, spoil)

    side_by_side(one(h) for h in range(chunk.heads))
    last[...] = state[...]


def backward(chunk, inputs, kept, g, g_last, spoil, spoil_keys, gradients, d_first, d_state):
    """Write the gradients of the inputs and of the first state."""
    start(g_last, d_state)

    def one(h):
        decay = chunk.decay_of(inputs, h)
        keys, strength = head(inputs.k, h, chunk.key), inputs.strength[:, h : h + 1]
        before, inverse = kept.states[h], kept.inverses[h]
        error = head(inputs.v, h, chunk.value) - product(decay.since_start(keys), before, (1, 0), chunk.precision)
        yield
        written = product(inverse, strength * error, (1, 0), chunk.precision)
        yield
        reading = chunk, inputs, h, decay, keys, written, before, g, d_state[h], gradients, spoil
        d_keys, d_written, d_before = yield from attention.read_back(*reading)

        # The triangular system, whose rows read with their keys.
        solved = product(inverse, d_written, (0, 0), chunk.precision)
        yield
        d_system = _below(product(solved, written, (1, 1), chunk.precision))
        yield
        d_error = strength * solved
        scores, d_readers, more = decay.scores_back(keys, keys, -strength * d_system)
        of_state = decay.since_start(product(-d_error, before, (1, 1), chunk.precision))
        if chunk.decay != NONE:
            decay.seen(keys, of_state)
        d_keys += d_readers + more + of_state
        d_before -= product(decay.since_start(keys), d_error, (0, 0), chunk.precision)
        d_strength = jnp.sum(solved * error, axis=1, keepdims=True)
        d_strength -= jnp.sum(d_system * scores, axis=1, keepdims=True)

        write(gradients.k, h, chunk.key, d_keys, spoil_keys)
        write(gradients.v, h, chunk.value, d_error, spoil_keys)
        write(gradients.strength, h, 1, d_strength, spoil_keys)
        chunk.write_gates(gradients, h, decay, spoil_keys)
        d_state[h] = d_before

    side_by_side(one(h) for h in range(chunk.heads))
    d_first[...] = d_state[...]


def _below(scores):
    """Return what is below the diagonal."""
    rows, columns = rows_and_columns(scores.shape[0])
    return jnp.where(columns < rows, scores, 0.0)


KERNELS = calls.Kernels("delta_rule", forward, backward, products=(7, 18), solves=True)
