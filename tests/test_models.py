"""Models: the laws of their layers hold for the whole."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from recurrax.mixers import LRU
from recurrax.models import (
    LanguageModel,
)
from support.models import LENGTH, MODELS, VOCAB, build, tokens_of
from support.numerics import assert_close

# Seven blocks in float32 (rounding 6e-8), or in bfloat16 (2^-9), of logits of order 1.


BOUNDS = {"tied": 1e-5, "untied": 1e-5, "tied bfloat16": 0.1}


every_model = pytest.mark.parametrize("name", MODELS)


@every_model
def test_split_anywhere(name):
    model, params, apply = build(name)
    tokens, reset = tokens_of(), np.zeros((2, LENGTH), bool)
    reset[0, [9, 15]] = True
    logits, after = apply(params, tokens, model.init_state(2), reset)
    assert logits.dtype == jnp.float32
    assert 0.1 < float(jnp.std(logits)) < 10

    @jax.jit
    def by_token(params, state):
        def step(state, inputs):
            y, state = model.apply(params, inputs[0][:, None], state, reset=inputs[1][:, None])
            return state, (y[:, 0], state)

        _, (y, states) = jax.lax.scan(step, state, (jnp.asarray(tokens).T, jnp.asarray(reset).T))
        return y.swapaxes(0, 1), states

    steps, states = by_token(params, model.init_state(2))
    assert_close(steps, logits, BOUNDS[name], "token by token")
    assert_close(jax.tree.map(lambda leaf: leaf[-1], states), after, BOUNDS[name], "last state")
    half = LENGTH // 2
    first, state = apply(params, tokens[:, :half], model.init_state(2), reset[:, :half])
    assert_close(state, jax.tree.map(lambda leaf: leaf[half - 1], states), BOUNDS[name], "state in the middle")
    second, _ = apply(params, tokens[:, half:], state, reset[:, half:])
    assert_close(jnp.concatenate([first, second], 1), logits, BOUNDS[name], "two halves")


def test_gradients_flow_through_the_carried_state():
    """Gradients through the carried state are those of the whole sequence."""
    model, params, _ = build("tied")
    tokens, weights = tokens_of(), np.random.default_rng(1).standard_normal((2, LENGTH, VOCAB)).astype(np.float32)

    def whole(params):
        return (weights * model.apply(params, tokens)[0]).sum()

    def chunks(params):
        def chunk(state, inputs):
            y, state = model.apply(params, inputs[0], state)
            return state, (inputs[1] * y).sum()

        cut = [jnp.moveaxis(v.reshape(2, 3, LENGTH // 3, *v.shape[2:]), 1, 0) for v in (tokens, weights)]
        return jax.lax.scan(chunk, model.init_state(2), cut)[1].sum()

    assert_close(jax.jit(jax.grad(chunks))(params), jax.jit(jax.grad(whole))(params), 1e-5)


def test_models_are_causal_within_documents():
    """No logit depends on a later token or on another document."""
    model, params, apply = build("tied")
    tokens, reset, initial = tokens_of(), np.zeros((2, LENGTH), bool), model.init_state(2)
    logits, state = apply(params, tokens, initial, reset)
    for t in range(LENGTH):
        changed = tokens.copy()
        changed[:, t] = (changed[:, t] + 1) % VOCAB
        other = np.asarray(apply(params, changed, initial, reset)[0])
        np.testing.assert_array_equal(other[:, :t], logits[:, :t], err_msg=f"token {t} changes logits before it")
        assert (other[:, t] != logits[:, t]).any(), f"token {t} does not change its own logits"
    border = 10
    reset[:, border] = True
    logits, _ = apply(params, tokens, initial, reset)
    others = np.concatenate([tokens_of(2)[:, :border], tokens[:, border:]], 1)
    other, _ = apply(params, others, state, reset)
    np.testing.assert_array_equal(other[:, border:], logits[:, border:])


def test_reset_documents_are_separate_sequences():
    model, params, apply = build("tied")
    tokens, reset, half = tokens_of(), np.zeros((2, LENGTH), bool), LENGTH // 2
    reset[:, [0, half]] = True
    logits, state = apply(params, tokens, apply(params, tokens, model.init_state(2), reset)[1], reset)
    separate = [
        apply(params, part, model.init_state(2), np.zeros((2, half), bool)) for part in np.split(tokens, 2, axis=1)
    ]
    assert_close(jnp.concatenate([part[0] for part in separate], 1), logits, BOUNDS["tied"])
    following = functools.partial(apply, params, tokens_of(3))
    reset[:] = False
    assert_close(following(separate[1][1], reset)[0], following(state, reset)[0], BOUNDS["tied"], "what follows")


@every_model
def test_initial_state_equals_none_in_every_model(name):
    """A state of None means the initial state, which has the shapes of every later state."""
    model, params, apply = build(name)
    want = jax.eval_shape(lambda: model.init_state(2))
    for length, state in ((1, model.init_state(2)), (LENGTH, None)):
        tokens = jnp.zeros((2, length), jnp.int32)
        logits, after = jax.eval_shape(model.apply, params, tokens, state)
        assert after == want, f"T={length}: {after} instead of {want}"
        assert logits == jax.ShapeDtypeStruct((2, length, VOCAB), jnp.float32)
    if name == "tied":
        none, state = jax.jit(model.apply)(params, tokens_of())
        logits, after = apply(params, tokens_of(), model.init_state(2), np.zeros((2, LENGTH), bool))
        assert_close((none, state), (logits, after), BOUNDS[name])


def test_model_in_bfloat16_is_near_float32():
    """In bfloat16 a model is close to itself in float32 with the same parameters."""
    _, params, apply = build("tied")
    half, half_params, apply_half = build("tied bfloat16")
    assert jax.tree.map(lambda leaf: leaf.dtype, params) == jax.tree.map(lambda leaf: leaf.dtype, half_params)
    reset = np.zeros((2, LENGTH), bool)
    logits, _ = apply(params, tokens_of(), build("tied")[0].init_state(2), reset)
    got, state = apply_half(params, tokens_of(), half.init_state(2), reset)
    assert_close(got, logits, 0.1)
    groups = [block["mixer"] for block in state["groups"]]
    assert groups[0]["h"].dtype == groups[0]["conv"].dtype == jnp.float32
    assert groups[1].dtype == jnp.complex64
    assert groups[2]["k"].dtype == jnp.bfloat16


def test_nnx_wraps_a_language_model():
    model = LanguageModel(dataclasses.replace(MODELS["tied"], num_layers=2, pattern=(LRU(state_dim=4),)))
    tokens = jnp.asarray(tokens_of())
    params = jax.jit(model.init)(jax.random.key(0), tokens)["params"]
    wrapped = nnx.jit(lambda: nnx.bridge.ToNNX(model, rngs=nnx.Rngs(1)).lazy_init(tokens))()
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(wrapped, nnx.Param))]
    assert len(paths) == len(jax.tree.leaves(params))
    values = [functools.reduce(lambda tree, key: tree[key], path, params) for path in paths]
    nnx.update(wrapped, nnx.from_flat_state({path: nnx.Param(v) for path, v in zip(paths, values, strict=True)}))
    logits, after = nnx.jit(lambda wrapped, tokens: wrapped(tokens))(wrapped, tokens)
    want, want_after = jax.jit(model.apply)({"params": params}, tokens)
    assert_close((logits, after), (want, want_after), 1e-5)
