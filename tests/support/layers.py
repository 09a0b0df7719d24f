"""Compile the programs of each mixer of mixer_cases.py once for all tests of one process."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_cases import DIM, LENGTH, MIXERS
from recurrax.layers import Depth
from support.numerics import draw

BATCH = 2
FIRST_OF_CLASS = {type(case.config): name for name, case in reversed(MIXERS.items())}
every_mixer = pytest.mark.parametrize("name", MIXERS)
# For laws whose programs take longer to compile: the options of a class change values, not programs.
one_of_each = pytest.mark.parametrize("name", FIRST_OF_CLASS.values())

# For laws of the op and of what all layers share: one for each op and for each way of its own through a layer.
ONE_PER_OP = (
    "RG-LRU",
    "Mamba",
    "S4",
    "LMU",
    "GLA",
    "mLSTM",
    "Gated DeltaNet",
    "DeltaProduct",
    "RWKV-7",
    "attention",
)

# Float32 rounds at 6e-8; sums over some 10 terms and 40 steps that roughly average out stay below this.
FLOAT32 = 1e-5
# Bfloat16 rounds at 2^-9 and a layer rounds three or four times in a row: input, mixed values, output.
BFLOAT16 = 8 * 2**-9

NOWHERE = np.zeros((BATCH, LENGTH), bool)


def resets(*borders):
    """Return a reset that is True at these steps of the first sequence and, one step later, of the second."""
    reset = NOWHERE.copy()
    for t in borders:
        reset[0, t] = reset[1, t + 1] = True
    return reset


class Compiled:
    """Hold a layer, parameters, an initial state with random numbers in it, and its programs.

    Every program runs the implementations that users get: nothing is forced.
    """

    def __init__(self, name):
        self.config = MIXERS[name].config
        self.layer = layer = self.config.layer(DIM)
        x = jnp.zeros((1, 1, DIM))
        self.init = jax.jit(lambda key, i, depth: layer.init(key, x, depth=Depth(i, depth))["params"])
        # Two layers, each with the parameters that its depth starts from.
        keys = jax.random.split(jax.random.key(0))
        first, second = (jax.device_get(self.init(key, i, 2)) for i, key in enumerate(keys))
        self.layers = jax.tree.map(lambda *values: np.stack(values), first, second)
        # Biases start at 0, where a forgotten one would not show.
        self.params = {name: value if value.any() else 0.3 * draw(*value.shape) for name, value in first.items()}
        self.initial = layer.init_state(BATCH)
        self.start = jax.tree.map(
            lambda leaf: jnp.ones_like(leaf) if leaf.dtype == bool else jnp.asarray(draw(*leaf.shape), leaf.dtype),
            self.initial,
        )
        self.whole = differentiate(self.call)
        self.steps = differentiate(self.scan, states=True)

    def call(self, params, x, state=None, reset=None):
        return self.layer.apply({"params": params}, x, state, reset=reset)

    def scan(self, params, x, state, reset):
        """Call once per token; return all outputs, and all states with time leading."""

        def step(state, inputs):
            x, reset = inputs
            y, state = self.call(params, x[:, None], state, reset[:, None])
            return state, (y[:, 0], state)

        _, (y, states) = jax.lax.scan(step, state, (x.swapaxes(0, 1), reset.swapaxes(0, 1)))
        return y.swapaxes(0, 1), states


def differentiate(function, states=False):
    """Return a program of (y, state) and the gradients by (params, x, state) of a loss.

    The loss is sum(g * y) + weight * (a weighted sum of the last state).
    """

    def loss(params, x, state, reset, g, weight):
        y, after = function(params, x, state, reset)
        last = jax.tree.map(lambda leaf: leaf[-1], after) if states else after
        numbers = [leaf for leaf in jax.tree.leaves(last) if leaf.dtype != bool]
        waves = [(leaf * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape)).sum() for leaf in numbers]
        # The imaginary part counts too, and differently from the real one.
        return (g * y).sum() + weight * sum(wave.real + 2 * wave.imag for wave in waves), (y, after)

    transformed = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True, allow_int=True))

    def evaluate(params, x, state, reset=NOWHERE, g=None, weight=1.0):
        g = draw(*x.shape, seed=1) if g is None else g
        (_, outputs), gradients = transformed(params, x, state, reset, g, weight)
        return outputs, gradients

    return evaluate


@functools.cache
def compiled(name):
    """Return the programs of the mixer of that name."""
    return Compiled(name)
