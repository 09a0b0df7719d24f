"""What recurrences are compared with on tasks is what its papers say: values, gradients, pieces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval.tasks.baselines import GRU, LSTM
from eval.tasks.rotation import Rotation
from oracles.common import sigmoid

BATCH, LENGTH, DIM = 2, 9, 5


def lstm(p, x, reset, width):
    h = c = np.zeros((BATCH, width))
    for t in range(LENGTH):
        h, c = (np.where(reset[:, t, None], 0, v) for v in (h, c))
        i, f, g, o = np.split(x[:, t] @ p["in_kernel"] + p["bias"] + h @ p["recurrent_kernel"], 4, -1)
        c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        yield h @ p["out_kernel"]


def gru(p, x, reset, width):
    h = np.zeros((BATCH, width))
    for t in range(LENGTH):
        h = np.where(reset[:, t, None], 0, h)
        r, z, n = np.split(x[:, t] @ p["in_kernel"] + p["bias"], 3, -1)
        of_r, of_z, of_n = np.split(h @ p["recurrent_kernel"], 3, -1)
        z = sigmoid(z + of_z + 1)
        h = z * h + (1 - z) * np.tanh(n + sigmoid(r + of_r) * of_n)
        yield h @ p["out_kernel"]


def rotation(p, x, reset, width):
    h = np.zeros((BATCH, width, 2))
    for t in range(LENGTH):
        h = np.where(reset[:, t, None, None], 0, h)
        theta = x[:, t] @ p["angle_kernel"] + p["angle_bias"]
        turn = np.moveaxis(
            np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]]), (0, 1), (-2, -1)
        )
        values = np.stack([x[:, t] @ p["in_real"], x[:, t] @ p["in_imag"]], -1)
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
    layer, x = config.layer(DIM), rng.standard_normal((BATCH, LENGTH, DIM))
    reset = np.zeros((BATCH, LENGTH), bool)
    reset[1, 4] = True
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 1, DIM)))["params"]
    params = {name: rng.standard_normal(leaf.shape) for name, leaf in sorted(shapes.items())}
    weights = rng.standard_normal((BATCH, LENGTH, DIM))

    def loss(params, x):
        return (weights * np.stack(list(oracle(params, x, reset, width)), 1)).sum()

    with jax.enable_x64(True):
        apply = jax.jit(lambda params, x, state, reset: layer.apply({"params": params}, x, state, reset=reset))
        on_device = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (params, x))
        y, last = apply(*on_device, None, reset)
        found = jax.grad(lambda params, x: (weights * apply(params, x, None, reset)[0]).sum(), (0, 1))(*on_device)
    np.testing.assert_allclose(y, np.stack(list(oracle(params, x, reset, width)), 1), rtol=1e-4, atol=1e-4)
    for key, leaf in {**params, "x": x}.items():
        along = rng.standard_normal(leaf.shape)
        there, back = (
            loss({**params, key: leaf + e * along}, x) if key != "x" else loss(params, x + e * along)
            for e in (1e-5, -1e-5)
        )
        gradient = found[1] if key == "x" else found[0][key]
        assert (gradient * along).sum() == pytest.approx((there - back) / 2e-5, rel=1e-3, abs=1e-3), key

    first, state = apply(on_device[0], on_device[1][:, :5], None, reset[:, :5])
    second, state = apply(on_device[0], on_device[1][:, 5:], state, reset[:, 5:])
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), y, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state, last)
