"""Provide `long_convolution`, causal filters as long as the sequence, by FFT."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax.ops import containment, time_sharding
from recurrax.ops.dtypes import wide_dtype
from recurrax.ops.families.diagonal.api import diagonal_scan
from recurrax.ops.sharding import sharded
from recurrax.types import ArrayLike


def _enter(op, given):
    """Return the last W-1 inputs before this time shard, and those at the end of the sequence."""
    del op
    x, kernel, state = given["x"], given["kernel"], given["state"]
    dtype = wide_dtype(x, kernel, state)
    if state is None:
        state = jnp.zeros((x.shape[0], kernel.shape[-1] - 1, x.shape[2]), dtype)
    before, _, last, _ = time_sharding.past(x.astype(dtype), state.astype(dtype))
    return before, last


def _letters(given):
    kernel = "." if given["kernel"].shape[0] == 1 else "H"
    return {"x": "B T H", "kernel": kernel, "state": "B . H"}


@sharded(_letters, results=("B T H", "B . H"), enter=_enter)
def long_convolution(
    x: Float[ArrayLike, "B T D"],
    kernel: Float[ArrayLike, "#D W"] | Float[ArrayLike, "#D M W"],
    state: Float[ArrayLike, "B W-1 D"] | None = None,
) -> tuple[Float[Array, "B T D"] | Float[Array, "B T D M"], Float[Array, "B W-1 D"]]:
    """Return y_t = sum_i kernel_i * x_{t-i}, depthwise; kernel's first tap applies to the current input.

    It takes O(T log T) for any width W; `causal_conv1d` takes O(T W), and orders its taps in reverse.

    Args:
      x: inputs.
      kernel: one filter of W taps per channel, or M filters per channel; a first axis of 1 shares them among channels.
      state: the last W - 1 inputs before x; None is zeros, in which case taps beyond T cost nothing.

    Returns:
      y in x's dtype (sums are float32 at least), with an axis of M if the kernel has one, and the last W - 1 inputs
      (float32 at least).

    A Fourier transform sums all inputs: every output has a rounding error of about 1e-7 of the largest output, which
    also depends on later inputs. For the same reason there is no `reset`: put documents in separate rows of the batch.
    An input that is not finite is excluded from the transform; the outputs within its W taps are NaN.

    Raises:
      ValueError: shapes or dtypes do not fit, or an axis is empty.
    """
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    state = None if state is None else jnp.asarray(state)
    _check(x, kernel, state)
    (batch, length, dim), width = x.shape, kernel.shape[-1]
    dtype = wide_dtype(x, kernel, state)
    kernel, inputs = kernel.astype(dtype), x.astype(dtype)
    if state is None:
        kernel = kernel[..., :length]
        past = jnp.zeros((batch, max(width - 1 - length, 0), dim), dtype)
        after = jnp.concatenate([past, inputs[:, max(length - width + 1, 0) :]], axis=1)
    else:
        inputs = jnp.concatenate([state.astype(dtype), inputs], axis=1)
        after = inputs[:, length:]
    inputs, flags = containment.admit(inputs, 3)
    kernel, everywhere = containment.admit(kernel, 1)
    y = convolve(inputs, kernel)[:, -length:]
    # The flags in a window are those up to its end minus those up to its start.
    until = diagonal_scan(jnp.ones((dim,), containment.FLAG), flags)[0]
    before = jnp.pad(until, ((0, 0), (kernel.shape[-1], 0), (0, 0)))[:, : until.shape[1]]
    y = containment.release(y, (until - before)[:, -length:] + everywhere[None, None])
    return y.astype(x.dtype), after


def convolve(
    x: Float[Array, "B T D"], kernel: Float[Array, "#D W"] | Float[Array, "#D M W"]
) -> Float[Array, "B T D"] | Float[Array, "B T D M"]:
    """Return sum_i kernel_i * x_{t-i} by FFT, for finite numbers; any other number would make every output NaN."""
    length = x.shape[1]
    size = fft_length(length + kernel.shape[-1] - 1)
    waves = jnp.fft.rfft(jnp.swapaxes(x, 1, 2), size)  # (B, D, F)
    if kernel.ndim == 3:
        waves = waves[:, :, None]
    return jnp.moveaxis(jnp.fft.irfft(waves * jnp.fft.rfft(kernel, size)[None], size)[..., :length], -1, 1)


def fft_length(least: int) -> int:
    """Return the smallest even 2^k, 3 2^k, 5 2^k, 9 2^k or 15 2^k that is at least `least`: FFTs of these are fast."""
    return min(m << max(-(-least // m) - 1, 1).bit_length() for m in (1, 3, 5, 9, 15))


def _check(x, kernel, state):
    if x.ndim != 3 or 0 in x.shape:
        raise ValueError(f"x must be (B, T, D), no axis empty, got shape {x.shape}")
    if kernel.ndim not in (2, 3) or kernel.shape[0] not in (1, x.shape[2]) or 0 in kernel.shape:
        raise ValueError(
            f"kernel must be (D, W) or (D, M, W) with D = {x.shape[2]} or 1, no axis empty, got shape {kernel.shape}"
        )
    for name, value in (("x", x), ("kernel", kernel), ("state", state)):
        if value is not None and not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(f"{name} must be real floating point, got {value.dtype}")
    want = (x.shape[0], kernel.shape[-1] - 1, x.shape[2])
    if state is not None and state.shape != want:
        raise ValueError(f"state must be (B, W-1, D) = {want}, got shape {state.shape}")
