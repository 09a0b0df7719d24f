"""`long_convolution` against its definition: values, gradients, states."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval import oracles
from recurrax.ops import causal_conv1d, long_convolution
from recurrax.ops.families.long_convolution.api import fft_length
from support.numerics import draw, largest_error

# Float32 rounds at 6e-8; sums of some tens of terms stay well below this.
FLOAT32 = 2e-6


@pytest.mark.parametrize("width", [1, 5, 30])
@pytest.mark.parametrize("length", [1, 7, 30])
def test_long_convolution_matches_its_sum_and_continues(length, width):
    """A long convolution is its sum, and continues from its state."""
    x, kernel, state, t = draw(2, length, 3), draw(3, width), draw(2, width - 1, 3), (length + 1) // 2

    @jax.jit
    def run(x, kernel, state):
        first, middle = long_convolution(x[:, :t], kernel, state)
        second = long_convolution(x[:, t:], kernel, middle) if t < length else (x[:, t:], middle)
        return long_convolution(x, kernel), long_convolution(x, kernel, state), (first, second)

    fresh, whole, (first, second) = run(x, kernel, state)
    for (y, after), past in ((fresh, None), (whole, state)):
        want, want_after, _ = oracles.long_convolution({"x": x, "kernel": kernel, "state": past})
        assert largest_error(y, want) <= FLOAT32
        np.testing.assert_array_equal(after, want_after.astype(np.float32))
    assert largest_error(np.concatenate([first, second[0]], 1), want) <= FLOAT32
    np.testing.assert_array_equal(second[1], after)


def test_long_convolution_gradients_with_shared_filters():
    """Gradients of a long convolution, and several filters that all channels share."""
    x, kernel, state, g = draw(2, 9, 3), draw(3, 4), draw(2, 3, 3), draw(2, 9, 3, seed=1)

    def loss(run, x, kernel, state):
        y, after = run(x, kernel, state)
        return (g * y).sum() + (after**2).sum()

    def gradients(run):
        return jax.grad(functools.partial(loss, run), argnums=(0, 1, 2))(x, kernel, state)

    def by_taps(x, kernel, state):
        return causal_conv1d(x, kernel.T[::-1], None, state)

    def stacked(x, kernel, state):
        return long_convolution(x, jnp.stack([0 * kernel, kernel], 1), state)[0][..., 1], state**0 * x[:, -3:]

    got, several, want = jax.jit(lambda: (gradients(long_convolution), gradients(stacked), gradients(by_taps)))()
    for value, expected in zip(got, want, strict=True):
        assert largest_error(value, expected) <= FLOAT32
    assert largest_error(several[1], want[1]) <= FLOAT32
    shared, repeated = jax.jit(lambda: [long_convolution(x, k[:, None])[0] for k in (kernel[:1], kernel[[0, 0, 0]])])()
    assert largest_error(shared, repeated) <= FLOAT32
    assert shared.shape == (2, 9, 3, 1)


def test_long_convolution_keeps_dtypes():
    y, state = jax.eval_shape(long_convolution, jnp.asarray(draw(2, 5, 3), jnp.bfloat16), draw(3, 4))
    assert (y.dtype, state.dtype) == (jnp.bfloat16, jnp.float32)
    with jax.enable_x64(True):
        x, kernel = draw(2, 50, 3).astype(float), draw(3, 40).astype(float)
        y, state = jax.jit(long_convolution)(x, kernel)
        assert (y.dtype, state.dtype) == (jnp.float64, jnp.float64)
        assert largest_error(y, oracles.long_convolution({"x": x, "kernel": kernel})[0]) <= 1e-14


def test_fft_lengths_are_even_and_tight():
    """FFT lengths are even, large enough and not much larger."""
    for least in range(1, 5000):
        size = fft_length(least)
        assert size % 2 == 0
        assert least <= size <= max(1.25 * least, least + 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((draw(2, 5), draw(5, 3)), r"x must be \(B, T, D\), no axis empty, got shape \(2, 5\)"),
        ((draw(2, 0, 3), draw(3, 3)), r"no axis empty, got shape \(2, 0, 3\)"),
        (
            (draw(2, 5, 3), draw(2, 4)),
            r"kernel must be \(D, W\) = \(3 or 1, 4\) or \(D, M, W\) = .*, got shape \(2, 4\)",
        ),
        ((draw(2, 5, 3), draw(3, 0)), r"kernel must be .* got shape \(3, 0\)"),
        ((draw(2, 5, 3).astype(int), draw(3, 4)), "x must be bfloat16, float16, float32 or float64, got int"),
        (
            (draw(2, 5, 3), draw(3, 4), draw(2, 4, 3)),
            r"state must be \(B, W-1, D\) = \(2, 3, 3\), got shape \(2, 4, 3\)",
        ),
    ],
)
def test_long_convolution_says_what_does_not_fit(unchecked_shapes, arguments, message):
    with pytest.raises(ValueError, match=message):
        long_convolution(*arguments)
