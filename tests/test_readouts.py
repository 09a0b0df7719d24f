"""Classifiers and regressors: pooling, and streaming of one step at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrax.mixers import LRU
from recurrax.models import (
    Classifier,
    ClassifierConfig,
    Regressor,
)
from support.models import LENGTH, SHALLOW, VECTORS, VOCAB, tokens_of
from support.numerics import assert_close


@pytest.mark.parametrize("kind", ["tokens", "vectors"])
@pytest.mark.parametrize("pooling", ["mean", "last", "none"])
def test_readouts_pool_what_they_say(kind, pooling):
    vocab = VOCAB if kind == "tokens" else None
    inputs = tokens_of() if kind == "tokens" else VECTORS
    config = ClassifierConfig(dim=8, num_layers=1, pattern=(LRU(state_dim=4),), vocab_size=vocab, num_classes=5)
    model = Classifier(dataclasses.replace(config, pooling=pooling))
    params = jax.jit(model.init)(jax.random.key(0), inputs)
    every = Classifier(dataclasses.replace(config, pooling="none"))
    steps, state = jax.jit(every.apply)(params, inputs)
    assert steps.shape == (2, LENGTH, 5)
    assert steps.dtype == jnp.float32
    got, after = jax.jit(model.apply)(params, inputs)
    # The head is affine: pooling its outputs is pooling its inputs.
    want = {"mean": steps.mean(1), "last": steps[:, -1], "none": steps}[pooling]
    assert_close(got, want, 1e-5)
    assert_close(after, state, 1e-6)
    assert_close(jax.jit(model.apply)(params, inputs, model.init_state(2))[0], want, 1e-5)
    if pooling == "mean":
        mask = np.random.default_rng(5).choice([0.0, 1.0, 0.5], (2, LENGTH)).astype(np.float32)
        mask[:, 0] = 1
        got, _ = jax.jit(model.apply)(params, inputs, mask=mask)
        assert_close(got, jnp.asarray((steps * mask[..., None]).sum(1) / mask.sum(1)[:, None]), 1e-5)


def test_regressor_streams_and_is_causal():
    """A Regressor continues from its state and sees no later input."""
    config = dataclasses.replace(SHALLOW, num_targets=2)
    model = Regressor(config)
    params = jax.jit(model.init)(jax.random.key(0), VECTORS)
    whole, _ = jax.jit(model.apply)(params, VECTORS)
    assert whole.shape == (2, LENGTH, 2)
    first, state = jax.jit(model.apply)(params, VECTORS[:, :9])
    second, _ = jax.jit(model.apply)(params, VECTORS[:, 9:], state)
    assert_close(jnp.concatenate([first, second], 1), whole, 1e-5)
    jacobian = jax.jit(jax.jacrev(lambda x: model.apply(params, x)[0].sum((0, 2))))(VECTORS)
    for s in range(LENGTH):
        assert not np.asarray(jacobian)[s, :, s + 1 :].any(), f"the output at {s} depends on later inputs"
        assert np.asarray(jacobian)[s, :, s].any()
