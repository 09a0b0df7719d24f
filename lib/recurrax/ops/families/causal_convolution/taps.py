"""Run the short causal convolution tap by tap, or one step after the other."""

import jax
import jax.numpy as jnp

from recurrax.ops.tokenwise import scale, shift


def convolve(x, kernel, bias, state, reset):
    """Add one shifted copy of the inputs per tap: widths are below 10, where this is faster than a convolution call."""
    age = None if reset is None else ages(reset, state.shape[1])
    y = sums(jnp.concatenate([state, x.astype(state.dtype)], axis=1), kernel, age)
    y = y if bias is None else shift(y, bias)
    return y.astype(x.dtype), after(x, state, reset)


def sums(inputs, kernel, age):
    """Return the sums over taps, of inputs that begin with the state, for the `ages` of tokens or None."""
    width = kernel.shape[0]
    length, y = inputs.shape[1] - (width - 1), 0
    for back in range(width):
        tap = scale(inputs[:, width - 1 - back : width - 1 - back + length], kernel[width - 1 - back])
        # The tap `back` steps ago is in the same document if at least as many tokens of it precede.
        y = y + (tap if age is None or back == 0 else jnp.where((age >= back)[..., None], tap, 0))
    return y


def after(x, state, reset):
    """Return the last inputs of the current document, as many as the state (B, W-1, D) before x has, and zeros."""
    few, length = state.shape[1], x.shape[1]
    last = x[:, max(length - few, 0) :].astype(state.dtype)
    last = jnp.concatenate([state, last], axis=1)[:, last.shape[1] :]
    if reset is None or few == 0:
        return last
    return jnp.where(ages(reset, few)[:, -1:, None] >= jnp.arange(few)[None, ::-1, None], last, 0)


def ages(reset, most):
    """Return how many tokens of its document precede each one, at most `most`: that many before the first start."""
    tokens = jnp.arange(reset.shape[1])[None]
    starts = jax.lax.cummax(jnp.where(reset, tokens, -most), axis=1)
    return jnp.minimum(tokens - starts, most)


def reference(x, kernel, bias, state, reset):
    """Keep the window of the last W inputs and sum it with the taps, one step after the other."""

    def step(past, inputs):
        x, reset = inputs
        past = past if reset is None else jnp.where(reset[:, None, None], 0, past)
        window = jnp.concatenate([past, x[:, None]], axis=1)
        return window[:, 1:], (window * kernel[None]).sum(1) + (0 if bias is None else bias[None])

    inputs = (x.astype(state.dtype).swapaxes(0, 1), None if reset is None else reset.swapaxes(0, 1))
    state, y = jax.lax.scan(step, state, inputs)
    return y.swapaxes(0, 1).astype(x.dtype), state
