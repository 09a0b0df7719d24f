"""Measure how much of its inputs a state contains, by a linear map (Orvieto et al., 2023, arXiv 2307.11888).

    x~_t = W_t h_T + c_t,       W, c = argmin  sum over sequences and t of |x_t - x~_t|^2 + ridge |W|^2

A linear recurrence with distinct eigenvalues forgets nothing as long as it has as many states as inputs: the last state
is a Vandermonde matrix times the inputs. In floating point, rounding and close eigenvalues limit what can be recovered.
"""

import numpy as np
from jaxtyping import Float, Inexact

from recurrax.types import ArrayLike


def linear_reconstruction(
    states: Inexact[ArrayLike, "M *N"],
    inputs: Float[ArrayLike, "M T F"],
    held_out_states: Inexact[ArrayLike, "L *N"],
    held_out_inputs: Float[ArrayLike, "L T F"],
    *,
    ridge: float = 0.0,
) -> Float[np.ndarray, " T"]:
    """Return E |x~_t - x_t|^2 / var x on held-out sequences, for the best linear map from last state to inputs.

    The map is fitted to the M first sequences, with a constant. Without `ridge` it is the best map of least norm. An
    error of 0 means that everything is recovered; the mean of the fitted inputs scores 1; overfitting, with few more
    sequences than states, scores above 1. The variance is that of held-out inputs around this mean, averaged over all
    positions. Computed in NumPy, in float64.

    Args:
      states: last states; further axes are flattened, complex numbers split into real and imaginary parts.
      inputs: the inputs of the same sequences.
      held_out_states: last states of sequences to which the map is not fitted.
      held_out_inputs: their inputs.
      ridge: weight of |W|^2 relative to the sum of squares over all sequences.

    Raises:
      ValueError: shapes that do not fit, a negative ridge, values that are not finite, held-out inputs that do not
        vary.
    """
    states, held_out_states = (_real(name, s) for name, s in (("states", states), ("held_out_states", held_out_states)))
    inputs, held_out_inputs = (np.asarray(array, np.float64) for array in (inputs, held_out_inputs))
    if not ridge >= 0:
        raise ValueError(f"ridge must not be negative, got {ridge}")
    for name, array in (("inputs", inputs), ("held_out_inputs", held_out_inputs)):
        if array.ndim != 3 or not array.size:
            raise ValueError(f"{name} must be (sequences, T, F), got {array.shape}")
    for name, s, x in (("", states, inputs), ("held_out_", held_out_states, held_out_inputs)):
        if len(s) != len(x):
            raise ValueError(f"{name}states are of {len(s)} sequences, {name}inputs of {len(x)}")
        if not (np.isfinite(s).all() and np.isfinite(x).all()):
            raise ValueError(f"{name}states and {name}inputs must be finite")
    if states.shape[1] != held_out_states.shape[1] or inputs.shape[1:] != held_out_inputs.shape[1:]:
        raise ValueError(
            f"held-out states and inputs, {held_out_states.shape} and {held_out_inputs.shape} flattened, must differ "
            f"from {states.shape} and {inputs.shape} in the number of sequences alone"
        )
    predicted = _regress(states, inputs.reshape(len(inputs), -1), held_out_states, ridge)
    error = np.square(predicted.reshape(held_out_inputs.shape) - held_out_inputs).mean((0, 2))
    variance = np.square(held_out_inputs - inputs.mean(0)).mean()
    if variance == 0:
        raise ValueError("held_out_inputs must vary: they are all equal to the mean of inputs")
    return error / variance


def _regress(x, y, at, ridge):
    """Return y at `at`, predicted by the affine map that fits best."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    x, y = x - mean_x, y - mean_y
    if ridge:  # equal to more observations, y = 0 at sqrt(ridge) times each unit vector
        x = np.concatenate([x, np.sqrt(ridge) * np.eye(x.shape[1])])
        y = np.concatenate([y, np.zeros((x.shape[1], y.shape[1]))])
    return (at - mean_x) @ np.linalg.lstsq(x, y)[0] + mean_y


def _real(name, states):
    """Return (M, N) in float64: real parts, then imaginary parts."""
    states = np.asarray(states)
    if states.ndim < 2 or not states.size:
        raise ValueError(f"{name} must be (sequences, ...), got {states.shape}")
    states = states.reshape(len(states), -1)
    parts = (states.real, states.imag) if np.iscomplexobj(states) else (states,)
    return np.concatenate([np.asarray(part, np.float64) for part in parts], axis=1)
