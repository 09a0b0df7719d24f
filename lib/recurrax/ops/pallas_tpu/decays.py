"""Decays inside a chunk of the TPU kernels: none, one per token and head, one per token and key channel.

With G_i = g_1 + ... + g_i in the chunk, each class computes (compare `recurrax.ops.decay`)

    scores         r_i^T diag(e^{G_i - G_j}) s_j for j <= i            since_start    e^{G_i} r_i
    over_chunk     e^{G_C} S                                           until_end      e^{G_C - G_j} s_j

and their gradients. That of g_t is a sum over exactly the pairs j < t <= i, readers i >= t and sources j < t that g_t
lies between. No exponent is positive. G is the sum of two parts, whose differences are exact.
"""

import jax.numpy as jnp
from jax import lax

from recurrax.ops.decay import FLOOR

BFLOAT16, EXACT = "bfloat16", "exact"
"""How products are computed: factors rounded to bfloat16, or as exactly as float32."""


def product(a, b, axes, precision):
    """Return the product over axis axes[0] of a and axes[1] of b, added up in float32."""
    dimensions = (((axes[0],), (axes[1],)), ((), ()))
    if precision == BFLOAT16:
        a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
        return lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)
    return lax.dot_general(a, b, dimensions, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def parts(x, precision):
    """Return x as a sum of parts: itself if products are exact, or the first 8 bits of its fraction and the rest."""
    if precision == EXACT:
        return [x]
    first = lax.bitcast_convert_type(lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(0xFFFF0000), jnp.float32)
    return [first, x - first]


def product_of_parts(a, b, axes):
    """Return the product of two sums of parts, without the product of the two rests, with an error of 2^-16."""
    if len(a) == 1:
        return product(*a, *b, axes, EXACT)
    both = product(jnp.concatenate(a, axis=1 - axes[0]), b[0], axes, BFLOAT16)
    size = both.shape[0] // 2
    return both[:size] + both[size:] + product(a[0], b[1], axes, BFLOAT16)


def column(row):
    """Return a row (1, C) as a column (C, 1)."""
    return jnp.broadcast_to(row, (row.shape[1], row.shape[1])).T[:, :1]


def rows_and_columns(size):
    """Return the numbers of the rows and of the columns of a square."""
    return tuple(lax.broadcasted_iota(jnp.int32, (size, size), axis) for axis in (0, 1))


class NoDecay:
    """All factors are 1."""

    def __init__(self, size, precision):
        self.precision = precision
        rows, columns = rows_and_columns(size)
        self.causal = columns <= rows

    def scores(self, readers, sources):
        return jnp.where(self.causal, product(readers, sources, (1, 1), self.precision), 0.0)

    def scores_back(self, readers, sources, d_scores):
        """Return the scores and the gradients of readers and sources."""
        d_scores = jnp.where(self.causal, d_scores, 0.0)
        d_readers = product(d_scores, sources, (1, 0), self.precision)
        return self.scores(readers, sources), d_readers, product(d_scores, readers, (0, 0), self.precision)

    def since_start(self, readers):
        return readers

    def until_end(self, sources):
        return sources

    def over_chunk(self, state):
        return state


class HeadDecay:
    """One factor per token: scores are a product times the matrix D_ij = e^{G_i - G_j}."""

    def __init__(self, along, own, precision):
        """Take the two parts of G as rows (1, C) and as columns (C, 1)."""
        size = along[0].shape[1]
        self.size, self.precision = size, precision
        rows, columns = rows_and_columns(size)
        apart = (own[0] - along[0]) + (own[1] - along[1])
        self.between = jnp.exp(jnp.where(columns <= rows, apart, -jnp.inf))
        whole = [part[size - 1 :] for part in own]
        self.start = jnp.exp(own[0] + own[1])
        self.end = jnp.exp((whole[0] - own[0]) + (whole[1] - own[1]))
        self.total = self.start[size - 1 :]
        self.pairs = self.read = self.written = self.over = 0.0

    def scores(self, readers, sources):
        return product(readers, sources, (1, 1), self.precision) * self.between

    def scores_back(self, readers, sources, d_scores):
        raw, d_scores = product(readers, sources, (1, 1), self.precision), d_scores * self.between
        self.pairs += d_scores * raw
        d_readers = product(d_scores, sources, (1, 0), self.precision)
        return raw * self.between, d_readers, product(d_scores, readers, (0, 0), self.precision)

    def since_start(self, readers):
        return readers * self.start

    def until_end(self, sources):
        return sources * self.end

    def over_chunk(self, state):
        return state * self.total

    def seen(self, readers, d_readers):
        """Add the gradient of `since_start`, for scaled readers and the gradient of the unscaled ones."""
        self.read += jnp.sum(readers * d_readers, axis=1, keepdims=True)

    def kept(self, sources, d_sources):
        """Add the gradient of `until_end`."""
        self.written += jnp.sum(sources * d_sources, axis=1, keepdims=True)

    def carried(self, state, d_state):
        """Add the gradient of `over_chunk`, for the state before the chunk and the cotangent of that after it."""
        self.over += jnp.sum(jnp.sum(self.over_chunk(state) * d_state, axis=1, keepdims=True), axis=0, keepdims=True)

    def gates(self):
        """Return the gradient of the gates (1, C): one masked sum over the rows."""
        rows, columns = rows_and_columns(self.size)
        earlier = jnp.where(rows < columns, 1.0, 0.0)
        from_earlier = product(self.pairs, earlier, (1, 0), self.precision)  # for i and t the sum over j < t
        summed = jnp.where(rows >= columns, from_earlier + self.read, self.written)
        return jnp.sum(summed, axis=0, keepdims=True) + self.over


class ChannelDecay:
    """One factor per token and channel: scores by halving.

    A source in the left half of a block and a reader in its right half decay by e^{middle to i} e^{j to middle}, both
    at most 1. For the blocks of one size together this is one product of all readers and sources, of which only the
    pairs in opposite halves of a block count. Blocks of 2, 4, ... C tokens and the diagonal give all scores.
    """

    def __init__(self, log_decay, reset, spacing, precision):
        """Take log-decays (C, K), resets (C, 1) or None, and the number whose multiples add up exactly."""
        self.is_gate = (log_decay < jnp.inf) & (log_decay > FLOOR)
        gates = jnp.where(log_decay < jnp.inf, jnp.maximum(log_decay, FLOOR), 0.0)
        if reset is not None:
            self.is_gate, gates = self.is_gate & ~reset, jnp.where(reset, FLOOR, gates)
        self.size, self.precision = gates.shape[0], precision
        rows, columns = rows_and_columns(self.size)
        coarse = jnp.round(gates / spacing) * spacing
        until_here = jnp.where(columns <= rows, 1.0, 0.0)
        sums = [product(until_here, part, (1, 0), EXACT) for part in (coarse, gates - coarse)]
        whole = [part[self.size - 1 :] for part in sums]
        self.start = jnp.exp(sums[0] + sums[1])
        self.end = jnp.exp((whole[0] - sums[0]) + (whole[1] - sums[1]))
        row = lax.broadcasted_iota(jnp.int32, gates.shape, 0)
        self.levels = []
        for level in range(self.size.bit_length() - 1):
            middle = [_middles(part, 1 << level) for part in sums]
            from_middle = (sums[0] - middle[0]) + (sums[1] - middle[1])
            is_right = _is_right(row, level)
            factor = jnp.exp(jnp.where(is_right, from_middle, -from_middle))
            self.levels.append((jnp.where(is_right, factor, 0.0), jnp.where(is_right, 0.0, factor)))
        self.summed = [0.0] * len(self.levels)
        self.read = self.written = self.over = 0.0

    def scores(self, readers, sources):
        rows, columns = rows_and_columns(self.size)
        own = jnp.sum(readers * sources, axis=1, keepdims=True)
        scores = jnp.where(rows == columns, own, 0.0)
        for level, (right, left) in enumerate(self.levels):
            pairs = product(readers * right, sources * left, (1, 1), self.precision)
            scores += jnp.where(_across(rows, columns, level), pairs, 0.0)
        return scores

    def scores_back(self, readers, sources, d_scores):
        rows, columns = rows_and_columns(self.size)
        own = jnp.sum(jnp.where(rows == columns, d_scores, 0.0), axis=1, keepdims=True)
        d_readers, d_sources = own * sources, own * readers
        for level, (right, left) in enumerate(self.levels):
            pairs = jnp.where(_across(rows, columns, level), d_scores, 0.0)
            # Rows of sources on the right and of readers on the left are 0, and so are those of their products.
            of_readers = product(pairs, sources * left, (1, 0), self.precision) * right
            of_sources = product(pairs, readers * right, (0, 0), self.precision) * left
            self.summed[level] += of_readers * readers + of_sources * sources
            d_readers, d_sources = d_readers + of_readers, d_sources + of_sources
        return self.scores(readers, sources), d_readers, d_sources

    def since_start(self, readers):
        return readers * self.start

    def until_end(self, sources):
        return sources * self.end

    def over_chunk(self, state):
        return state * column(self.start[self.size - 1 :])

    def seen(self, readers, d_readers):
        self.read += readers * d_readers

    def kept(self, sources, d_sources):
        self.written += sources * d_sources

    def carried(self, state, d_state):
        ones = jnp.ones((8, state.shape[1]), jnp.float32)
        self.over += product(ones, self.over_chunk(state) * d_state, (1, 1), EXACT)[:1]

    def gates(self):
        """Return the gradient of the gates (C, K): products with matrices of zeros and ones."""
        rows, columns = rows_and_columns(self.size)

        def summed(where, values):
            return product(jnp.where(where, 1.0, 0.0), values, (1, 0), self.precision)

        gradient = summed(columns >= rows, self.read) + summed(columns < rows, self.written) + self.over
        for level, values in enumerate(self.summed):
            between = jnp.where(_is_right(rows, level), columns - rows, rows - columns - 1) >= 0
            gradient += summed(between & (rows >> level == columns >> level), values)
        return jnp.where(self.is_gate, gradient, 0.0)


def _middles(sums, half):
    """Return for each row the last row of the left half of its block of 2 `half` rows."""
    size, width = sums.shape
    block = 2 * half
    if block >= 8:
        middles = sums.reshape(size // block, block, width)[:, half - 1 : half]
        return jnp.broadcast_to(middles, (size // block, block, width)).reshape(size, width)
    tiles = sums.reshape(size // 8, 8, width)
    row = lax.broadcasted_iota(jnp.int32, tiles.shape, 1)
    middles = jnp.broadcast_to(tiles[:, half - 1 : half], tiles.shape)
    for start in range(block, 8, block):
        middles = jnp.where(
            row >= start, jnp.broadcast_to(tiles[:, start + half - 1 : start + half], tiles.shape), middles
        )
    return middles.reshape(size, width)


def _is_right(row, level):
    """Return whether a row is in the right half of its block of 2^(level + 1) rows."""
    return (row >> level) & 1 == 1


def _across(rows, columns, level):
    """Return whether the row is in the right half and the column in the left half of one block of 2^(level + 1)."""
    return (rows >> (level + 1) == columns >> (level + 1)) & _is_right(rows, level) & ~_is_right(columns, level)
