"""Provide the public function `state_space`, check its arguments and select the implementation."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Inexact

from recurrax.ops import containment, dispatch, time_sharding
from recurrax.ops.dtypes import wide_dtype
from recurrax.ops.families.diagonal.api import diagonal_scan
from recurrax.ops.families.long_convolution.api import convolve
from recurrax.ops.families.state_space import chunked, powers
from recurrax.ops.sharding import sharded, splits_time
from recurrax.types import ArrayLike, Reset

IMPLEMENTATIONS = ("chunked", "fft")


def state_space(
    x: Float[ArrayLike, "B T D"],
    a: Inexact[ArrayLike, "D N"] | Float[ArrayLike, "D N N"],
    b: Inexact[ArrayLike, "D N"],
    c: Inexact[ArrayLike, "D M N"],
    state: Inexact[ArrayLike, "B D N"] | None = None,
    *,
    reset: Reset | None = None,
    kernel: Callable[[int], Float[Array, "D M T"]] | None = None,
    chunk_size: int = 64,
    implementation: str | None = None,
) -> tuple[Float[Array, "B T D M"], Inexact[Array, "B D N"]]:
    """Run h_t = A h_{t-1} + b x_t, y_t = Re(c h_t), with N states h per channel; return all y and the last h.

    A does not depend on time. Only one state per chunk is ever in memory.

    Args:
      x: inputs, one number per channel.
      a: log A of diagonal matrices A (D, N), real or complex; or A - I of dense matrices A (D, N, N), real. Both forms
        keep the precision of slow modes, which A near the identity would lose.
      b: input vectors, which write to the state.
      c: M output rows, which read from the state.
      state: h before the first step; None is zero.
      reset: True where a document starts; the state before that step, including `state`, is dropped.
      kernel: function T -> c A^t b for t < T, if the caller has a better way than powers of A; "fft" calls it.
      chunk_size: tokens per chunk, rounded up to a power of two.
      implementation: "chunked" uses the first taps of the kernel within a chunk and states between chunks. "fft" uses
        the whole kernel by FFT, with the rounding errors of `long_convolution`; it needs no `state`, no `reset` and no
        mesh that splits the sequence. None is "fft" if that is possible and there is more than one chunk.

    Returns:
      y in x's dtype, and the last state in float32 or complex64 (doubles for doubles), the dtype in which the op
      computes. If a, b and c are all NumPy arrays, the powers of A are computed in float64 at trace time.

    Raises:
      ValueError: shapes or dtypes do not fit, the chunk size is below 1, the implementation is unknown, or it is "fft"
        with a state, resets or a sequence that a mesh splits.
    """
    x, state = jnp.asarray(x), None if state is None else jnp.asarray(state)
    if not all(isinstance(value, np.ndarray) for value in (a, b, c)):
        a, b, c = (jnp.asarray(value) for value in (a, b, c))
    _check(x, a, b, c, state, reset, chunk_size)
    # Shards of a sequence are joined by states.
    possible = state is None and reset is None and not (splits_time() and x.shape[1] > 1)
    if implementation == "fft" and not possible:
        raise ValueError('implementation "fft" knows neither states nor resets nor split sequences; use "chunked"')
    if implementation is None:
        implementation = "fft" if possible and x.shape[1] > chunk_size else "chunked"
    name = dispatch.choose(implementation, {name: name for name in IMPLEMENTATIONS}, {})

    # `kernel` may close over tracers of this trace: it is called here, not inside the shard_map of `_run`.
    taps = kernel(x.shape[1]) if name == "fft" and kernel is not None else None
    return _run(x, a, b, c, taps, state, reset, chunk_size, name)


def _enter(op, given):
    """Return h before this time shard and after the last. A shard of T tokens maps h to A^T h + U."""
    x, a, b, c, state, reset = (given[name] for name in ("x", "a", "b", "c", "state", "reset"))
    written = op(**{**given, "state": None})[1]
    power = jnp.asarray(_system(x, a, b, c).a.power(x.shape[1]), written.dtype)

    def step(written, h):
        if a.ndim == 2:
            return jnp.exp(power)[None] * h + written
        # power is A^T - I
        return h + jnp.einsum("dmn,bdn->bdm", power, h, precision=lax.Precision.HIGHEST) + written

    state = jnp.zeros_like(written) if state is None else state.astype(written.dtype)
    return time_sharding.fold(written, state, step, reset=reset)


@sharded(
    {"x": "B T H", "a": "H", "b": "H", "c": "H", "taps": "H", "state": "B H", "reset": "B T"},
    results=("B T H", "B H"),
    enter=_enter,
)
def _run(x, a, b, c, taps, state, reset, chunk_size, name):
    """Run the implementation of this name, "fft" with the caller's `taps` (D, M, T) if there are any."""
    (a, b, c, taps), everywhere = _admit(a, b, c, taps)
    system, inputs = _system(x, a, b, c), x.astype(_dtype(x, a, b, c))
    state_dtype = wide_dtype(inputs, jnp.complex64) if system.is_complex else inputs.dtype
    h = jnp.zeros((x.shape[0], *b.shape), state_dtype) if state is None else state.astype(state_dtype)
    inputs, flags = containment.admit(inputs, 3)
    h, start = containment.admit(h, 2)
    seen = diagonal_scan(jnp.ones(x.shape[2:], containment.FLAG), flags, start, reset=reset)[0] + everywhere
    length = x.shape[1]
    size = 1 << (min(chunk_size, length) - 1).bit_length()
    entering, last = chunked.states(inputs, system, h, reset, size)
    if name == "fft":
        taps = powers.kernel(system, length, size) if taps is None else taps
        y = convolve(inputs, jnp.asarray(taps, inputs.dtype))
    else:
        y = chunked.outputs(inputs, system, entering, reset, size)
    return containment.release(y, seen).astype(x.dtype), containment.release(last, seen[:, -1])


