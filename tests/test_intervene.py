"""Interventions change what follows a site and nothing else; those that change no array change no number."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrax import probes
from recurrax.mixers import GLA, LRU, Attention
from recurrax.models import LanguageModel, LanguageModelConfig
from recurrax.projections import GLU

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

TOKENS, OTHER = np.random.default_rng(7).integers(0, 11, (2, 2, 9))
CONFIG = LanguageModelConfig(
    dim=8,
    num_layers=5,
    first=(LRU(state_dim=4),),
    pattern=(GLA(num_heads=2),),
    last=(Attention(num_heads=2),),
    projection=GLU(expansion=1.0),
    vocab_size=11,
)
"""Blocks 1, 2 and 3 are repeats under the scan."""


@functools.cache
def built():
    model = LanguageModel(CONFIG)
    return model, jax.jit(model.init)(jax.random.key(1), TOKENS)


@functools.cache
def plain():
    model, params = built()
    return jax.jit(model.apply)(params, TOKENS)


def assert_equal(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize("pattern", ["*", "2/*"])
def test_replacing_arrays_by_themselves_changes_no_number(pattern):
    model, params = built()
    assert_equal(probes.intervene(model, params, TOKENS, {pattern: lambda x: x}), plain())


def test_recorded_array_put_back_gives_the_same_logits():
    model, params = built()
    recorded = probes.record(model, params, TOKENS, "2/mixer/*")
    functions = {name: lambda x, new=array: new for name, array in recorded.items()}
    logits, state = probes.intervene(model, params, TOKENS, functions)
    np.testing.assert_allclose(logits, plain()[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("site", ["0/stream_after", "2/stream_before", "4/stream_between"])
def test_patching_the_stream_gives_the_others_logits(site):
    """The stream of another input, put in place of this one's, gives the other input's logits."""
    model, params = built()
    (stream,) = probes.record(model, params, OTHER, site).values()
    logits, state = probes.intervene(model, params, TOKENS, {site: lambda x: stream})
    want, states = jax.jit(model.apply)(params, OTHER)
    np.testing.assert_allclose(logits, want, rtol=1e-5, atol=1e-6)
    got, *others = (tree["first"][0]["mixer"] for tree in (state, plain()[1], states))
    np.testing.assert_array_equal(got, others[0])
    assert np.abs(got - others[1]).max() > 0.1


def test_zero_mixer_outputs_equal_a_model_without_them():
    """Zero ablation of one repeat's mixer is the model whose output matrix of that repeat is zero."""
    model, params = built()
    got = probes.intervene(model, params, TOKENS, {"2/mixer/output": jnp.zeros_like})
    kernel = params["params"]["backbone"]["groups"]["0_gla"]["mixer"]["out_kernel"]
    without = jax.tree.map(lambda p: p.at[1].set(0) if p is kernel else p, params)
    assert_equal(got, jax.jit(model.apply)(without, TOKENS))
    assert np.abs(got[0] - plain()[0]).max() > 0.01


def test_intervene_reaches_single_scan_repeats():
    """Blocks 1 and 3 are changed in two ways, block 2 is not; several patterns apply in order."""
    model, params = built()
    functions = {"[13]/mixer/output": lambda y: 2 * y, "3/mixer/output": lambda y: y + 1, "4/mixer/*put": lambda y: -y}
    found = probes.record(model, params, TOKENS, ["*/mixer/output", "*/stream_*"], functions=functions)
    before = probes.record(model, params, TOKENS, "1/mixer/output")
    np.testing.assert_allclose(found["1/mixer/output"], 2 * before["1/mixer/output"], rtol=1e-6)
    for i in range(5):
        want = found[f"{i}/stream_before"] + found[f"{i}/mixer/output"]
        np.testing.assert_allclose(found[f"{i}/stream_between"], want, rtol=1e-6, atol=1e-6)
    # Blocks 2 and 3 by themselves, on the streams that they got.
    for i, function in [(2, lambda y: y), (3, lambda y: 2 * y + 1)]:
        block = jax.tree.map(lambda p, i=i: p[i - 1], params["params"]["backbone"]["groups"]["0_gla"])
        x = np.asarray(found[f"{i}/stream_before"])
        n = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-6) * np.asarray(block["mixer_norm"]["scale"])
        y, _ = jax.jit(CONFIG.pattern[0].layer(8).apply)({"params": block["mixer"]}, jnp.asarray(n))
        np.testing.assert_allclose(found[f"{i}/mixer/output"], function(y), rtol=1e-4, atol=1e-5)


