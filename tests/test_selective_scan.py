"""Mamba's recurrence against NumPy float64, values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval import oracles
from recurrax.ops import selective_scan

NAMES = ("x", "dt", "a", "b", "c", "state")


def draw(length, batch=2, width=3, states=4):
    """Inputs in the order of NAMES, then the cotangents of y and of the last state."""
    rng = np.random.default_rng(length)
    shapes = [(batch, length, width), (batch, length, width), (width, states), *2 * [(batch, length, states)]]
    x, dt, a, b, c = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    state, g_last = rng.standard_normal((2, batch, width, states)).astype(np.float32)
    g = rng.standard_normal(x.shape).astype(np.float32)
    return (x, np.log1p(np.exp(dt)), -np.exp(a), b, c, state), (g, g_last)


def close(got, want, label):
    error = np.abs(np.asarray(got) - want).max() / np.abs(want).max()
    assert error < 3e-6, f"{label} is off by {error:.1e} of its size"


@pytest.mark.parametrize(
    ("implementation", "length", "chunk_size", "resets"),
    [
        ("reference", 9, None, [2]),
        ("chunked", 1, None, []),
        ("chunked", 33, None, [0, 16, 20]),
        ("chunked", 12, 4, [4, 5]),
        ("chunked", 7, 16, []),
        ("chunked", 7, 1, [3]),
    ],
)
def test_values_and_every_gradient_match_the_oracle(implementation, length, chunk_size, resets):
    inputs, (g, g_last) = draw(length)
    reset = None
    if resets:
        reset = np.zeros((2, length), bool)
        reset[0, resets] = True
    run = functools.partial(selective_scan, reset=reset, chunk_size=chunk_size, implementation=implementation)

    @jax.jit
    def both(*inputs):
        (y, last), pullback = jax.vjp(run, *inputs)
        return y, last, pullback((jnp.asarray(g), jnp.asarray(g_last)))

    y, last, gradients = both(*inputs)
    given = {**dict(zip(NAMES, inputs, strict=True)), "reset": reset}
    want, want_last, want_gradients = oracles.selective_scan(given, (g, g_last))
    close(y, want, "y")
    close(last, want_last, "last state")
    for name, got in zip(NAMES, gradients, strict=True):
        close(got, want_gradients[name], f"gradient of {name}")


def test_states_of_all_steps_are_never_held():
    """Forward and backward together need less than a quarter of what (B, T, E, N) numbers take."""
    inputs, _ = draw(2048, batch=1, width=32, states=64)
    gradient = jax.grad(lambda *inputs: (selective_scan(*inputs)[0] ** 2).sum(), argnums=tuple(range(6)))
    memory = jax.jit(gradient).lower(*inputs).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2048 * 32 * 64 * 4 / 4


def test_half_precision_keeps_a_float32_state():
    inputs, _ = draw(20)
    half = [jnp.asarray(array, jnp.bfloat16) for array in inputs[:5]]
    y, last = selective_scan(*half)
    assert (y.dtype, last.dtype) == (jnp.bfloat16, jnp.float32)
    want, want_last, _ = oracles.selective_scan(dict(zip(NAMES[:5], half, strict=True)))
    close(last, want_last, "last state")
    assert np.abs(y.astype(jnp.float32) - want).max() < 2**-8 * np.abs(want).max()


def test_what_does_not_fit_is_named(unchecked_shapes):
    x, dt, a, b, c, state = draw(5)[0]
    for arguments, message in (
        ((x[0], dt, a, b, c), r"x must be \(B, T, E\)"),
        ((x, dt[:, 1:], a, b, c), r"dt must be \(B, T, E\) = \(2, 5, 3\), got shape \(2, 4, 3\)"),
        ((x, dt, a[1:], b, c), r"a must be \(E, N\) = \(3, 4\), got shape \(2, 4\)"),
        ((x, dt, a, b[..., 1:], c), r"b must be \(B, T, N\) = \(2, 5, 4\), got shape \(2, 5, 3\)"),
        ((x, dt, a, b, c[:1]), r"c must be \(B, T, N\) = \(2, 5, 4\), got shape \(1, 5, 4\)"),
        ((x, dt, a, b, c, state[:1]), r"state must be \(B, E, N\) = \(2, 3, 4\), got shape \(1, 3, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            selective_scan(*arguments)
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        selective_scan(x, dt, a, b, c, chunk_size=0)
    with pytest.raises(ValueError, match=r"unknown implementation 'chunkd' \(did you mean 'chunked'\?\)"):
        selective_scan(x, dt, a, b, c, implementation="chunkd")
    with pytest.raises(ValueError, match=r"reset must be boolean \(B, T\) = \(2, 5\), got bool of shape \(2, 4\)"):
        selective_scan(x, dt, a, b, c, reset=np.zeros((2, 4), bool))
