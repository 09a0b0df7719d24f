"""Invert a unit lower triangular matrix inside of a kernel: by substitution, then by block doubling.

Diagonal blocks of 8 rows are inverted by forward substitution, side by side in one register. Then

    inv([[A, 0], [B, D]]) = [[A^-1, 0], [-D^-1 B A^-1, D^-1]]

for all blocks of one size together: with X the inverse of the diagonal blocks of m rows, and E what is below them in
blocks of 2 m, X - X E X is that of the larger blocks. Both are backward stable (`recurrax.ops.triangular`).
"""

import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import tpu as pltpu

from recurrax.ops.pallas_tpu.decays import parts, product_of_parts, rows_and_columns

SUBSTITUTED = 8
"""Rows of a register."""


def unit_lower_inverse(a, precision):
    """Return (I + a)^-1 for strictly lower triangular a (C, C), C a power of two of at least 8; yields like a head.

    Errors grow with the correlation of keys, so factors are never rounded to bfloat16 alone: they have two such parts.
    """
    size = a.shape[0]
    system = parts(a, precision)
    block, column = (lax.broadcasted_iota(jnp.int32, (size // 2, size), axis) for axis in (0, 1))
    packed = yield from _substituted(_packed(a))
    inverse = [_diagonal(part, size) for part in parts(packed, precision)]
    for level in range(SUBSTITUTED.bit_length() - 1, size.bit_length() - 1):
        upper, lower = ([part.reshape(-1, 2, 1 << level, size)[:, i] for part in inverse] for i in range(2))
        lower = [part.reshape(-1, size) for part in lower]
        change = product_of_parts(lower, system, (1, 0))
        yield
        # What the system has below the diagonal blocks is left of them: the upper half of the same larger block.
        change = jnp.where(column >> level == 2 * (block >> level), change, 0.0)
        change = product_of_parts(parts(change, precision), inverse, (1, 0))
        yield
        lower = [part.reshape(upper[0].shape) for part in parts(sum(lower) - change, precision)]
        inverse = [jnp.stack(pair, axis=1).reshape(size, size) for pair in zip(upper, lower, strict=True)]
    return sum(inverse)


def _packed(a):
    """Return the diagonal blocks of 8 rows side by side, (8, C)."""
    rows, columns = rows_and_columns(a.shape[0])
    return jnp.where(rows >> 3 == columns >> 3, a, 0.0).reshape(-1, SUBSTITUTED, a.shape[1]).sum(0)


def _substituted(a):
    """Invert packed blocks: x_i = e_i - sum_{j < i} a_ij x_j, column by column of a."""
    rows, columns = (lax.broadcasted_iota(jnp.int32, a.shape, axis) for axis in (0, 1))
    own = columns & (SUBSTITUTED - 1)
    inverse = jnp.where(rows == own, 1.0, 0.0)
    for j in range(SUBSTITUTED - 1):
        factors = _rolled(jnp.where(own == j, a, 0.0), -j)
        for shift in (1, 2, 4):
            factors += _rolled(factors, shift)
        inverse -= factors * inverse[j : j + 1]
        yield
    return inverse


def _rolled(x, shift):
    return pltpu.roll(x, shift % x.shape[1], 1)


def _diagonal(packed, size):
    """Return the matrix with these diagonal blocks."""
    rows, columns = rows_and_columns(size)
    everywhere = jnp.broadcast_to(packed[None], (size // SUBSTITUTED, *packed.shape)).reshape(size, size)
    return jnp.where(rows >> 3 == columns >> 3, everywhere, 0.0)
