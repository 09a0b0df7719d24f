"""Every mixer under the same laws: its definition, its state, its parameters. A new one is a line of mixer_cases.py.

The laws of split sequences are in test_mixer_splits.py, those of stacked layers in test_mixer_stacks.py.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import pytest

from mixer_cases import DIM, LENGTH, MIXERS
from recurrax import mixers, projections
from recurrax.mixers import GLA, LRU
from support.layers import BATCH, BFLOAT16, FLOAT32, NOWHERE, compiled, every_mixer, one_of_each, resets
from support.numerics import assert_close, draw, largest_error


@every_mixer
def test_mixer_equals_its_definition(name):
    """Values are those of the oracle in float64, with and without documents, whatever state comes before a reset."""
    m, x, reset = compiled(name), draw(BATCH, LENGTH, DIM), resets(3, 13, 29)
    for documents in (NOWHERE, reset):
        want = MIXERS[name].oracle(m.params, x, documents, m.config)
        (y, _), _ = m.whole(m.params, x, m.initial, documents)
        assert largest_error(y, want) <= FLOAT32
    # A reset at the first step forgets whatever state came in.
    reset[:, 0] = True
    (y, _), _ = m.whole(m.params, x, m.start, reset)
    assert largest_error(y, want) <= FLOAT32


@one_of_each
def test_mixer_states_have_one_structure(name):
    """The state that None means, and every later state, has the structure, shapes and dtypes of `init_state`."""
    m = compiled(name)
    # In bfloat16; test_number_formats.py has float32, with JAX's switches.
    layer = m.config.layer(DIM, jnp.bfloat16)
    want = jax.eval_shape(lambda: layer.init_state(BATCH))
    for state, length in ((None, 1), (layer.init_state(BATCH), 3)):
        inputs = jnp.zeros((BATCH, length, DIM), jnp.bfloat16)
        y, after = jax.eval_shape(layer.apply, {"params": m.params}, inputs, state)
        chex.assert_trees_all_equal_structs(after, want)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, want)
        assert y == jax.ShapeDtypeStruct(inputs.shape, jnp.bfloat16)
    for leaf in jax.tree.leaves(want):
        assert leaf.shape[0] == BATCH


@one_of_each
def test_mixer_bfloat16_keeps_its_rounding(name):
    """The whole sequence and the scan over tokens agree, and are as far from the truth as the rounding of bfloat16."""
    m, x = compiled(name), draw(BATCH, LENGTH, DIM)
    layer = m.config.layer(DIM, jnp.bfloat16)
    half = jnp.asarray(x, jnp.bfloat16)

    @jax.jit
    def both(params, x, reset):
        call = functools.partial(layer.apply, {"params": params})

        def step(state, inputs):
            y, state = call(inputs[0][:, None], state, reset=inputs[1][:, None])
            return state, y[:, 0]

        last, y = jax.lax.scan(step, layer.init_state(BATCH), (x.swapaxes(0, 1), reset.swapaxes(0, 1)))
        return call(x, None, reset=reset), (y.swapaxes(0, 1), last)

    reset = resets(3, 29)
    whole, steps = both(m.params, half, reset)
    assert whole[0].dtype == steps[0].dtype == jnp.bfloat16
    assert_close(steps, whole, BFLOAT16)
    want = MIXERS[name].oracle(m.params, x, reset, m.config)
    assert largest_error(whole[0], want) <= 2 * BFLOAT16


@every_mixer
def test_mixer_parameters_match_their_formula(name):
    """There are as many as the formula of the case says, in float32 whatever the dtype of the inputs."""
    m = compiled(name)
    assert sum(value.size for value in m.params.values()) == MIXERS[name].parameters
    inputs = jnp.zeros((1, 1, DIM), jnp.bfloat16)
    half = jax.eval_shape(m.config.layer(DIM, jnp.bfloat16).init, jax.random.key(0), inputs)["params"]
    chex.assert_trees_all_equal_shapes_and_dtypes(m.params, half)
    assert {value.dtype for value in m.params.values()} == {jnp.dtype("float32")}


@one_of_each
def test_mixer_gradients_stay_finite(name):
    """At huge inputs and at zero, from the initial state and from another, values and gradients are finite."""
    m, x = compiled(name), draw(BATCH, LENGTH, DIM)
    for scale in (1e4, 0.0):
        for state in (m.initial, m.start):
            outputs, gradients = m.whole(m.params, scale * x, state, resets(5))
            numbers = [leaf for leaf in jax.tree.leaves(gradients) if leaf.dtype != jax.dtypes.float0]
            chex.assert_tree_all_finite((outputs, numbers))


@one_of_each
def test_mixer_layer_is_its_function(name):
    """The Linen layer traces to the jaxpr of the exported pure function."""
    m, x, reset = compiled(name), draw(BATCH, LENGTH, DIM), resets(5)
    function = type(m.layer).function
    assert function in (vars(mixers) | vars(projections)).values()
    pure = jax.make_jaxpr(lambda *v: function(v[0], v[1], v[2], m.config, reset=v[3]))(m.params, x, m.start, reset)
    layer = jax.make_jaxpr(m.call)(m.params, x, m.start, reset)
    assert str(pure) == str(layer)


def test_mixer_table_is_complete():
    """Every config of a mixer that the library exports is in mixer_cases.py."""
    public = (vars(mixers) | vars(projections)).values()
    kinds = (mixers.MixerConfig, projections.ChannelMix)
    configs = {v for v in public if isinstance(v, type) and issubclass(v, kinds)}
    # test_directions.py has the laws of the wrappers.
    wrappers = {mixers.MixerConfig, mixers.Bidirectional, mixers.Reversed}
    assert configs - wrappers == {type(case.config) for case in MIXERS.values()}


def test_mixer_refuses_a_foreign_state():
    """A state of another layer or another batch size is an error before anything is computed."""
    layer, x = GLA(num_heads=2).layer(DIM), jnp.zeros((BATCH, 3, DIM))
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    apply = functools.partial(jax.eval_shape, layer.apply, params, x)
    with pytest.raises(
        ValueError, match=r"no state of GLA .*\n  state\['s'\]: \(3, 2, 2, 4\), should be \(2, 2, 2, 4\)"
    ):
        apply(layer.init_state(BATCH + 1))
    with pytest.raises(ValueError, match=r"state: \(2, 256\), should be absent\n  state\['s'\]: missing, should be"):
        apply(LRU().layer(DIM).init_state(BATCH))
