"""Provide the forms "fft" and "chunked" of `state_space`, which confine numbers that are not finite (`containment`)."""

import jax
import jax.numpy as jnp

from recurrax.ops import containment
from recurrax.ops.families.diagonal.api import diagonal_scan
from recurrax.ops.families.long_convolution.api import convolve
from recurrax.ops.families.state_space import chunked as in_chunks
from recurrax.ops.families.state_space import powers


def chunked(x, system, h, reset, taps, *, size):
    """Return y and the last state by chunks of `size` tokens, with a state between chunks."""
    del taps

    def outputs(x, system, entering, taps):
        del taps
        return in_chunks.outputs(x, system, entering, reset, size)

    return _contained(outputs, x, system, h, reset, None, size)


def by_fft(x, system, h, reset, taps, *, size):
    """Return y by an FFT with all taps (D, M, T), computed here if None, and the last state by chunks."""

    def outputs(x, system, entering, taps):
        del entering
        taps = powers.kernel(system, x.shape[1], size) if taps is None else taps
        return convolve(x, jnp.asarray(taps, x.dtype))

    return _contained(outputs, x, system, h, reset, taps, size)


def _contained(outputs, x, system, h, reset, taps, size):
    (a, b, c, taps), everywhere = _admit(*system, taps)
    system = powers.system(a, b, c, x.dtype)
    x, flags = containment.admit(x, 3)
    h, start = containment.admit(h, 2)
    seen = diagonal_scan(jnp.ones(x.shape[2:], containment.FLAG), flags, start, reset=reset)[0] + everywhere
    entering, last = in_chunks.states(x, system, h, reset, size)
    y = outputs(x, system, entering, taps)
    return containment.release(y, seen), containment.release(last, seen[:, -1])


def _admit(*parameters):
    """Return the cleaned parameters and their flags (1, 1, D) or 0: all outputs of a channel depend on them."""
    admitted, flags = [], 0.0
    for value in parameters:
        if isinstance(value, jax.Array):
            value, flag = containment.admit(value, 1)
            flags = flags + flag[None, None]
        admitted.append(value)
    return admitted, flags
