"""Recorded arrays equal those of a model that is applied block by block by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrax import probes
from recurrax.layers import RECURRENT, Depth
from recurrax.mixers import GLA, RWKV7, Attention, MixerConfig
from recurrax.mixers.base import Mixer
from recurrax.mixers.marks import mark
from recurrax.models import Classifier, ClassifierConfig, LanguageModel, LanguageModelConfig, Regressor, RegressorConfig
from recurrax.projections import MLP, ChannelMix

DIM, VOCABULARY = 8, 11
TOKENS = np.random.default_rng(5).integers(0, VOCABULARY, (2, 9))
HYBRID = LanguageModelConfig(
    dim=DIM,
    num_layers=6,
    first=(RWKV7(num_heads=2),),
    pattern=(GLA(num_heads=2), RWKV7(num_heads=2, value_residual=True)),
    last=(Attention(num_heads=2),),
    projection=MLP(expansion=1.0),
    vocab_size=VOCABULARY,
)
SMALL = dataclasses.replace(HYBRID, num_layers=3, first=(), pattern=(GLA(num_heads=2),), last=())
KINDS = ("rwkv7", "gla", "rwkv7", "gla", "rwkv7", "attention")


@functools.cache
def built(config=HYBRID):
    model = LanguageModel(config)
    return model, jax.jit(model.init)(jax.random.key(1), TOKENS)


def rms(x, scale):
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-6) * scale


def by_hand(params):
    """Every site of the stream and of the layers' inputs and outputs, with a Python loop over the blocks."""
    params = jax.tree.map(np.asarray, params["params"])
    first, groups, rest = (params["backbone"][part] for part in ("first", "groups", "rest"))
    blocks = [first["0_rwkv7"]]
    for i in range(2):
        blocks += [jax.tree.map(lambda p, i=i: p[i], groups[name]) for name in ("0_gla", "1_rwkv7")]
    blocks.append(rest["0_attention"])
    found = {"embedding": params["embedding"][TOKENS] * np.sqrt(DIM)}
    x = found["embedding"]
    configs = (*HYBRID.first, *2 * HYBRID.pattern, *HYBRID.last)
    shared = None
    for i, (block, config) in enumerate(zip(blocks, configs, strict=True)):
        found[f"{i}/stream_before"] = x
        found[f"{i}/mixer/input"] = n = rms(x, block["mixer_norm"]["scale"])
        if getattr(config, "value_residual", False):
            found[f"{i}/mixer/value_residual"] = shared
        layer = config.layer(DIM)
        mine = shared if getattr(config, "value_residual", False) else None
        y, state = jax.jit(functools.partial(layer.apply, depth=Depth(i, 6)))(
            {"params": block["mixer"]}, n, shared=mine
        )
        if i == 0:
            shifted = np.pad(n, ((0, 0), (1, 0), (0, 0)))[:, :-1]
            shared = (n + block["mixer"]["mix_v"] * (shifted - n)) @ block["mixer"]["in_v"]
            found["0/mixer/values"] = shared
        if isinstance(config, GLA):
            found[f"{i}/mixer/values"] = n @ block["mixer"]["in_v"]
        found[f"{i}/mixer/output"] = y
        leaves = jax.tree_util.tree_leaves_with_path(state)
        found |= {f"{i}/mixer/state/{path[0].key}": leaf for path, leaf in leaves}
        x = x + np.asarray(y)
        found[f"{i}/stream_between"] = x
        found[f"{i}/projection/input"] = n = rms(x, block["projection_norm"]["scale"])
        hidden = np.asarray(jax.nn.gelu(n @ block["projection"]["in_kernel"] + block["projection"]["bias"]))
        found[f"{i}/projection/hidden"] = hidden
        found[f"{i}/projection/output"] = hidden @ block["projection"]["out_kernel"]
        x = x + found[f"{i}/projection/output"]
        found[f"{i}/stream_after"] = x
    found["final_norm"] = rms(x, params["backbone"]["norm"]["scale"])
    found["logits"] = found["final_norm"] @ params["embedding"].T
    return found


