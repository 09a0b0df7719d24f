"""Reading inputs back from last states: exact where the state holds them, chance where it does not."""

import numpy as np
import pytest

from recurrax.probes import linear_reconstruction


def last_states(inputs, eigenvalues):
    """h_T of h_t = lambda h_{t-1} + x_t (M, F, N), complex128."""
    length = inputs.shape[1]
    powers = np.asarray(eigenvalues)[None] ** np.arange(length)[::-1, None]
    return np.einsum("mtf,tn->mfn", inputs, powers)


def ring(n, radius):
    """Half of 2 n roots of unity, one of each conjugate pair."""
    return radius * np.exp(1j * np.pi * (np.arange(n) + 0.5) / n)


@pytest.fixture
def inputs():
    return np.random.default_rng(0).standard_normal((60, 12, 2))


def split(states, inputs, **options):
    return linear_reconstruction(states[:40], inputs[:40], states[40:], inputs[40:], **options)


def test_large_state_holds_the_whole_sequence(inputs):
    """A state as large as the sequence holds all of it."""
    errors = split(last_states(inputs, ring(6, 0.95)), inputs)
    assert errors.shape == (12,)
    assert errors.max() < 1e-20
    # A constant is the map's own; features of another size and mean change nothing.
    shifted = 3 + 2 * inputs
    assert split(last_states(shifted, ring(6, 0.95)), shifted).max() < 1e-20


def test_small_state_holds_the_latest_tokens():
    """A state that is too small holds the latest tokens."""
    inputs = np.random.default_rng(1).standard_normal((600, 12, 1))
    states = last_states(inputs, 0.5 * np.exp(1j * np.array([0.7, 2.0])))
    errors = linear_reconstruction(states[:400], inputs[:400], states[400:], inputs[400:])
    assert errors[-1] < 0.1
    assert 0.8 < errors[:6].min() <= errors[:6].max() < 1.3


def test_uninformative_states_score_as_the_mean(inputs):
    """States that hold no information score as the mean does."""
    constant = np.ones((60, 3))
    want = np.square(inputs[40:] - inputs[:40].mean(0)).mean((0, 2))
    want /= np.square(inputs[40:] - inputs[:40].mean(0)).mean()
    np.testing.assert_allclose(split(constant, inputs), want, rtol=1e-12)


def test_ridge_is_that_of_the_normal_equations(inputs):
    states = last_states(inputs, ring(3, 0.9)).reshape(60, -1)
    parts = np.concatenate([states.real, states.imag], axis=1)
    x, y = parts[:40] - parts[:40].mean(0), inputs[:40].reshape(40, -1)
    weights = np.linalg.solve(x.T @ x + 0.7 * np.eye(x.shape[1]), x.T @ (y - y.mean(0)))
    predicted = ((parts[40:] - parts[:40].mean(0)) @ weights + y.mean(0)).reshape(20, 12, 2)
    variance = np.square(inputs[40:] - inputs[:40].mean(0)).mean()
    want = np.square(predicted - inputs[40:]).mean((0, 2)) / variance
    np.testing.assert_allclose(split(states, inputs, ridge=0.7), want, rtol=1e-10)


def test_what_does_not_fit_is_refused(inputs, unchecked_shapes):
    states = last_states(inputs, ring(6, 0.95))
    with pytest.raises(ValueError, match="ridge must not be negative, got -1.0"):
        split(states, inputs, ridge=-1.0)
    with pytest.raises(ValueError, match="states are of 39 sequences, inputs of 40"):
        linear_reconstruction(states[:39], inputs[:40], states[40:], inputs[40:])
    with pytest.raises(ValueError, match="the number of sequences alone"):
        linear_reconstruction(states[:40], inputs[:40], states[40:], inputs[40:, :3])
    with pytest.raises(ValueError, match="held_out_states and held_out_inputs must be finite"):
        linear_reconstruction(states[:40], inputs[:40], states[40:] * np.inf, inputs[40:])
    with pytest.raises(ValueError, match="must vary"):
        linear_reconstruction(states[:40], np.ones_like(inputs[:40]), states[40:], np.ones_like(inputs[40:]))
