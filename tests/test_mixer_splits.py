"""Every mixer under the laws of split sequences, in values and gradients, with the implementations that users get."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mixer_cases import DIM, LENGTH
from support.layers import BATCH, FLOAT32, NOWHERE, compiled, one_of_each, resets
from support.numerics import assert_close, differentiable, draw, largest_error


def assert_zero(tree, label):
    """Assert that every number is exactly 0."""
    for path, leaf in differentiable(tree).items():
        assert not np.asarray(leaf).any(), f"{label}{path} should be exactly 0"


@one_of_each
def test_mixer_tokens_equal_the_whole(name):
    """One call per token gives the values, the last state and all gradients of one call: two programs of one truth."""
    m, x, reset = compiled(name), draw(BATCH, LENGTH, DIM), resets(3, 29)
    reset[1] = False  # here the incoming state matters to the end
    (y, after), gradients = m.whole(m.params, x, m.start, reset)
    (steps, states), step_gradients = m.steps(m.params, x, m.start, reset)
    assert_close(steps, y, FLOAT32, "y")
    assert_close(jax.tree.map(lambda leaf: leaf[-1], states), after, FLOAT32, "state")
    # Gradients pass through forty calls: rounding adds up, still far below any wrong term.
    assert_close(step_gradients, gradients, 4 * FLOAT32, "gradient")


@one_of_each
def test_mixer_calls_may_be_short(name):
    """Two calls of two tokens, shorter than a convolution or window: from None, without resets, then from a state."""
    m, x = compiled(name), draw(BATCH, LENGTH, DIM)

    @jax.jit
    def two_calls(params, x):
        first, state = m.call(params, x[:, :2])
        second, state = m.call(params, x[:, 2:], state)
        return (first, second), state

    (first, second), state = two_calls(m.params, x[:, :4])
    (y, _), _ = m.whole(m.params, x, m.initial)
    (_, states), _ = m.steps(m.params, x, m.initial)
    assert_close((first, second), (y[:, :2], y[:, 2:4]), FLOAT32, "y")
    assert_close(state, jax.tree.map(lambda leaf: leaf[3], states), FLOAT32, "state")


@one_of_each
def test_mixer_splits_after_any_token(name):
    """A call that starts after t tokens, from their state, gives the values and input gradients of one call."""
    m, x, reset = compiled(name), draw(BATCH, LENGTH, DIM), resets(3, 29)
    reset[1] = False
    g = draw(BATCH, LENGTH, DIM, seed=1)
    (y, _), gradients = m.whole(m.params, x, m.start, reset, g, 0.0)
    states = jax.device_get(m.steps(m.params, x, m.start, reset)[0][1])
    for t in range(1, LENGTH):
        # What is missing at the end is padding that y cannot see.
        rest, rest_reset, rest_g = (
            np.pad(v[:, t:], ((0, 0), (0, t), *((0, 0) for _ in v.shape[2:]))) for v in (x, reset, g)
        )
        state = jax.tree.map(lambda leaf, t=t: leaf[t - 1], states)
        (got, _), (_, dx, _) = jax.device_get(m.whole(m.params, rest, state, rest_reset, rest_g, 0.0))
        assert largest_error(got[:, : LENGTH - t], y[:, t:]) <= FLOAT32, f"cut after {t} tokens"
        got, want = dx[:, : LENGTH - t], np.asarray(gradients[1])
        assert np.abs(got - want[:, t:]).max() <= FLOAT32 * np.abs(want).max(), f"gradient, cut after {t} tokens"


@one_of_each
def test_mixer_outputs_see_their_past_only(name):
    """No output depends on a later input or on another document; each depends on its own input and the one before."""
    m, x, border = compiled(name), draw(BATCH, LENGTH, DIM), 22
    reset = NOWHERE.copy()
    reset[:, border] = True
    direction = draw(BATCH, DIM, seed=2)
    for s in range(LENGTH):
        g = np.zeros_like(x)
        g[:, s] = direction
        _, (_, dx, dstate) = m.whole(m.params, x, m.start, reset, g, 0.0)
        first = border if s >= border else 0
        dx = np.asarray(dx)
        assert not dx[:, s + 1 :].any(), f"y at {s} depends on later inputs"
        assert not dx[:, :first].any(), f"y at {s} depends on inputs of the document before"
        assert dx[:, s].any(axis=1).all(), f"y at {s} does not depend on its own input"
        assert s == first or dx[:, s - 1].any(axis=1).all(), f"y at {s} does not depend on the input before"
        if s >= border:
            assert_zero(dstate, f"gradient of y at {s}, after a reset, by the incoming state")
    # The final state of the second document knows nothing of the first either.
    _, (_, dx, dstate) = m.whole(m.params, x, m.start, reset, np.zeros_like(x), 1.0)
    assert np.asarray(dx)[:, border:].any()
    y_after = functools.partial(m.whole, m.params, draw(BATCH, LENGTH, DIM, seed=3))
    (_, state), _ = m.whole(m.params, x, m.start, reset)
    (_, other), _ = m.whole(m.params, np.where(np.arange(LENGTH)[None, :, None] < border, -x, x), m.initial, reset)
    # To rounding: running sums of gates may differ in their last digit.
    assert_close(y_after(state)[0][0], y_after(other)[0][0], 1e-6)


@one_of_each
def test_mixer_documents_are_separate_sequences(name):
    """Each document that a reset begins has the outputs that it has alone, and so has what follows the last one."""
    m, x, size = compiled(name), draw(BATCH, LENGTH, DIM), 10
    following = draw(BATCH, LENGTH, DIM, seed=3)
    reset = NOWHERE.copy()
    reset[:, ::size] = True
    (y, state), _ = m.whole(m.params, x, m.start, reset)
    for start in range(0, LENGTH, size):
        # The document alone, and what comes after it to fill the call.
        alone = np.concatenate([x[:, start : start + size], following[:, : LENGTH - size]], axis=1)
        (want, _), _ = m.whole(m.params, alone, m.initial)
        assert_close(np.asarray(y)[:, start : start + size], want[:, :size], FLOAT32, f"document at {start}")
    # `want` went on after the last document: as the state does, which knows of no other.
    (got, _), _ = m.whole(m.params, following, state)
    assert_close(got[:, : LENGTH - size], want[:, size:], FLOAT32, "what follows")


@one_of_each
def test_mixer_keeps_bad_numbers_to_their_document(name):
    """An infinite input changes no bit of outputs before it, nor of outputs and gradients of other documents."""
    m, x, bad, border = compiled(name), draw(BATCH, LENGTH, DIM), 9, 18
    reset = NOWHERE.copy()
    reset[:, border] = True
    apart = ~NOWHERE
    apart[0, bad:border] = False
    g = np.where(apart[..., None], draw(BATCH, LENGTH, DIM, seed=1), 0)

    def run(x, state, reset):
        (y, _), (_, dx, _) = m.whole(m.params, x, state, reset, g, 0.0)
        return np.asarray(y), np.asarray(dx)

    spoilt = x.copy()
    spoilt[0, bad, 1] = np.inf
    (want, gradient), (y, got) = run(x, m.initial, reset), run(spoilt, m.initial, reset)
    assert not np.isfinite(y[0, bad]).all()
    np.testing.assert_array_equal(y[apart], want[apart])
    # Norms of what is NaN have gradients that are NaN, which go back to the tokens before: in the definition, too.
    other = (np.arange(LENGTH) >= border) | np.array([[False], [True]])
    np.testing.assert_array_equal(got[other], gradient[other])
    # A reset at the first token forgets a state whatever it holds.
    reset[:, 0] = True
    lost = jax.tree.map(
        lambda leaf: jnp.ones_like(leaf) if leaf.dtype == bool else jnp.full_like(leaf, jnp.nan), m.initial
    )
    for got, want in zip(run(x, lost, reset), run(x, m.initial, reset), strict=True):
        np.testing.assert_array_equal(got, want)