@functools.cache
def everything():
    model, params = built()
    return probes.record(model, params, TOKENS, "*")


def test_recorded_arrays_are_those_of_blocks_by_hand():
    _, params = built()
    want = by_hand(params)
    got = everything()
    for name, array in want.items():
        np.testing.assert_allclose(got[name], array, rtol=2e-4, atol=2e-5, err_msg=name)
    other = {name.split("/")[-1] for name in got.keys() - want.keys()}
    assert other == {
        *("coefficients", "log_decay", "matrix_state", "mixed", "rate_gate", "removal_key", "removal_rate", "values")
    }


def test_recording_changes_no_number():
    model, params = built()
    logits, state = jax.jit(model.apply)(params, TOKENS)
    np.testing.assert_array_equal(everything()["logits"], logits)
    states = {name: array for name, array in everything().items() if "/state/" in name}
    assert len(states) == 3 * 2 + 2 + 3
    for i, (part, index, repeat) in enumerate(
        [("first", 0, None), *(("groups", i, r) for r in range(2) for i in range(2)), ("rest", 0, None)]
    ):
        for key, leaf in state[part][index]["mixer"].items():
            want = leaf if repeat is None else leaf[repeat]
            np.testing.assert_array_equal(states[f"{i}/mixer/state/{key}"], want)


def test_record_returns_only_matches_from_the_bottom():
    model, params = built(SMALL)
    got = probes.record(model, params, TOKENS, ["logits", "[12]/stream_*", "2/mixer/input"])
    streams = {i: [f"{i}/stream_{where}" for where in ("before", "between", "after")] for i in (1, 2)}
    assert list(got) == [*streams[1], streams[2][0], "2/mixer/input", *streams[2][1:], "logits"]


def test_names_give_the_layer_of_each_site():
    model, _ = built()
    names = probes.names(model)
    assert set(names) == set(everything())
    assert list(names)[:3] == ["embedding", "0/stream_before", "0/mixer/input"]
    assert list(names)[-3:] == ["5/stream_after", "final_norm", "logits"]
    assert {names[f"{i}/mixer/values"].lower() for i in range(6)} == set(KINDS)
    assert [names[name] for name in ("3/projection/hidden", "3/stream_after", "logits")] == [
        *("MLP", "Block", "LanguageModel")
    ]


def test_record_continues_from_a_state_with_resets():
    """Chunks give the arrays of the whole sequence; at T = 1 too."""
    model, params = built(SMALL)
    reset = np.zeros(TOKENS.shape, bool)
    reset[0, 3] = reset[1, 6] = True
    names = ["*/stream_after", "*/mixer/state/s"]
    whole = probes.record(model, params, TOKENS, names, reset=reset)
    _, state = jax.jit(model.apply)(params, TOKENS[:, :8], reset=reset[:, :8])
    last = probes.record(model, params, TOKENS[:, 8:], names, reset=reset[:, 8:], state=state)
    for name, array in last.items():
        want = whole[name][:, 8:] if name.endswith("after") else whole[name]
        np.testing.assert_allclose(array, want, rtol=1e-4, atol=1e-5, err_msg=name)


def test_record_under_remat_jit_and_grad():
    """A loss of recorded arrays has the gradient of the same loss without rematerialisation."""
    names = ["*/mixer/values", "1/stream_after"]

    def gradient(config):
        model, params = LanguageModel(config), built(SMALL)[1]

        @jax.jit
        @jax.grad
        def loss(params):
            found = probes.record(model, params, TOKENS, names)
            return sum(jnp.sum(array**2) for array in found.values())

        return loss(params)

    plain, remade = gradient(SMALL), gradient(dataclasses.replace(SMALL, remat="dots_saveable"))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), plain, remade)
    values = plain["params"]["backbone"]["groups"]["0_gla"]["mixer"]["in_v"]
    assert np.abs(values).max(axis=(1, 2)).min() > 0


