"""`causal_conv1d` against its definition: values, gradients, state, resets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from eval import oracles
from recurrax.ops import causal_conv1d


def draw(length, width=4, dim=3, batch=2, seed=0):
    rng = np.random.default_rng(seed)
    x, kernel = rng.standard_normal((batch, length, dim)), rng.standard_normal((width, dim))
    bias, state = rng.standard_normal(dim), rng.standard_normal((batch, width - 1, dim))
    return [v.astype(np.float32) for v in (x, kernel, bias, state)]


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 11])
def test_causal_conv1d_matches_the_oracle_with_resets(length, width):
    """Output and state match the oracle with resets anywhere."""
    x, kernel, bias, state = draw(length, width)
    rng = np.random.default_rng(1)
    for density in (0.0, 0.3, 1.0):
        reset = rng.uniform(size=(2, length)) < density
        y, final = jax.jit(causal_conv1d)(x, kernel, bias, state, reset=reset)
        given = {"x": x, "kernel": kernel, "bias": bias, "state": state, "reset": reset}
        want, want_final, _ = oracles.causal_conv1d(given)
        np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(final, want_final, rtol=1e-6)
    y, final = causal_conv1d(x, kernel)
    want, want_final, _ = oracles.causal_conv1d({"x": x, "kernel": kernel})
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(final, want_final, rtol=1e-6)


def test_gradients_of_all_inputs_through_output_and_state():
    x, kernel, bias, state = draw(5)
    reset = np.array([[False, False, True, False, False], [True, False, False, False, False]])
    inputs = (x, kernel, bias, state)
    check_grads(lambda *v: causal_conv1d(*v, reset=reset), inputs, order=2, modes=["rev"], atol=2e-2, rtol=2e-2)


def test_half_precision_output_with_a_float32_state():
    x, kernel, bias, _ = draw(5)
    y, state = causal_conv1d(jnp.asarray(x, jnp.bfloat16), kernel, bias)
    assert y.dtype == jnp.bfloat16
    assert state.dtype == jnp.float32


def test_shapes_that_do_not_fit_are_refused(unchecked_shapes):
    x, kernel, bias, state = draw(5)
    with pytest.raises(ValueError, match=r"kernel must be \(W, D\) = \(4, 2\), got shape \(4, 3\)"):
        causal_conv1d(x[..., :2], kernel, bias)
    with pytest.raises(ValueError, match=r"state must be \(B, W-1, D\) = \(2, 3, 3\)"):
        causal_conv1d(x, kernel, bias, state[:, :2])
