"""Generation: one token at a time is the whole sequence, and draws follow the distribution they claim."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrax import mixers
from recurrax.mixers import LRU, RGLRU, Attention
from recurrax.models import LanguageModel, LanguageModelConfig, batch_prompts, generate, prefill, sample, sampling

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

VOCAB = 32


@functools.cache
def model_and_parameters():
    """A hybrid of every kind of state. Logits are ten times the usual size: flat ones are easy to get right."""
    config = LanguageModelConfig(
        dim=16,
        num_layers=3,
        pattern=(RGLRU(num_heads=2), LRU(state_dim=8), Attention(num_heads=2, window=16)),
        vocab_size=VOCAB,
        tied_head=False,
    )
    model = LanguageModel(config)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    params["params"]["out_kernel"] = 10 * params["params"]["out_kernel"]
    return model, params


def start(batch=2):
    model, params = model_and_parameters()
    prompt = jax.random.randint(jax.random.key(1), (batch, 7), 0, VOCAB)
    return model, params, prompt, *prefill(model, params, prompt)


def shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def test_sampling_long_matches_the_whole_sequence():
    """Two thousand sampled tokens are those of the whole sequence, and the state does not grow."""
    model, params, prompt, logits, state = start()
    key = jax.random.key(2)
    tokens, last, after, _ = generate(model, params, logits, state, key, 2000, 0.0)
    assert tokens.shape == (2, 2000)
    assert shapes(after) == shapes(state) == shapes(model.init_state(2))
    whole, end = jax.jit(model.apply)(params, jnp.concatenate([prompt, tokens], axis=1))
    assert len(np.unique(tokens)) > 4  # no constant sequence, which any model would continue
    # Where the best two logits are closer than rounding either is right; nowhere else may a token differ.
    best, second = np.sort(whole[:, 6:-1], axis=-1)[..., :-3:-1].transpose(2, 0, 1)
    differ = np.argmax(whole[:, 6:-1], axis=-1) != tokens
    assert not (differ & (best - second > 1e-4)).any(), np.argwhere(differ)
    assert differ.sum() <= 2
    np.testing.assert_allclose(last, whole[:, -1], atol=1e-4)
    for (path, got), want in zip(jax.tree_util.tree_leaves_with_path(after), jax.tree.leaves(end), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4, err_msg=jax.tree_util.keystr(path))


def test_generating_ten_then_ten_is_generating_twenty():
    model, params, _, logits, state = start()
    for temperature, top_p in ((0.0, 1.0), (1.0, 0.9)):
        begin = (logits, state, jax.random.key(3))
        twenty, *end = generate(model, params, *begin, 20, temperature, top_p)
        first, *middle = generate(model, params, *begin, 10, temperature, top_p)
        second, *later = generate(model, params, *middle, 10, temperature, top_p)
        np.testing.assert_array_equal(np.concatenate([first, second], axis=1), twenty)
        np.testing.assert_array_equal(jax.random.key_data(later[2]), jax.random.key_data(end[2]))
        np.testing.assert_allclose(later[0], end[0], atol=1e-5)


def test_sampling_depends_on_the_key():
    """The same key gives the same tokens, and another key other tokens."""
    model, params, _, logits, state = start()

    def tokens(seed):
        return np.asarray(generate(model, params, logits, state, jax.random.key(seed), 20)[0])

    np.testing.assert_array_equal(tokens(4), tokens(4))
    assert (tokens(4) != tokens(5)).any()


def test_sampling_uses_a_key_per_step():
    """Every step draws with a key of its own."""
    # Flat logits at every step: what tells steps apart is the key alone.
    model, params, _, logits, state = start(1)
    flat = {"params": {**params["params"], "out_kernel": 0 * params["params"]["out_kernel"]}}
    tokens, *_ = generate(model, flat, 0 * logits, state, jax.random.key(10), 300)
    counts = np.bincount(tokens[0], minlength=VOCAB)
    # 300 draws from 32 equally likely tokens: 9.4 of each, with a standard deviation of 3.
    assert counts.max() <= 9.4 + 5 * 3
    assert (counts > 0).sum() > 28


def only(*tokens, size=VOCAB):
    """The mask that allows these tokens."""
    return np.isin(np.arange(size), tokens)


def test_generation_draws_the_allowed_tokens_alone():
    model, params, _, logits, state = start()
    for temperature in (0.0, 1.0, 5.0):
        tokens, *_ = generate(model, params, logits, state, jax.random.key(6), 20, temperature, 1.0, only(0, 1, 5))
        assert set(np.unique(tokens)) <= {0, 1, 5}
    assert set(np.unique(tokens)) == {0, 1, 5}


def test_sampling_refuses_what_is_no_mask():
    for allowed in (5, np.arange(10), only(1, size=9), only(1, size=10)[None]):
        with pytest.raises(ValueError, match=r"allowed must be boolean \(vocab_size,\) = \(10,\), got"):
            sample(jax.random.key(0), jnp.zeros((2, 10)), allowed=allowed)


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def nucleus(logits, temperature, top_p, allowed=None):
    """Probabilities that `sample` claims, token by token."""
    logits = np.array(logits, np.float64)
    if allowed is not None:
        logits[~allowed] = -np.inf
    if temperature == 0:
        return np.eye(len(logits))[np.argmax(logits)]
    p = softmax(logits / temperature)
    kept, total = np.zeros(len(p), bool), 0.0
    for token in np.argsort(-p):
        if total >= top_p:
            break
        kept[token] = True
        total += p[token]
    return np.where(kept, p, 0) / p[kept].sum()


@pytest.mark.parametrize(
    ("temperature", "top_p", "allowed"),
    [
        (1.0, 1.0, None),
        (0.5, 1.0, None),
        (2.0, 1.0, None),
        (1.0, 0.8, None),
        (0.7, 0.5, None),
        (1.0, 1e-6, None),
        (1.0, 1.0, only(0, 1, 2, 3, 4, size=10)),
        (1.0, 1.0, only(0, 1, 5, size=10)),
        (1.3, 0.7, only(0, 4, 5, 8, 9, size=10)),
        (0.0, 1.0, None),
        (0.0, 0.5, only(1, 5, size=10)),
    ],
)
def test_draws_follow_the_tempered_truncated_distribution(temperature, top_p, allowed):
    """Draws have the frequencies of the tempered and truncated distribution."""
    logits, draws = 1.5 * np.random.default_rng(7).standard_normal(10).astype(np.float32), 50_000
    rows = jnp.broadcast_to(logits, (draws, 10))
    tokens = jax.jit(sample)(jax.random.key(8), rows, temperature, top_p, allowed)
    assert tokens.dtype == jnp.int32
    want = nucleus(logits, temperature, top_p, allowed)
    got = np.bincount(tokens, minlength=10) / draws
    assert not got[want == 0].any(), "tokens outside of the set were drawn"
    # Five standard deviations of a frequency.
    assert (np.abs(got - want) <= 5 * np.sqrt(want * (1 - want) / draws) + 1e-12).all(), (got, want)


def test_sampled_rows_are_independent():
    """Rows are drawn independently, each from its own logits."""
    rows = jnp.where(jnp.eye(10, dtype=bool), 50.0, 0.0)
    np.testing.assert_array_equal(sample(jax.random.key(9), rows), np.arange(10))
    np.testing.assert_array_equal(sample(jax.random.key(9), rows, 1.0, 0.5), np.arange(10))
    assert len(np.unique(sample(jax.random.key(9), jnp.zeros((100, 1000))))) > 80


def test_the_smallest_top_p_leaves_the_likeliest_token():
    logits = jax.random.normal(jax.random.key(0), (64, 20))
    drawn = sample(jax.random.key(1), logits, temperature=1.0, top_p=0.0)
    np.testing.assert_array_equal(drawn, logits.argmax(-1))


LENGTHS = (5, 3, 16, 1)


def test_prompts_of_different_lengths_are_as_alone():
    """Each row's logits, state and continuation are those of its prompt alone, for layers of every kind."""
    config = LanguageModelConfig(
        dim=16,
        num_layers=4,
        first=(mixers.RWKV7(num_heads=2),),
        pattern=(mixers.Mamba(state_dim=3), Attention(num_heads=2, max_length=32)),
        last=(mixers.MLSTM(num_heads=2),),
        projection=None,
        vocab_size=VOCAB,
    )
    model = LanguageModel(config)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    rows = [np.random.default_rng(length).integers(0, VOCAB, length) for length in LENGTHS]
    prompts, lengths = batch_prompts(rows, config.context)
    assert prompts.shape == (4, 16)
    logits, state = prefill(model, params, prompts, lengths=lengths)
    tokens, *_ = generate(model, params, logits, state, jax.random.key(0), 7, 0.0)
    for i, row in enumerate(rows[:2]):  # every length is a program of its own
        alone, own = prefill(model, params, row[None])
        np.testing.assert_allclose(logits[i : i + 1], alone, atol=1e-5)
        np.testing.assert_array_equal(
            tokens[i : i + 1], generate(model, params, alone, own, jax.random.key(0), 7, 0.0)[0]
        )


