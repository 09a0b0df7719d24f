"""One layer in float64 with random parameters, for the tests of probes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mixer_cases import DIM
from recurrax.layers import Depth
from recurrax.probes.attention import layer_attention
from recurrax.probes.layers import Given

BATCH, LENGTH = 2, 9
TOKENS = np.random.default_rng(5).integers(0, 11, (BATCH, LENGTH))
# Float64 rounds at 1e-16; sums over some 10 terms stay below this.
FLOAT64 = 1e-13


def draw(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape)


@functools.cache
def shapes(config):
    return jax.eval_shape(config.layer(DIM).init, jax.random.key(0), jnp.zeros((1, 2, DIM)))["params"]


def random_params(config):
    """Of every parameter: a bias or a norm's scale that is forgotten shows."""
    return {name: 0.4 * draw(*p.shape, seed=i) for i, (name, p) in enumerate(sorted(shapes(config).items()))}


def attend(config, params=None, reset=None, chunk_size=64):
    """Attention and marks of one layer in float64, and the layer's parameters and input."""
    params, x = random_params(config) if params is None else params, draw(BATCH, LENGTH, DIM, seed=99)
    with jax.enable_x64(True):
        given = Given("0", config, Depth(), jax.tree.map(jnp.asarray, params), jnp.asarray(x), None)
        return *layer_attention(given, reset, chunk_size), params, x


def error(got, want):
    assert got.shape == want.shape, f"shape {got.shape} instead of {want.shape}"
    return np.abs(got - want).max() / np.abs(want).max()


def apply(layer):
    return np.einsum("bets,bse->bte", layer.matrix, layer.values) + layer.offset


def convolved(kernel):
    """(T, T, E) of y_t = sum_w kernel[W - 1 - w] x_{t - w}."""
    matrix = np.zeros((LENGTH, LENGTH, kernel.shape[1]))
    for t in range(LENGTH):
        for w in range(min(len(kernel), t + 1)):
            matrix[t, t - w] = kernel[len(kernel) - 1 - w]
    return matrix
