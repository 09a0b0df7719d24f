"""Compute the decay between the token that writes to the state and the token that reads from it, inside one chunk.

With G_i = g_1 + ... + g_i, the cumulative log-decay of a chunk, a chunked form needs four quantities:

    scores         r_i^T diag(e^{G_i - G_j}) s_j for j <= i       reader and source in the chunk
    since_start    e^{G_i} r_i                                    source before the chunk
    until_end      e^{G_C - G_j} s_j                              reader after the chunk
    over_chunk     e^{G_C}                                        source before, reader after

Three classes compute them: `NoDecay`, `ScalarDecay` (one g per token and head), `ChannelDecay` (one per key channel).
No exponent is positive, and none is the difference of two large rounded sums: any mixture of gates, such as 0 next to
-300, is exact to rounding. The gradient of g_t is a sum over exactly the pairs j < t <= i that it lies between: nothing
cancels, for any T and any decays.

Arrays are (X, M, C R, K): X chunks, M sequences, and R rows for each of C tokens. Grouped heads read with R queries per
token, DeltaProduct writes R keys per token. Rows of one token do not decay against each other, and all their scores are
computed.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from recurrax.ops.blocks import to_chunks
from recurrax.ops.differentiation import custom_vjp

FLOOR = -1024.0
"""Lower bound of log-decays. e^-1024 is 0 in float32 and in float64, so the bound changes no result; it keeps sums of
gates finite. A reset is a gate of this size."""

EXACT = lax.Precision.HIGHEST


def local_decay(log_decay, reset, heads, chunks, chunk_size, dtype, precision):
    """Return the decay of `chunks` chunks, one of the three classes, for gates None, (B, T, H, 1) or (B, T, H, K)."""
    if log_decay is None and reset is None:
        return NoDecay(jnp.ones((chunks, 1, 1, 1), dtype), chunk_size, precision)
    if log_decay is None:
        log_decay = jnp.zeros((*reset.shape, heads, 1), dtype)
    if reset is not None:
        log_decay = jnp.where(reset[..., None, None], jnp.asarray(FLOOR, log_decay.dtype), log_decay)
    gates = jnp.maximum(to_chunks(log_decay[..., None, :], chunks).astype(dtype), FLOOR)
    if gates.shape[-1] > 1:
        return channel_decay(gates, precision)
    between, start, end, total = scalar_factors(gates[..., 0])
    return ScalarDecay(total[..., None, None], between, start[..., None], end[..., None], precision)


class NoDecay(NamedTuple):
    """No decay: every factor is 1."""

    over_chunk: jax.Array  # (X, 1, 1, 1): one
    chunk_size: int
    precision: lax.Precision

    def scores(self, readers, sources):
        scores = _product(readers, sources, self.precision)
        return jnp.where(_per_row(jnp.tri(self.chunk_size, dtype=bool), scores.shape), scores, 0)

    def since_start(self, readers):
        return readers

    def until_end(self, sources):
        return sources


class ScalarDecay(NamedTuple):
    """One factor per token and head: scores are a matrix product times the matrix e^{G_i - G_j}."""

    over_chunk: jax.Array  # (X, M, 1, 1)
    between: jax.Array  # (X, M, C, C)
    start: jax.Array  # (X, M, C, 1)
    end: jax.Array  # (X, M, C, 1)
    precision: lax.Precision

    def scores(self, readers, sources):
        scores = _product(readers, sources, self.precision)
        between = _per_row(self.between, scores.shape)
        # Scores whose decay factor has underflowed to 0 may themselves have overflowed.
        return jnp.where(between > 0, scores * between, 0)

    def since_start(self, readers):
        return readers * _repeat(self.start, readers.shape[-2])

    def until_end(self, sources):
        return sources * _repeat(self.end, sources.shape[-2])


@custom_vjp
def scalar_factors(gates):
    """Return e^{G_i - G_j} (zero above the diagonal), e^{G_i}, e^{G_C - G_j} and e^{G_C} for gates (..., C)."""
    size, sums = gates.shape[-1], split_sums(gates)
    apart = sum(s[..., :, None] - s[..., None, :] for s in sums)
    between = jnp.exp(jnp.where(jnp.tri(size, dtype=bool), apart, -jnp.inf))
    start = jnp.exp(sum(sums))
    end = between[..., -1, :]
    return between, start, end, start[..., -1]


def split_sums(gates):
    """Return two arrays (..., C) that add up to G_i = g_1 + ... + g_i, with exact differences G_i - G_j.

    Differences of one rounded cumulative sum lose precision to the largest gate: after a gate of -300 every small one
    is off by 3e-5. So each gate is split into a multiple of a power of two, of which C add up exactly, and a remainder.
    """
    step = spacing(gates.shape[-1], gates.dtype)
    coarse = jnp.round(gates / step) * step
    return [_running_sum(part) for part in (coarse, gates - coarse)]


def spacing(size, dtype):
    """Return the power of two of which `size` multiples, each at least FLOOR, add up exactly."""
    return FLOOR * size / -(2.0 ** (jnp.finfo(dtype).nmant + 1))


def _running_sum(x):
    return jnp.matmul(x, jnp.triu(jnp.ones((x.shape[-1], x.shape[-1]), x.dtype)), precision=EXACT)


def _scalar_forward(gates):
    factors = scalar_factors(gates)
    return factors, factors


def _scalar_backward(factors, cotangents):
    """Return for g_t the sum over i >= t > j of cotangent times factor, without a difference of two sums."""
    between, start, end, total = (factor * c for factor, c in zip(factors, cotangents, strict=True))
    size = between.shape[-1]
    upper = jnp.triu(jnp.ones((size, size), between.dtype))
    readers_from_here = jnp.matmul(upper, between, precision=EXACT)  # sum over i >= t, for each j
    inside = jnp.sum(jnp.tril(readers_from_here, -1), axis=-1)  # sum over j < t
    readers_here = jnp.matmul(start, upper.T, precision=EXACT)  # sum over i >= t
    sources_before = jnp.matmul(end, jnp.triu(upper, 1), precision=EXACT)  # sum over j < t
    return (inside + readers_here + sources_before + total[..., None],)


scalar_factors.defvjp(_scalar_forward, _scalar_backward)


class ChannelDecay(NamedTuple):
    """One factor per token and key channel: scores by halving.

    e^{G_i - G_j} does not factor into e^{G_i} e^{-G_j} without overflow. But for a source in the left half of a chunk
    and a reader in the right half it factors at the middle, into e^{middle to i} e^{j to middle}, both at most 1. So
    this rectangle of scores is a matrix product. The two halves are divided again, down to single tokens.
    """

    over_chunk: jax.Array  # (X, M, K, 1)
    start: jax.Array  # (X, M, C, K)
    end: jax.Array  # (X, M, C, K)
    halves: tuple[tuple[jax.Array, jax.Array], ...]  # per level of blocks of m: from and to the middle (X, M, N, m, K)
    precision: lax.Precision

    def scores(self, readers, sources):
        size = self.start.shape[-2]
        readers = readers.reshape(*readers.shape[:2], size, -1, readers.shape[-1])
        sources = sources.reshape(*sources.shape[:2], size, -1, sources.shape[-1])
        scores = _product(readers, sources, self.precision)
        for from_middle, to_middle in self.halves:
            upper, lower = scores[:, :, 0::2], scores[:, :, 1::2]
            corner = _product(_half(readers, 1, from_middle), _half(sources, 0, to_middle), self.precision)
            rows = [jnp.concatenate([upper, jnp.zeros_like(upper)], -1), jnp.concatenate([corner, lower], -1)]
            scores = jnp.concatenate(rows, -2)
        return scores[:, :, 0]

    def since_start(self, readers):
        return readers * _repeat(self.start, readers.shape[-2])

    def until_end(self, sources):
        return sources * _repeat(self.end, sources.shape[-2])


def channel_decay(gates, precision):
    """Return the decay of gates (X, M, C, K), from sums of one sign that start or end at the border of a block."""
    from_start = gates[:, :, :, None]  # (X, M, N, m, K): from the block's start to here, this gate included
    to_end = jnp.zeros_like(from_start)  # from here, not included, to the block's end
    halves = []
    while from_start.shape[2] > 1:
        (start_0, start_1), (end_0, end_1) = [(x[:, :, 0::2], x[:, :, 1::2]) for x in (from_start, to_end)]
        halves.append((jnp.exp(start_1), jnp.exp(end_0)))
        from_start = jnp.concatenate([start_0, start_0[..., -1:, :] + start_1], axis=-2)
        to_end = jnp.concatenate([end_0 + start_1[..., -1:, :], end_1], axis=-2)
    start = jnp.exp(from_start[:, :, 0])
    return ChannelDecay(start[:, :, -1, :, None], start, jnp.exp(to_end[:, :, 0]), tuple(halves), precision)


def _half(rows, which, factor):
    """Return the left (0) or right (1) halves of pairs of blocks, times a factor per token: (X, M, N, m R, K)."""
    x, m, blocks, size, dim = factor.shape
    half = rows.reshape(x, m, blocks, 2, size, -1, dim)[:, :, :, which]
    # Use few axes: with seven, the gradient of this product overruns a buffer in jaxlib 0.10.2 (jax issue 40412).
    half = half.reshape(x, m * blocks * size, -1, dim) * factor.reshape(x, m * blocks * size, 1, dim)
    return half.reshape(x, m, blocks, -1, dim)


def _product(readers, sources, precision):
    return jnp.matmul(readers, jnp.swapaxes(sources, -1, -2), precision=precision)


def _repeat(factor, rows):
    """Repeat a factor per token for each of its rows."""
    return factor if factor.shape[-2] == rows else jnp.repeat(factor, rows // factor.shape[-2], axis=-2)


def _per_row(between, shape):
    """Repeat a factor per pair of tokens for each pair of their rows, in the rank of the scores."""
    between = jnp.repeat(jnp.repeat(between, shape[-2] // between.shape[-2], -2), shape[-1] // between.shape[-1], -1)
    return between.reshape((1,) * (len(shape) - between.ndim) + between.shape)