def test_few_programs_serve_all_sizes():
    """Prompts and numbers of tokens within one power of two share a program."""
    model, params = model_and_parameters()
    for lengths, count in (((3, 9), 5), ((16, 2), 13), ((1, 1), 16)):
        prompts, sizes = batch_prompts([np.ones(length, int) for length in lengths])
        logits, state = prefill(model, params, prompts, lengths=sizes)
        before = sampling._generate._cache_size(), sampling._prefill_rows._cache_size()
        generate(model, params, logits, state, jax.random.key(0), count)
    assert (sampling._generate._cache_size(), sampling._prefill_rows._cache_size()) == before
    assert batch_prompts([np.ones(20, int)], context=24)[0].shape == (1, 24)
    assert batch_prompts([np.ones(20, int)], context=8)[0].shape == (1, 20)


def test_rows_stop_at_their_end_token():
    """After its end token a row repeats it; the call ends with the last row, and the others are not changed."""
    model, params, _, logits, state = start(3)
    key = jax.random.key(4)
    free, *_ = generate(model, params, logits, state, key, 30)
    ends = sorted({int(free[0, 4]), int(free[2, 9])})
    tokens, *_ = generate(model, params, logits, state, key, 30, 1.0, 1.0, None, ends)
    for row, plain in zip(tokens.tolist(), free.tolist(), strict=True):
        stop = next((i for i, token in enumerate(plain) if token in ends), len(plain) - 1)
        assert row[: stop + 1] == plain[: stop + 1]
        if plain[stop] in ends:
            assert set(row[stop:]) == {plain[stop]}


def test_wrong_prompts_and_lengths_are_refused():
    model, params, prompt, _, state = start()
    for rows in ([], [[1], []]):
        with pytest.raises(ValueError, match="each prompt must have a token"):
            batch_prompts(rows)
    for lengths, message in (
        ([0, 1], r"must be in \[1, 7\]"),
        ([8, 1], r"must be in \[1, 7\]"),
        ([1], "one for each of 2"),
    ):
        with pytest.raises(ValueError, match=message):
            prefill(model, params, prompt, lengths=jnp.asarray(lengths))
    with pytest.raises(ValueError, match="with a state, call prefill for each length"):
        prefill(model, params, prompt, state, lengths=jnp.asarray([1, 2]))
