"""Token ids outside of the vocabulary: refused where they are known, and NaN from their position on where not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrax.mixers import Attention, DeltaNet
from recurrax.models import Classifier, ClassifierConfig, LanguageModel, LanguageModelConfig, prefill

VOCAB = 11
TOKENS = np.random.default_rng(0).integers(0, VOCAB, (2, 12)).astype(np.int32)


def with_token(token, dtype=np.int32):
    """TOKENS with this one at position 5 of row 1."""
    tokens = TOKENS.astype(dtype)
    tokens[1, 5] = token
    return tokens


@functools.cache
def language_model():
    pattern = (DeltaNet(num_heads=2), Attention(num_heads=2))
    model = LanguageModel(LanguageModelConfig(vocab_size=VOCAB, dim=8, num_layers=2, pattern=pattern))
    return model, jax.jit(model.init)(jax.random.key(0), TOKENS)


@functools.cache
def classifier(pooling):
    shape = {"vocab_size": VOCAB, "dim": 8, "num_layers": 1, "pattern": (DeltaNet(num_heads=2),), "projection": None}
    return Classifier(ClassifierConfig(pooling=pooling, **shape))


@functools.cache
def classifier_params():
    return jax.jit(classifier("none").init)(jax.random.key(0), TOKENS)


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray])
def test_known_token_beyond_the_vocabulary_is_refused(convert):
    for model, params in (language_model(), (classifier("mean"), classifier_params())):
        for token, dtype in ((VOCAB, np.int32), (2**31 - 1, np.int32), (-1, np.int32), (100, np.int8)):
            tokens = convert(with_token(token, dtype))
            found = f"{min(token, 0)} to {tokens.max()}"
            with pytest.raises(ValueError, match=f"tokens must be from 0 to 10, got {found}"):
                model.apply(params, tokens)


def test_traced_unknown_token_leaves_earlier_logits():
    model, params = language_model()
    apply = jax.jit(model.apply)
    right, _ = apply(params, TOKENS)
    assert np.isfinite(right).all()
    for token in (VOCAB, 2**31 - 1, -1):
        got, _ = apply(params, with_token(token))
        np.testing.assert_array_equal(got[0], right[0])
        np.testing.assert_allclose(got[1, :5], right[1, :5], atol=1e-5)
        assert np.isnan(got[1, 5:]).all()
    last, _ = prefill(model, params, with_token(100, np.int8))
    assert np.isnan(last).all(-1).tolist() == [False, True]


@pytest.mark.parametrize(("pooling", "first"), [("none", 5), ("mean", 0), ("last", 0)])
def test_traced_unknown_token_in_a_classifier(pooling, first):
    apply = jax.jit(classifier(pooling).apply)
    right, got = (
        np.asarray(apply(classifier_params(), tokens)[0]).reshape(2, -1, 10) for tokens in (TOKENS, with_token(VOCAB))
    )
    np.testing.assert_array_equal(got[0], right[0])
    np.testing.assert_allclose(got[1, :first], right[1, :first], atol=1e-5)
    assert np.isnan(got[1, first:]).all()
