"""Provide the scan as a loop that reads a_t and x_t and writes h_t in place along axis 1, with a float64 state.

`lax.scan` needs time first and makes a transposed copy of every input and output. A `fori_loop` that slices axis 1
needs no copies, so it runs at the memory bandwidth of one thread: the fastest form on a CPU. The state of one step
stays in the cache, so float64 costs nothing there, and rounds the output once instead of the state T times. (The
parallel forms store their summaries as double words, because not every accelerator has float64.)
"""

import jax
import jax.numpy as jnp
from jax import lax


def scan(a, x, h0, reset=None, *, reverse=False, chunk_size=None, shifted=False):
    """Return all h_t = a_t * h_{t-1} + x_t and the last, for a (B, T, N) or (N,); where reset (B, T) is true h_t = x_t.

    shifted=True is the adjoint's recurrence, which decays by the a of the previous step:
    h_t = a_{t-1} * h_{t-1} + x_t, starting with h = h0 + x undecayed (t-1 is t+1 with reverse).
    """
    del chunk_size
    length = x.shape[1]

    def time(i):
        return length - 1 - i if reverse else i

    def at(array, t):
        return lax.dynamic_index_in_dim(array, t, axis=1, keepdims=False)

    def decayed(h, t):
        a_t = jnp.broadcast_to(a[None], h0.shape) if a.ndim == 1 else at(a, t)
        # lax.mul and lax.add, because jnp's operators would cast float64 to float32 if x64 is off.
        kept = lax.mul(_double(a_t), h)
        if reset is None:
            return kept
        with jax.enable_x64(True):  # selected, not multiplied by 0: h may be NaN
            return jnp.where(at(reset, t)[:, None], jnp.zeros((), kept.dtype), kept)

    def write(out, h, t):
        return lax.dynamic_update_index_in_dim(out, lax.convert_element_type(h, out.dtype), t, axis=1)

    def step(i, carry):
        h, out = carry
        h = lax.add(decayed(h, time(i - int(shifted))), _double(at(x, time(i))))
        return h, write(out, h, time(i))

    h, out = _double(h0), lax.empty(x.shape, x.dtype)
    if shifted:
        h = lax.add(h, _double(at(x, time(0))))
        out = write(out, h, time(0))
    h, out = lax.fori_loop(int(shifted), length, step, (h, out))
    return out, lax.convert_element_type(h, x.dtype)


def _double(value):
    """Return value in float64 or complex128, also if JAX's 64-bit types are disabled elsewhere."""
    with jax.enable_x64(True):
        return lax.convert_element_type(value, jnp.complex128 if jnp.iscomplexobj(value) else jnp.float64)
