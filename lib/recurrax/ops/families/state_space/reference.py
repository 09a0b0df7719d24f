"""Define `state_space` step by step."""

import jax
import jax.numpy as jnp
from jax import lax


def scan(x, system, h, reset, taps, *, size):
    """Return y (B, T, D, M) and the last state (B, D, N), for x (B, T, D), (a, b, c), h (B, D, N) and reset (B, T)."""
    del taps, size
    a, b, c = (jnp.asarray(value).astype(h.dtype) for value in system)

    def step(h, inputs):
        x, reset = inputs
        h = h if reset is None else jnp.where(reset[:, None, None], jnp.zeros((), h.dtype), h)
        # A diagonal A is given by its logarithm, a dense one less the identity: near it A itself would lose precision.
        moved = jnp.expm1(a)[None] * h if a.ndim == 2 else _product("dmn,bdn->bdm", a, h)
        h = h + moved + b[None] * x[..., None].astype(h.dtype)
        return h, _product("dmn,bdn->bdm", c, h).real

    h, y = jax.lax.scan(step, h, (x.swapaxes(0, 1), None if reset is None else reset.swapaxes(0, 1)))
    return y.swapaxes(0, 1), h


def _product(spec, x, y):
    return jnp.einsum(spec, x, y, precision=lax.Precision.HIGHEST)