def _admit(*parameters):
    """Return the cleaned parameters and their flags (1, 1, D) or 0: all outputs of a channel depend on them."""
    admitted, flags = [], 0.0
    for value in parameters:
        if isinstance(value, jax.Array):
            value, flag = containment.admit(value, 1)
            flags = flags + flag[None, None]
        admitted.append(value)
    return admitted, flags


def _dtype(x, *system):
    """Return the real dtype in which the op computes, at least float32."""
    return wide_dtype(x, *(value.real for value in system if not isinstance(value, np.ndarray)))


def _system(x, a, b, c):
    return powers.system(a, b, c, _dtype(x, a, b, c))


def _check(x, a, b, c, state, reset, chunk_size):
    if x.ndim != 3 or 0 in x.shape:
        raise ValueError(f"x must be (B, T, D), no axis empty, got shape {x.shape}")
    batch, length, dim = x.shape
    if b.ndim != 2 or b.shape[0] != dim or 0 in b.shape:
        raise ValueError(f"b must be (D, N) with D = {dim}, got shape {b.shape}")
    size = b.shape[1]
    if a.shape not in ((dim, size), (dim, size, size)):
        raise ValueError(f"a must be (D, N) = {(dim, size)} or (D, N, N) = {(dim, size, size)}, got shape {a.shape}")
    if c.ndim != 3 or c.shape[0] != dim or c.shape[2] != size or 0 in c.shape:
        raise ValueError(f"c must be (D, M, N) = ({dim}, M, {size}), got shape {c.shape}")
    if state is not None and state.shape != (batch, dim, size):
        raise ValueError(f"state must be (B, D, N) = {(batch, dim, size)}, got shape {state.shape}")
    if reset is not None and (reset.shape != (batch, length) or reset.dtype != jnp.bool_):
        raise ValueError(f"reset must be boolean (B, T) = {batch, length}, got {reset.dtype} of shape {reset.shape}")
    for name, value in (("x", x), ("a", a), ("b", b), ("c", c), ("state", state)):
        if value is not None and not jnp.issubdtype(value.dtype, jnp.inexact):
            raise ValueError(f"{name} must be floating point, got {value.dtype}")
    if jnp.iscomplexobj(x) or (a.ndim == 3 and any(jnp.iscomplexobj(v) for v in (a, b, c))):
        raise ValueError("x, and a, b and c of dense matrices, must be real")
    if state is not None and jnp.iscomplexobj(state) and not any(jnp.iscomplexobj(v) for v in (a, b, c)):
        raise ValueError("state must be real where a, b and c are")
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
