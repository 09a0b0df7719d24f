"""Provide the short causal convolution that most published blocks apply before their recurrence."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax import checks
from recurrax.ops import time_sharding
from recurrax.ops.dtypes import wide_dtype
from recurrax.ops.sharding import sharded
from recurrax.ops.tokenwise import scale, shift
from recurrax.types import ArrayLike, Reset


def _enter(op, given):
    """Return the last W-1 inputs before this time shard, and those at the end of the sequence."""
    del op
    x, kernel, state, reset = (given[name] for name in ("x", "kernel", "state", "reset"))
    dtype = wide_dtype(x, kernel)
    if state is None:
        state = jnp.zeros((x.shape[0], kernel.shape[0] - 1, x.shape[2]), dtype)
    before, kept, last, kept_at_last = time_sharding.past(x.astype(dtype), state.astype(dtype), reset)
    return jnp.where(kept[..., None], before, 0), jnp.where(kept_at_last[..., None], last, 0)


@sharded(
    {"x": "B T H", "kernel": ". H", "bias": "H", "state": "B . H", "reset": "B T"},
    results=("B T H", "B . H"),
    enter=_enter,
)
def causal_conv1d(
    x: Float[ArrayLike, "B T D"],
    kernel: Float[ArrayLike, "W D"],
    bias: Float[ArrayLike, " D"] | None = None,
    state: Float[ArrayLike, "B W-1 D"] | None = None,
    *,
    reset: Reset | None = None,
) -> tuple[Float[Array, "B T D"], Float[Array, "B W-1 D"]]:
    """Return y_t = bias + sum_i kernel_i * x_{t-(W-1)+i}, depthwise; kernel's last row applies to the current input.

    Args:
      x: inputs.
      kernel: one filter of width W per channel.
      bias: added to every output; None is zero.
      state: the last W-1 inputs before x; None is zeros.
      reset: True where a document starts; no filter crosses that border, in the state either.

    Returns:
      y in x's dtype (sums are float32 at least), and the last W-1 inputs of the current document (float32 at least).

    Raises:
      ValueError: shapes do not fit, or an axis is empty.
    """
    checks.not_empty("x", x)
    checks.not_empty("kernel", kernel)
    width, dim = kernel.shape
    batch, length, _ = x.shape
    if x.shape[2] != dim or (bias is not None and bias.shape != (dim,)):
        raise ValueError(f"kernel {kernel.shape} needs x (B, T, {dim}) and bias ({dim},), got {x.shape} and {bias}")
    if state is not None and state.shape != (batch, width - 1, dim):
        raise ValueError(f"state must be (B, W-1, D) = {(batch, width - 1, dim)}, got {state.shape}")
    dtype = wide_dtype(x, kernel)
    kernel = jnp.asarray(kernel, dtype)
    past = jnp.zeros((batch, width - 1, dim), dtype) if state is None else jnp.asarray(state, dtype)
    inputs = jnp.concatenate([past, jnp.asarray(x, dtype)], axis=1)

    # inside: no document starts in the last `back` steps, so that the tap `back` steps ago is in the same document.
    inside, borders = None, []
    if reset is not None:
        padded_reset = jnp.pad(reset, ((0, 0), (width - 1, 0)))
        inside = jnp.ones_like(reset)

    # Widths are below 10: one fused multiply-add per tap is faster than a convolution call, on every backend.
    y = jnp.zeros((batch, length, dim), dtype)
    for back in range(width):
        tap = scale(inputs[:, width - 1 - back : width - 1 - back + length], kernel[width - 1 - back])
        if inside is not None:
            if back > 0:
                inside = inside & ~padded_reset[:, width - back : width - back + length]
            tap = jnp.where(inside[..., None], tap, 0)
            borders.append(inside[:, -1])
        y = y + tap
    if bias is not None:
        y = shift(y, jnp.asarray(bias, dtype))

    state = inputs[:, length:]
    if reset is not None and width > 1:
        # Row i of the state is the input W-2-i steps before the last one.
        state = jnp.where(jnp.stack(borders[width - 2 :: -1], axis=1)[..., None], state, 0)
    return y.astype(x.dtype), state
