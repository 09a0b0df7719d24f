"""Every mixer in a stack of layers: under the transformations that a backbone applies, and at its start."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_cases import DIM, LENGTH
from recurrax import mixers
from recurrax.mixers import Attention
from support.layers import BATCH, FIRST_OF_CLASS, FLOAT32, ONE_PER_OP, compiled, resets
from support.numerics import assert_close, draw

# The number of layers of the deep model whose first step is measured.
DEPTH = 8
# The number of tokens whose outputs count there.
READ = 16


class Layer(nn.Module):
    """A mixer as the body of a scan over depth."""

    config: mixers.MixerConfig

    @nn.compact
    def __call__(self, x, state, reset):
        return self.config.layer(DIM, name="mixer")(x, state, reset=reset)


@pytest.mark.parametrize("name", ONE_PER_OP)
def test_mixer_transformations_change_nothing(name):
    """A scan over depth with remat, under vmap, gives the values and gradients of two layers one after the other."""
    m, reset = compiled(name), resets(5)
    xs, g = draw(2, BATCH, LENGTH, DIM), draw(BATCH, LENGTH, DIM, seed=1)
    stack = nn.scan(
        nn.remat(Layer, prevent_cse=False),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast),
        length=2,
    )(m.config)
    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), m.start)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def gradients(params, x):
        def loss(params, x):
            y, after = stack.apply({"params": {"mixer": params}}, x, states, reset)
            return (g * y).sum(), (y, after)

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, x)

    (_, outputs), (dparams, dxs) = gradients(m.layers, xs)
    layers = [{name: value[i] for name, value in m.layers.items()} for i in range(2)]
    for i, x in enumerate(xs):
        (hidden, first), _ = m.whole(layers[0], x, m.start, reset)
        (y, second), (dsecond, dhidden, _) = m.whole(layers[1], hidden, m.start, reset, g, 0.0)
        _, (dfirst, dx, _) = m.whole(layers[0], x, m.start, reset, dhidden, 0.0)
        got = jax.tree.map(lambda leaf, i=i: leaf[i], (outputs, dparams, dxs))
        after = jax.tree.map(lambda *leaves: np.stack(leaves), first, second)
        want = ((y, after), {name: np.stack([dfirst[name], dsecond[name]]) for name in dfirst}, dx)
        assert_close(got, want, 4 * FLOAT32)


@functools.cache
def first_steps(name):
    """Return, for 1 and for DEPTH layers, the root mean square of what they add to their input and a gradient's norm.

    Layers behind a norm and beside a residual connection, as in a model, with the parameters that they start from.
    """
    m, start, g = compiled(name), draw(BATCH, LENGTH, DIM), draw(BATCH, LENGTH, DIM, seed=1)
    g[:, READ:] = 0

    def measure(depth):
        x, dx, reached, squares = start, g, [], 0.0
        for i, key in enumerate(jax.random.split(jax.random.key(0), depth)):
            params, scale = m.init(key, i, depth), 1 / np.sqrt(np.square(x).mean(-1, keepdims=True))
            reached.append((params, scale, x * scale))
            (y, _), _ = m.whole(params, x * scale, m.initial)
            x = x + np.asarray(y)
        for params, scale, normed in reversed(reached):
            _, (dparams, dnormed, _) = m.whole(params, normed, m.initial, g=dx, weight=0.0)
            dnormed = np.asarray(dnormed)
            dx = dx + scale * (dnormed - normed * (normed * dnormed).mean(-1, keepdims=True))
            squares += sum(np.square(leaf).sum() for leaf in jax.tree.leaves(dparams))
        return np.sqrt(np.square(x - start)[:, :READ].mean()), np.sqrt(squares + np.square(dx).sum())

    return {depth: measure(depth) for depth in (1, DEPTH)}


@pytest.mark.parametrize("name", FIRST_OF_CLASS.values())
def test_mixer_starts_as_loud_as_attention(name):
    """At the start, outputs and gradients of 1 and of 8 layers are within a factor of 16 of those of attention."""
    ours, attention = first_steps(name), first_steps(FIRST_OF_CLASS[Attention])
    for depth in ours:
        for what, got, want in zip(("output", "gradient"), ours[depth], attention[depth], strict=True):
            # The quietest is RWKV-7, 0.08: the authors scale its norm by ((1 + l) / L)^0.7 in layer l of L.
            assert 1 / 16 <= got / want <= 16, f"{what} of {depth} layers {got:.3g}, of attention {want:.3g}"
