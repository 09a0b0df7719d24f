"""Provide `long_convolution`, causal filters as long as the sequence, and its declaration."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from recurrax.ops import containment
from recurrax.ops.dtypes import wide_dtype
from recurrax.ops.families.diagonal.api import diagonal_scan
from recurrax.ops.op import Implementation, Op
from recurrax.ops.summaries import LastTokens
from recurrax.types import ArrayLike


def long_convolution(
    x: Float[ArrayLike, "B T D"],
    kernel: Float[ArrayLike, "#D W"] | Float[ArrayLike, "#D M W"],
    state: Float[ArrayLike, "B W-1 D"] | None = None,
    *,
    implementation: str | None = None,
) -> tuple[Float[Array, "B T D"] | Float[Array, "B T D M"], Float[Array, "B W-1 D"]]:
    """Return y_t = sum_i kernel_i * x_{t-i}, depthwise; kernel's first tap applies to the current input.

    It takes O(T log T) for any width W; `causal_conv1d` takes O(T W), and orders its taps in reverse.

    Args:
      x: inputs.
      kernel: one filter of W taps per channel, or M filters per channel; a first axis of 1 shares them among channels.
      state: the last W - 1 inputs before x; None is zeros, in which case taps beyond T cost nothing.
      implementation: "fft", "reference" (one step after the other), or None for the best on the program's platform.

    Returns:
      y in x's dtype (sums are float32 at least), with an axis of M if the kernel has one, and the last W - 1 inputs
      (float32 at least).

    A Fourier transform sums all inputs: every output has a rounding error of about 1e-7 of the largest output, which
    also depends on later inputs. For the same reason there is no `reset`: put documents in separate rows of the batch.
    An input that is not finite is excluded from the transform; the outputs within its W taps are NaN.

    Raises:
      ValueError: shapes or dtypes do not fit, an axis is empty, or the implementation is unknown.
    """
    return LONG_CONVOLUTION(implementation, x=x, kernel=kernel, state=state)


def by_fft(x, kernel, state):
    """Convolve by FFT. A state of None is not transformed."""
    (batch, length, dim), width = x.shape, kernel.shape[-1]
    inputs = x.astype(kernel.dtype)
    if state is None:
        kernel = kernel[..., :length]
        past = jnp.zeros((batch, max(width - 1 - length, 0), dim), kernel.dtype)
        after = jnp.concatenate([past, inputs[:, max(length - width + 1, 0) :]], axis=1)
    else:
        inputs = jnp.concatenate([state, inputs], axis=1)
        after = inputs[:, length:]
    inputs, flags = containment.admit(inputs, 3)
    kernel, everywhere = containment.admit(kernel, 1)
    y = convolve(inputs, kernel)[:, -length:]
    # The flags in a window are those up to its end minus those up to its start.
    until = diagonal_scan(jnp.ones((dim,), containment.FLAG), flags)[0]
    before = jnp.pad(until, ((0, 0), (kernel.shape[-1], 0), (0, 0)))[:, : until.shape[1]]
    y = containment.release(y, (until - before)[:, -length:] + everywhere[None, None])
    return y.astype(x.dtype), after


def reference(x, kernel, state):
    """Keep the window of the last W inputs and sum it with the taps, one step after the other."""
    newest_last = jnp.moveaxis(jnp.flip(kernel, -1), -1, 0)  # (W, D) or (W, D, M)

    def step(past, x):
        window = jnp.concatenate([past, x[:, None]], axis=1)
        return window[:, 1:], (window.reshape(*window.shape, *(1,) * (kernel.ndim - 2)) * newest_last[None]).sum(1)

    if state is None:
        state = jnp.zeros((x.shape[0], kernel.shape[-1] - 1, x.shape[2]), kernel.dtype)
    state, y = jax.lax.scan(step, state, x.astype(kernel.dtype).swapaxes(0, 1))
    return y.swapaxes(0, 1).astype(x.dtype), state


def _compute(choice, given):
    x, kernel, state = given["x"], given["kernel"], given["state"]
    dtype = wide_dtype(x, kernel, state)
    return choice({"x": x, "kernel": kernel.astype(dtype), "state": None if state is None else state.astype(dtype)})


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


def _tokens(given):
    return given["x"].astype(wide_dtype(given["x"], given["kernel"], given["state"]))


def _empty(given):
    """Return the W - 1 inputs before the first one: zeros."""
    x, width = given["x"], given["kernel"].shape[-1]
    return jnp.zeros((x.shape[0], width - 1, x.shape[2]), wide_dtype(x, given["kernel"]))


def _draw(rng, sizes, variant, samplers):
    del samplers
    b, t, d, w, m = (sizes[letter] for letter in "BTDWM")
    kernel = {"one": (d, w), "several": (d, m, w), "shared": (1, w)}[variant]
    shapes = {"x": (b, t, d), "kernel": kernel, "state": (b, w - 1, d)}
    return {name: rng.standard_normal(shape) for name, shape in shapes.items()}


LONG_CONVOLUTION = Op(
    name="long_convolution",
    arguments={"x": "B T D", "kernel": "#D W | #D M W", "state": "? B W-1 D"},
    results=("B T D", "B W-1 D"),
    summary=LastTokens(_tokens, _empty),
    heads="D",
    implementations={"fft": Implementation(by_fft), "reference": Implementation(reference)},
    draw=_draw,
    sizes={"B": 2, "T": 24, "D": 4, "W": 24, "M": 2},
    variants=("one", "several", "shared"),
    compute=_compute,
)
