"""The loop that reads a_t and x_t where they lie and writes h_t beside them, its state in double precision.

`lax.scan` wants time first and pays a transposed copy of every input and output for it. A `fori_loop` that slices axis
1 itself needs none, so it runs at the speed of one thread's memory: the fastest form on a CPU. The state is one step's
worth of numbers that never leave the cache, so float64 costs nothing there, and rounds the output once instead of the
state T times. (The parallel forms keep their summaries as double words: not every accelerator has float64.)
"""

import jax
import jax.numpy as jnp
from jax import lax


def scan(a, x, h0, reset=None, *, reverse=False, shifted=False):
    """h_t = a_t * h_{t-1} + x_t, with a either (B, T, N) or (N,); where reset (B, T) is true h_t = x_t.

    shifted=True is the adjoint's recurrence, which decays by the a of the step it comes from:
    h_t = a_{t-1} * h_{t-1} + x_t, starting with h = h0 + x undecayed (t-1 is t+1 where reverse).
    """
    length = x.shape[1]

    def time(i):
        return length - 1 - i if reverse else i

    def at(array, t):
        return lax.dynamic_index_in_dim(array, t, axis=1, keepdims=False)

    def decayed(h, t):
        a_t = jnp.broadcast_to(a[None], h0.shape) if a.ndim == 1 else at(a, t)
        # lax.mul and lax.add, because jnp's operators would bring float64 back to float32 where x64 is off.
        kept = lax.mul(_double(a_t), h)
        if reset is None:
            return kept
        with jax.enable_x64(True):  # chosen, not multiplied by 0: h may be NaN
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
    """value in float64 or complex128, also where JAX's 64-bit types are switched off for everybody else."""
    with jax.enable_x64(True):
        return lax.convert_element_type(value, jnp.complex128 if jnp.iscomplexobj(value) else jnp.float64)