def test_classifier_and_regressor_have_their_outputs():
    options = {"dim": DIM, "num_layers": 1, "pattern": (GLA(num_heads=2),), "projection": ChannelMix()}
    classifier = Classifier(ClassifierConfig(**options, vocab_size=VOCABULARY))
    regressor = Regressor(RegressorConfig(**options))
    vectors = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    for model, inputs, name in [(classifier, TOKENS, "logits"), (regressor, vectors, "predictions")]:
        params = jax.jit(model.init)(jax.random.key(0), inputs)
        found = probes.record(model, params, inputs, [name, "embedding", "0/projection/state"])
        np.testing.assert_array_equal(found[name], jax.jit(model.apply)(params, inputs)[0])
        assert found["embedding"].shape == (*inputs.shape[:2], DIM)
        assert found["0/projection/state"].shape == (2, DIM)
        assert list(found)[-1] == list(probes.names(model))[-1] == name


@dataclasses.dataclass(frozen=True)
class Twice(MixerConfig):
    """A layer that marks an array twice, and one inside of a function that JAX transforms."""

    capabilities = RECURRENT

    def layer(self, dim, dtype=jnp.float32, name=None):
        return TwiceLayer(self, dim, dtype, name=name)

    def init_state(self, batch_size, dim, dtype=jnp.float32):
        return ()


class TwiceLayer(Mixer):
    def parameters(self, depth):
        return {}

    def run(self, params, x, state, **_):
        x = mark("keys", mark("keys", x) + 1)
        return jax.vmap(lambda x: mark("inner", x))(x), ()


def test_repeated_marks_are_numbered_and_inner_ones_left():
    model = LanguageModel(LanguageModelConfig(dim=DIM, num_layers=1, pattern=(Twice(),), projection=None))
    params = jax.jit(model.init)(jax.random.key(0), TOKENS)
    found = probes.record(model, params, TOKENS, "0/mixer/*")
    assert list(found) == ["0/mixer/input", "0/mixer/keys", "0/mixer/keys_1", "0/mixer/output"]
    np.testing.assert_array_equal(found["0/mixer/keys_1"], found["0/mixer/keys"] + 1)


def test_jitted_model_is_traced_again_while_probed():
    """A function of the model that was jitted before does not hide its sites, and keeps no probe afterwards."""
    traces = []

    @jax.jit
    def inner(x):
        traces.append(None)
        return x

    class Caller(TwiceLayer):
        def run(self, params, x, state, **_):
            return inner(x), ()

    class Calls(Twice):
        def layer(self, dim, dtype=jnp.float32, name=None):
            return Caller(self, dim, dtype, name=name)

    model = LanguageModel(LanguageModelConfig(dim=DIM, num_layers=1, pattern=(Calls(),), projection=None))
    params = jax.jit(model.init)(jax.random.key(0), TOKENS)
    jax.eval_shape(model.apply, params, TOKENS)
    before = len(traces)
    jax.eval_shape(model.apply, params, TOKENS)
    assert len(traces) == before
    probes.record(model, params, TOKENS, "logits")
    assert len(traces) > before


def test_unknown_names_and_wrong_arguments_are_refused(unchecked_shapes):
    model, params = built()
    for names, message in [
        ("3/mixer/vlaues", r"no site .* named '3/mixer/vlaues' \(did you mean '3/mixer/values'\?\)"),
        (["logits", "9/*"], r"'9/\*'; choose from embedding, 0,1,2,3,4,5/stream_before, .*2,4/mixer/value_residual"),
    ]:
        with pytest.raises(ValueError, match=message):
            probes.record(model, params, TOKENS, names)
    with pytest.raises(ValueError, match="model must be one of LanguageModel"):
        probes.names(GLA().layer(DIM))
    with pytest.raises(ValueError, match="params are not this model's"):
        probes.record(model, params["params"], TOKENS, "logits")
    with pytest.raises(ValueError, match="tokens must be integers"):
        probes.record(model, params, TOKENS / 2, "logits")
