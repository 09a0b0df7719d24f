"""The ops of matrix states as the textbook has them: one step after the other, or all steps by one associative scan.

Everywhere o_t = K^-1/2 S_t^T q_t. Gates g come last and are missing where nothing decays.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from eval.bench.contestants.base import state_dtype
from eval.bench.programs import exactness


def lax_scan(write: Callable) -> Callable:
    """`lax.scan` over time of `write(einsum, state, k_t, v_t, ...) -> state`, and of the queries' reading."""

    def run(q, *rest):
        dtype = state_dtype(q)
        einsum = functools.partial(jnp.einsum, precision=exactness(q.dtype))
        batch, _, heads, key = q.shape

        def step(state, inputs):
            q, *rest = inputs
            state = write(einsum, state, *rest)
            return state, key**-0.5 * einsum("bhk,bhkv->bhv", q, state)

        state = jnp.zeros((batch, heads, key, rest[1].shape[-1]), dtype)
        _, o = lax.scan(step, state, [jnp.moveaxis(x, 1, 0).astype(dtype) for x in (q, *rest)])
        return jnp.moveaxis(o, 0, 1).astype(q.dtype)

    return run


def write_linear_attention(einsum, state, k, v, g=None):
    """S = diag(e^g) S + k v^T."""
    return _decayed(state, g) + k[..., :, None] * v[..., None, :]


def write_delta_rule(einsum, state, k, v, beta, g=None):
    """S = diag(e^g) S, then S = S + b k (v - S^T k)^T."""
    state = _decayed(state, g)
    error = v - einsum("bhk,bhkv->bhv", k, state)
    return state + (beta[..., None] * k)[..., :, None] * error[..., None, :]


def write_delta_product(einsum, state, k, v, beta, g=None):
    """S = diag(e^g) S, then R steps of the delta rule; k, v and beta have an axis R after the batch's."""
    state = _decayed(state, g)
    for r in range(k.shape[1]):
        state = write_delta_rule(einsum, state, k[:, r], v[:, r], beta[:, r])
    return state


def write_dplr_rule(einsum, state, k, v, a, b, g=None):
    """S = diag(e^g) S + b (S^T a)^T + k v^T."""
    read = einsum("bhk,bhkv->bhv", a, state)
    return _decayed(state, g) + b[..., :, None] * read[..., None, :] + k[..., :, None] * v[..., None, :]


def _decayed(state, g):
    return state if g is None else _factor(g, state.ndim) * state


def _factor(g, ndim):
    """e^g of gates per head or per key channel, as rows of matrices of this rank."""
    factor = jnp.exp(g)[..., None]
    return factor if factor.ndim == ndim else factor[..., None]


def lax_associative_scan(transition: Callable, diagonal: bool = False) -> Callable:
    """All S_t = M_t S_{t-1} + U_t by (M2, U2) o (M1, U1) = (M2 M1, M2 U1 + U2).

    `transition(einsum, k, v, ...)` returns all M and U; M of matrices, or `diagonal`: (..., K or 1, 1).
    """

    def run(q, *rest):
        dtype, precision = state_dtype(q), exactness(q.dtype)
        einsum = functools.partial(jnp.einsum, precision=precision)
        times = jnp.multiply if diagonal else functools.partial(jnp.matmul, precision=precision)

        def combine(earlier, later):
            return times(later[0], earlier[0]), times(later[0], earlier[1]) + later[1]

        steps = transition(einsum, *(x.astype(dtype) for x in rest))
        _, states = lax.associative_scan(combine, steps, axis=1)
        return (q.shape[-1] ** -0.5 * einsum("bthk,bthkv->bthv", q.astype(dtype), states)).astype(q.dtype)

    return run


def step_linear_attention(einsum, k, v, g=None):
    """diag(e^g) and k v^T."""
    factor = jnp.ones((*k.shape[:3], 1, 1), k.dtype) if g is None else _factor(g, 5)
    return factor, k[..., :, None] * v[..., None, :]


def step_delta_rule(einsum, k, v, beta, g=None):
    """(I - b k k^T) diag(e^g) and b k v^T."""
    return step_delta_product(einsum, k[:, :, None], v[:, :, None], beta[:, :, None], g)


def step_delta_product(einsum, k, v, beta, g=None):
    """The product of all I - b k k^T and diag(e^g), and what these leave of the b k v^T."""
    matrix = jnp.broadcast_to(jnp.eye(k.shape[-1], dtype=k.dtype), (*k.shape[:2], *k.shape[3:], k.shape[-1]))
    matrix = _decayed(matrix, g)
    written = jnp.zeros((*matrix.shape[:-1], v.shape[-1]), k.dtype)
    for r in range(k.shape[2]):
        steps, keys, values = beta[:, :, r, :, None] * k[:, :, r], k[:, :, r], v[:, :, r]
        matrix, written = (
            x + steps[..., :, None] * (add - einsum("bthk,bthkn->bthn", keys, x))[..., None, :]
            for x, add in ((matrix, jnp.zeros_like(keys)), (written, values))
        )
    return matrix, written


def step_dplr_rule(einsum, k, v, a, b, g=None):
    """diag(e^g) + b a^T and k v^T."""
    identity = jnp.broadcast_to(jnp.eye(k.shape[-1], dtype=k.dtype), (*k.shape, k.shape[-1]))
    return _decayed(identity, g) + b[..., :, None] * a[..., None, :], k[..., :, None] * v[..., None, :]
