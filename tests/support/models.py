"""Build small models, and compile one call of each for all tests of a worker."""

import functools

import jax
import numpy as np

from recurrax.mixers import LRU, RGLRU, Attention
from recurrax.models import LanguageModel, LanguageModelConfig, RegressorConfig
from recurrax.projections import MLP

VOCAB = 11
LENGTH = 24
HYBRID = (RGLRU(num_heads=2), LRU(state_dim=6), Attention(num_heads=2, num_kv_heads=1, window=5))
SMALL = {"dim": 8, "num_layers": 7, "pattern": HYBRID}  # the pattern twice, and one block of a third time
MODELS = {
    "tied": LanguageModelConfig(**SMALL, vocab_size=VOCAB),
    "untied": LanguageModelConfig(**SMALL, vocab_size=VOCAB, tied_head=False, projection=MLP(expansion=2.0)),
    "tied bfloat16": LanguageModelConfig(**SMALL, vocab_size=VOCAB, dtype="bfloat16"),
}
SHALLOW = RegressorConfig(
    dim=8, num_layers=5, pattern=(LRU(state_dim=4), Attention(num_heads=2, window=5)), pooling="none"
)
VECTORS = np.random.default_rng(4).standard_normal((2, LENGTH, 3)).astype(np.float32)


def tokens_of(seed=0):
    return np.random.default_rng(seed).integers(0, VOCAB, (2, LENGTH)).astype(np.int32)


@functools.cache
def build(name):
    """A language model, its parameters, and one compiled call."""
    model = LanguageModel(MODELS[name])
    params = jax.jit(model.init)(jax.random.key(0), tokens_of())
    return model, params, jax.jit(lambda params, tokens, state, reset: model.apply(params, tokens, state, reset=reset))
