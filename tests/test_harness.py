"""What the evaluation harness asks of a model, beside the model itself on whole texts."""

import dataclasses
import sys
import types

import jax
import numpy as np
import pytest

from eval import harness
from eval.harness import Scorer, generated, harness_model
from eval.source import open_source
from recurrax.mixers import Attention
from recurrax.models import LanguageModel

TEXTS = ["def f(x):\n    return x", "a", "x" * 50, "é and ü, "]


@pytest.fixture(scope="module")
def scorer(small_run):
    return Scorer(open_source(str(small_run), None, None, None, 512), batch_size=3)


def logs_of(scorer, text):
    """Log-probability of each byte of the whole text, and whether it is the likeliest token."""
    tokens = scorer.source.vocabulary.prompt(text)[None]
    logits, _ = jax.jit(scorer.source.model.apply)(scorer.source.params, tokens)
    logits = np.asarray(logits[0, :-1], np.float64)
    logs = logits - np.log(np.exp(logits - logits.max()).sum(-1, keepdims=True)) - logits.max()
    return logs[np.arange(len(logs)), tokens[0, 1:]], logits.argmax(-1) == tokens[0, 1:]


def test_likelihoods_are_those_of_whole_texts(scorer, monkeypatch):
    """In chunks that end anywhere, for texts of different lengths together."""
    monkeypatch.setattr(harness, "CHUNK", 8)
    for text, found in zip(TEXTS, scorer.documents(TEXTS), strict=True):
        assert found == pytest.approx(logs_of(scorer, text)[0].sum(), rel=1e-5)
    pairs = [("def f(x):", " return"), ("", "a"), ("x" * 30, "x" * 20), ("end ", "of")]
    for (context, continuation), (total, greedy) in zip(pairs, scorer.likelihoods(pairs), strict=True):
        logs, likeliest = logs_of(scorer, context + continuation)
        size = len((context + continuation).encode()) - len(context.rstrip().encode())
        assert total == pytest.approx(logs[-size:].sum(), rel=1e-5)
        assert greedy == likeliest[-size:].all()


def test_a_greedy_continuation_is_said_to_be_greedy(scorer):
    (text,) = scorer.continuations(["def f"], (), 8)
    ((_, greedy), (_, other)) = scorer.likelihoods([("def f", text), ("def f", "\x00" + text)])
    assert (greedy, other) == (True, False)


def test_texts_that_a_cache_forgets_are_refused(scorer):
    """Attention without a window has a cache; a longer text would be scored without its beginning."""
    pattern = (Attention(num_heads=2, max_length=32),)
    config = dataclasses.replace(scorer.source.model.config, pattern=pattern)
    limited = Scorer(dataclasses.replace(scorer.source, model=LanguageModel(config)))
    with pytest.raises(ValueError, match="a cache of 32 tokens"):
        limited.documents(["x" * 32])


def test_continuations_end_at_a_stop_string(scorer):
    """Each text is what is sampled without stop strings, up to the first of them; requests keep their order."""
    free = scorer.continuations(TEXTS, (), 40)
    stop = free[0][2:4]
    requests = [(text, {"until": [stop], "max_gen_toks": 40}) for text in TEXTS]
    requests.insert(2, ("b", {"until": "zzz", "max_gen_toks": 5}))
    found = generated(scorer, requests)
    assert found[2] == scorer.continuations(["b"], (), 5)[0]
    del found[2]
    for text, whole in zip(found, free, strict=True):
        assert text == whole.partition(stop)[0]


def test_harness_gets_its_answers(scorer, monkeypatch):
    """The model of the harness passes the arguments of requests on."""
    module = types.SimpleNamespace(LM=object)
    for name in ("lm_eval", "lm_eval.api"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", module)
    model = harness_model(scorer)

    def asked(*arguments):
        return [types.SimpleNamespace(args=arguments)]

    assert model.loglikelihood(asked("a", "b")) == scorer.likelihoods([("a", "b")])
    assert model.loglikelihood_rolling(asked("ab")) == scorer.documents(["ab"])
    assert model.generate_until(asked("a", {"max_gen_toks": 4})) == scorer.continuations(["a"], (), 4)
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(ImportError, match=r"pip install 'recurrax\[lm_eval\]'"):
        harness_model(scorer)
