"""Check and normalise the arguments of the ops with matrix states.

Errors are raised early in the trace and name the argument, its value and the allowed values.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from recurrax import checks
from recurrax.ops.dtypes import wide_dtype


def arrays(*values, log_decay):
    """Return each value as a JAX array, with `log_decay` last; None stays None.

    Known log-decays above 0 are refused: those of NumPy and JAX arrays, and of NumPy constants in a traced function,
    which must be checked before their conversion, as JAX constants are traced.
    """
    if log_decay is not None and checks.is_known(log_decay):
        known = np.asarray(log_decay)
        if known.size and not (largest := known.max()) <= 0:
            raise ValueError(
                f"log_decay must be <= 0, the logarithm of a factor of at most 1; its largest is {largest}"
            )
    return tuple(None if value is None else jnp.asarray(value) for value in (*values, log_decay))


def check_rank(name, array, letters):
    """Return the array's shape, or raise ValueError unless it has one axis per letter and no empty axis."""
    if array.ndim != len(letters.split()) or 0 in array.shape:
        raise ValueError(f"{name} must be ({letters.replace(' ', ', ')}), no axis empty, got shape {array.shape}")
    return array.shape


def check_shape(name, array, *choices):
    """Raise ValueError unless the array is None or has one of the shapes, which are pairs (letters, sizes)."""
    if array is not None and array.shape not in [sizes for _, sizes in choices]:
        expected = " or ".join(f"({letters.replace(' ', ', ')}) = {sizes}" for letters, sizes in choices)
        raise ValueError(f"{name} must be {expected}, got shape {array.shape}")


def check_queries(q, times, heads, key):
    """Raise ValueError unless q has the keys' batch, length and head size, and a multiple of their heads."""
    batch, length, all_heads, dim = check_rank("q", q, "B T Hq K")
    if (batch, length) != times or dim != key or all_heads % heads:
        expected = (*times, f"a multiple of {heads}", key)
        raise ValueError(f"q must be (B, T, Hq, K) = ({', '.join(map(str, expected))}), got shape {q.shape}")


def check_dtypes(**given):
    """Raise ValueError unless all arrays have the same real floating-point dtype."""
    for name, array in given.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} must be bfloat16, float16, float32 or float64, got {array.dtype}")
    if len({array.dtype for array in given.values()}) > 1:
        listed = ", ".join(f"{name} {array.dtype}" for name, array in given.items())
        raise ValueError(f"{', '.join(given)} must have one dtype, got {listed}")


def check_log_decay(log_decay, heads, key):
    """Raise ValueError unless log_decay is None, one per head or one per channel, of any floating-point dtype."""
    if log_decay is None:
        return
    check_shape("log_decay", log_decay, ("B T H", heads), ("B T H K", (*heads, key)))
    check_dtypes(log_decay=log_decay)


class Sizes(NamedTuple):
    """Sizes B, T, H, K, V of an op's arguments. H counts the states' heads; the queries may have a multiple of them."""

    batch: int
    length: int
    heads: int
    key: int
    value: int


def check_common(q, log_decay, state, reset, chunk_size, sizes):
    """Check the arguments common to all ops: queries, log-decays, initial state, resets and the chunk size."""
    batch, length, heads, key, value = sizes
    check_queries(q, (batch, length), heads, key)
    check_log_decay(log_decay, (batch, length, heads), key)
    if reset is not None and (reset.shape != (batch, length) or reset.dtype != jnp.bool_):
        raise ValueError(f"reset must be boolean (B, T) = {batch, length}, got {reset.dtype} of shape {reset.shape}")
    if state is not None:
        check_shape("state", state, ("B H K V", (batch, heads, key, value)))
        check_dtypes(state=state)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")


def call(implementation, q, others, log_decay, state, reset, scale, chunk_size, sizes):
    """Run an implementation on checked arguments.

    It receives q and the other inputs unchanged, log-decays (B, T, H, 1 | K) or None, a state in the dtype in which the
    op computes (float32, or float64 for float64 inputs), and resets (B, T) or None.
    """
    batch, length, heads, key, value = sizes
    if log_decay is not None and log_decay.ndim == 3:
        log_decay = log_decay[..., None]
    reset = None if reset is None else jnp.asarray(reset)
    dtype = wide_dtype(q.dtype)
    state = jnp.zeros((batch, heads, key, value), dtype) if state is None else state.astype(dtype)
    scale = key**-0.5 if scale is None else scale
    return implementation(q, *others, log_decay, state, reset, scale=scale, chunk_size=chunk_size)
