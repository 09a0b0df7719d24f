"""What recurrences are compared with on tasks is what its papers say: values, gradients, pieces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval.tasks.baselines import GRU, LSTM
from eval.tasks.rotation import Rotation
from oracles.common import sigmoid

BATCH, LENGTH, DIM = 2, 9, 5


def lstm(p, reset, width):
    h = c = np.zeros((BATCH, width))
    for t in range(LENGTH):
        h, c = (np.where(reset[:, t, None], 0, v) for v in (h, c))
        i, f, g, o = np.split(p["x"][:, t] @ p["in_kernel"] + p["bias"] + h @ p["recurrent_kernel"], 4, -1)
        c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        yield h @ p["out_kernel"]


def gru(p, reset, width):
    h = np.zeros((BATCH, width))
    for t in range(LENGTH):
        h = np.where(reset[:, t, None], 0, h)
        r, z, n = np.split(p["x"][:, t] @ p["in_kernel"] + p["bias"], 3, -1)
        of_r, of_z, of_n = np.split(h @ p["recurrent_kernel"], 3, -1)
        z = sigmoid(z + of_z + 1)
        h = z * h + (1 - z) * np.tanh(n + sigmoid(r + of_r) * of_n)
        yield h @ p["out_kernel"]


def rotation(p, reset, width):
    h = np.zeros((BATCH, width, 2))
    for t in range(LENGTH):
        h = np.where(reset[:, t, None, None], 0, h)
        theta = p["x"][:, t] @ p["angle_kernel"] + p["angle_bias"]
        turn = np.moveaxis(
            np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]]), (0, 1), (-2, -1)
        )
        values = np.stack([p["x"][:, t] @ p["in_real"], p["x"][:, t] @ p["in_imag"]], -1)
        h = np.einsum("bnij,bnj->bni", turn, h) + values
        yield h[..., 0] @ p["out_real"] + h[..., 1] @ p["out_imag"]


CASES = {
    "LSTM": (LSTM(), lstm, DIM),
    "LSTM of width 3": (LSTM(width=3), lstm, 3),
    "GRU": (GRU(), gru, DIM),
    "rotation": (Rotation(state_dim=4), rotation, 4),
}


@pytest.mark.parametrize("name", CASES)
def test_values_gradients_and_pieces(name):
    config, oracle, width = CASES[name]
    rng = np.random.default_rng(0)
    layer = config.layer(DIM)
    reset = np.zeros((BATCH, LENGTH), bool)
    reset[1, 4] = True
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((BATCH, LENGTH, DIM)))["params"]
    shapes = {"x": jnp.zeros((BATCH, LENGTH, DIM)), **shapes}
    inputs = {name: rng.standard_normal(leaf.shape).astype(np.float32) for name, leaf in sorted(shapes.items())}
    weights = rng.standard_normal((BATCH, LENGTH, DIM)).astype(np.float32)

    def exact(inputs):
        return np.stack(list(oracle({name: np.float64(value) for name, value in inputs.items()}, reset, width)), 1)

    @jax.jit
    def apply(inputs, reset, state=None):
        params = {name: value for name, value in inputs.items() if name != "x"}
        return layer.apply({"params": params}, inputs["x"], state, reset=reset)

    y, last = apply(inputs, reset)
    np.testing.assert_allclose(y, exact(inputs), rtol=1e-4, atol=1e-4)
    gradients = jax.grad(lambda inputs: (weights * apply(inputs, reset)[0]).sum())(inputs)
    for key, gradient in gradients.items():
        along = rng.standard_normal(gradient.shape)
        there, back = ((weights * exact({**inputs, key: inputs[key] + e * along})).sum() for e in (1e-5, -1e-5))
        assert (gradient * along).sum() == pytest.approx((there - back) / 2e-5, rel=1e-3, abs=1e-3), key

    first, state = apply({**inputs, "x": inputs["x"][:, :5]}, reset[:, :5])
    second, state = apply({**inputs, "x": inputs["x"][:, 5:]}, reset[:, 5:], state)
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), y, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state, last)
