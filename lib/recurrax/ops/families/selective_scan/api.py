"""Provide the public function `selective_scan` and check its arguments."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax.ops import dispatch, time_sharding
from recurrax.ops.arguments import check_rank, check_shape
from recurrax.ops.dtypes import wide_dtype
from recurrax.ops.families.selective_scan import chunked, reference
from recurrax.ops.sharding import sharded
from recurrax.types import ArrayLike, Reset

IMPLEMENTATIONS = {"reference": reference.scan, "chunked": chunked.scan}
BEST = {"default": "chunked"}


def _enter(op, given):
    """Return h before this time shard and after the last. A shard maps h to e^{a (dt_1 + ... + dt_T)} h + U."""
    a, dt, reset = given["a"], given["dt"], given["reset"]
    written = op(**{**given, "state": None})[1]
    kept = jnp.exp(dt.sum(1, dtype=written.dtype)[..., None] * a[None].astype(written.dtype))
    if reset is not None:
        kept = jnp.where(reset.any(1)[:, None, None], 0, kept)
    state = jnp.zeros_like(written) if given["state"] is None else given["state"].astype(written.dtype)
    return time_sharding.fold((kept, written), state, reset=reset)


@sharded(
    {"x": "B T H", "dt": "B T H", "a": "H", "b": "B T", "c": "B T", "state": "B H", "reset": "B T"},
    results=("B T H", "B H"),
    enter=_enter,
)
def selective_scan(
    x: Float[ArrayLike, "B T E"],
    dt: Float[ArrayLike, "B T E"],
    a: Float[ArrayLike, "E N"],
    b: Float[ArrayLike, "B T N"],
    c: Float[ArrayLike, "B T N"],
    state: Float[ArrayLike, "B E N"] | None = None,
    *,
    reset: Reset | None = None,
    chunk_size: int | None = None,
    implementation: str | None = None,
) -> tuple[Float[Array, "B T E"], Float[Array, "B E N"]]:
    """Run h_t = e^{dt_t a} h_{t-1} + (dt_t x_t) b_t^T, y_t = h_t c_t; return all y and the last h.

    This is Mamba's recurrence (arXiv 2312.00752): N states for each of the E channels, with input-dependent decay. At
    most one chunk's states are in memory at a time, also in the gradient, which stores one state per chunk.

    Args:
      x: inputs.
      dt: step sizes, at least 0.
      a: decay rates, at most 0.
      b: input vectors, which write to the states.
      c: output vectors, which read from the states.
      state: h before the first step; None is zero.
      reset: True where a document starts; the state before that step, including `state`, is dropped.
      chunk_size: steps per chunk of the "chunked" implementation; None is 16 on a CPU and 128 elsewhere.
      implementation: "reference", "chunked", or None for the fastest on this backend.

    Returns:
      y in x's dtype, and the last state in float32 (float64 for float64 inputs), the dtype in which the op computes.

    Raises:
      ValueError: shapes do not fit, the chunk size is below 1, or the implementation is unknown.
    """
    x, dt, a, b, c = (jnp.asarray(array) for array in (x, dt, a, b, c))
    batch, length, width = check_rank("x", x, "B T E")
    states = check_rank("a", a, "E N")[1]
    check_shape("dt", dt, ("B T E", x.shape))
    check_shape("a", a, ("E N", (width, states)))
    for name, array in (("b", b), ("c", c)):
        check_shape(name, array, ("B T N", (batch, length, states)))
    if state is not None:
        check_shape("state", jnp.asarray(state), ("B E N", (batch, width, states)))
    if reset is not None and (reset.shape != (batch, length) or reset.dtype != jnp.bool_):
        raise ValueError(f"reset must be boolean (B, T) = {(batch, length)}, got {reset.dtype} of shape {reset.shape}")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    run = dispatch.choose(implementation, IMPLEMENTATIONS, BEST)

    dtype = wide_dtype(x, dt, a)
    wide = tuple(array.astype(dtype) for array in (x, dt, a, b, c))
    state = jnp.zeros((batch, width, states), dtype) if state is None else jnp.asarray(state, dtype)
    y, state = run(*wide, state, reset, chunk_size=chunk_size)
    return y.astype(x.dtype), state
