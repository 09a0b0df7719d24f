"""Invert unit lower triangular matrices, for the chunked delta and DPLR rules.

Diagonal blocks of 16 rows are inverted by forward substitution, larger ones by block doubling:
inv([[A, 0], [B, D]]) = [[A^-1, 0], [-D^-1 B A^-1, D^-1]]. Both are backward stable. The shorter product
prod_j (I + M^(2^j)) is not: for equal keys its powers grow like binomial coefficients, and 64 rows lose all precision.
"""

import jax.numpy as jnp
from jax import lax

from recurrax.ops.differentiation import custom_vjp

SUBSTITUTED = 16


@custom_vjp
def unit_lower_inverse(a):
    """Return (I + a)^-1 for strictly lower triangular a (..., N, N)."""
    size = a.shape[-1]
    block = size
    while block > SUBSTITUTED and block % 2 == 0:
        block //= 2
    inverse = _substitute(jnp.stack([_part(a, i, i, block) for i in range(size // block)], axis=-3))
    while block < size:
        below = jnp.stack([_part(a, i + 1, i, block) for i in range(0, size // block, 2)], axis=-3)
        upper, lower = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        corner = -_product(_product(lower, below), upper)
        rows = [jnp.concatenate([upper, jnp.zeros_like(upper)], -1), jnp.concatenate([corner, lower], -1)]
        inverse = jnp.concatenate(rows, -2)
        block *= 2
    return inverse[..., 0, :, :]


def _forward(a):
    inverse = unit_lower_inverse(a)
    return inverse, inverse


def _backward(inverse, cotangent):
    """Return the gradient -X^T dX X^T below the diagonal, from d(X) = -X d(a) X."""
    transposed = jnp.swapaxes(inverse, -1, -2)
    return (jnp.tril(-_product(_product(transposed, cotangent), transposed), -1),)


unit_lower_inverse.defvjp(_forward, _backward)


def _substitute(a):
    """Invert by forward substitution: row i of X is e_i - a_i X, where a_i has entries only before i."""

    def row(i, x):
        known = _product(lax.dynamic_slice_in_dim(a, i, 1, axis=-2), x)
        return lax.dynamic_update_slice_in_dim(x, lax.dynamic_slice_in_dim(x, i, 1, axis=-2) - known, i, x.ndim - 2)

    return lax.fori_loop(1, a.shape[-1], row, jnp.broadcast_to(jnp.eye(a.shape[-1], dtype=a.dtype), a.shape))


def _part(a, i, j, block):
    return a[..., i * block : (i + 1) * block, j * block : (j + 1) * block]


def _product(x, y):
    return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)