def test_state_is_replaced_as_returned():
    model, params = built()
    logits, state = probes.intervene(model, params, TOKENS, {"3/mixer/state/s": lambda s: s + 1})
    np.testing.assert_array_equal(logits, plain()[0])
    got, want = (tree["groups"][0]["mixer"]["s"] for tree in (state, plain()[1]))
    np.testing.assert_array_equal(got[:2], want[:2])
    np.testing.assert_allclose(got[2], want[2] + 1, rtol=1e-6)


@pytest.mark.parametrize("site", ["2/mixer/values", "4/stream_before"])
def test_site_gradient_equals_shift_gradient(site):
    """The gradient agrees with central differences, under jit and rematerialisation, within the scan and outside."""
    _, params = built()
    model = LanguageModel(dataclasses.replace(CONFIG, remat="dots_saveable"))

    @jax.jit
    def loss(delta):
        logits, _ = probes.intervene(model, params, TOKENS, {site: lambda x: x + delta})
        return (jax.nn.log_softmax(logits)[:, -1, 3]).sum()

    (recorded,) = probes.record(model, params, TOKENS, site).values()
    delta = jnp.zeros_like(recorded)
    direction = jax.random.normal(jax.random.key(0), delta.shape)
    got = jnp.vdot(jax.jit(jax.grad(loss))(delta), direction)
    want = (loss(0.01 * direction) - loss(-0.01 * direction)) / 0.02
    np.testing.assert_allclose(got, want, rtol=2e-3)
    assert abs(got) > 0.01


def test_functions_run_only_in_the_blocks_they_name():
    """A function that has no finite derivative in other blocks leaves gradients finite."""
    model, params = built()

    def loss(scale):
        # The outputs of blocks 1 and 2 are 0, where the norm has no derivative.
        functions = {"[12]/mixer/mixed": lambda y: scale * 0 * y, "3/mixer/output": lambda y: y / jnp.linalg.norm(y)}
        return probes.intervene(model, params, TOKENS, functions)[0][0, 0, 0]

    assert np.isfinite(jax.jit(jax.grad(loss))(1.0))


def test_intervention_continues_from_a_state():
    model, params = built()
    _, state = jax.jit(model.apply)(params, TOKENS[:, :6])
    double = {"*/mixer/values*": lambda v: 2 * v}
    whole, end = probes.intervene(model, params, TOKENS, double)
    first, state = probes.intervene(model, params, TOKENS[:, :6], double)
    second, state = probes.intervene(model, params, TOKENS[:, 6:], double, state=state)
    np.testing.assert_allclose(jnp.concatenate([first, second], axis=1), whole, rtol=1e-4, atol=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), state["groups"], end["groups"])


def test_programs_without_a_probe_do_not_change():
    """Sites leave no trace in a program; after an intervention the model computes what it did before."""
    model, params = built()
    before = str(jax.make_jaxpr(model.apply)(params, TOKENS))
    probes.intervene(model, params, TOKENS, {"*/stream_after": lambda x: 0 * x})
    assert str(jax.make_jaxpr(model.apply)(params, TOKENS)) == before
    text = jax.jit(model.apply).lower(params, TOKENS).as_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recurrax.sites.visit", lambda module, name, x, index=None: x)
        patch.setattr("recurrax.sites.marked", lambda name, x: x)
        assert jax.jit(LanguageModel(CONFIG).apply).lower(params, TOKENS).as_text() == text


def test_bad_interventions_are_refused_before_any_compile():
    model, params = built()
    for functions, message in [
        ({"2/mixer/valeus": lambda x: x}, "no site of this model is named '2/mixer/valeus'"),
        (
            {"2/stream_*": lambda x: x[:, 1:]},
            r"'2/stream_\*' must .* like '2/stream_before', float32 of shape \(2, 9, 8\)",
        ),
        ({"logits": lambda x: x.astype(jnp.bfloat16)}, "must return an array like 'logits', float32"),
        ({"logits": lambda x: (x, x)}, "must return an array like 'logits'"),
    ]:
        with pytest.raises(ValueError, match=message):
            probes.intervene(model, params, TOKENS, functions)
    with pytest.raises(ValueError, match="state"):
        probes.intervene(model, params, TOKENS, {"logits": lambda x: x}, state={"first": None})
