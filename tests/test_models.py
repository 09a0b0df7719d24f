"""Models: the laws of their mixers hold for the whole, scan and remat change nothing."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from recurrax.mixers import LRU, RGLRU, Attention
from recurrax.models import (
    Block,
    BlockConfig,
    Classifier,
    ClassifierConfig,
    LanguageModel,
    LanguageModelConfig,
    Regressor,
    RegressorConfig,
    describe,
)
from recurrax.models.block import Norm
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
# Seven blocks in float32 (rounding 6e-8), or in bfloat16 (2^-9), of logits of order 1.
BOUNDS = {"tied": 1e-5, "untied": 1e-5, "tied bfloat16": 0.1}
every_model = pytest.mark.parametrize("name", MODELS)


def assert_close(got, want, bound, label=""):
    got, want = (jax.tree_util.tree_leaves_with_path(tree) for tree in (got, want))
    for (path, a), (other, b) in zip(got, want, strict=True):
        assert path == other
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        a, b = (np.asarray(v.astype(jnp.float32) if v.dtype == jnp.bfloat16 else v) for v in (a, b))
        if a.dtype == bool:
            np.testing.assert_array_equal(a, b)
        else:
            off = np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-30)
            assert off <= bound, f"{label}{jax.tree_util.keystr(path)} is off by {off:.1e} of its size"


def tokens_of(seed=0):
    return np.random.default_rng(seed).integers(0, VOCAB, (2, LENGTH)).astype(np.int32)


@functools.cache
def build(name):
    """A language model, its parameters, and one compiled call."""
    model = LanguageModel(MODELS[name])
    params = jax.jit(model.init)(jax.random.key(0), tokens_of())
    return model, params, jax.jit(lambda params, tokens, state, reset: model.apply(params, tokens, state, reset=reset))


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


def test_gradients_through_the_carried_state_are_those_of_the_whole_sequence():
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


def test_no_logit_depends_on_a_later_token_or_another_document():
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
def test_the_initial_state_is_what_none_means_and_looks_like_every_later_state(name):
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


def test_bfloat16_is_close_to_float32_with_the_same_parameters():
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


def one_by_one(config, params, x, reset):
    """The blocks of a backbone, applied one after the other with their own slices of the scanned parameters."""
    width = len(config.pattern)
    for i in range(config.num_layers):
        mixer = config.pattern[i % width]
        name = f"{i % width}_{type(mixer).__name__.lower()}"
        if i < config.num_layers // width * width:
            own = jax.tree.map(lambda leaf, i=i: leaf[i // width], params["groups"][name])
        else:
            own = params["rest"][name]
        block = Block(BlockConfig(mixer, config.projection), config.dim, Norm("rms", 1e-6, "float32"))
        x, _, _ = block.apply({"params": own}, x, None, None, reset)
    return nn.RMSNorm().apply({"params": params["norm"]}, x)


SHALLOW = RegressorConfig(
    dim=8, num_layers=5, pattern=(LRU(state_dim=4), Attention(num_heads=2, window=5)), pooling="none"
)
VECTORS = np.random.default_rng(4).standard_normal((2, LENGTH, 3)).astype(np.float32)


def loss_and_gradients(config, function):
    model = Regressor(config)
    params = jax.jit(model.init)(jax.random.key(0), VECTORS)["params"]
    return jax.jit(jax.value_and_grad(functools.partial(function, config)))(params)


def scanned(config, params):
    return (Regressor(config).apply({"params": params}, VECTORS)[0] ** 2).sum()


@functools.cache
def plain():
    def blocks(config, params):
        x = VECTORS @ params["in_embedding"]["kernel"] + params["in_embedding"]["bias"][None, None]
        x = one_by_one(config, params["backbone"], x, None)
        return ((x @ params["out_head"]["kernel"] + params["out_head"]["bias"][None, None]) ** 2).sum()

    return loss_and_gradients(SHALLOW, blocks)


@pytest.mark.parametrize("remat", [None, "nothing_saveable"])
def test_scan_and_remat_leave_values_and_gradients_as_they_are(remat):
    got = loss_and_gradients(dataclasses.replace(SHALLOW, remat=remat), scanned)
    assert_close(got, plain(), 2e-5)


def test_remat_keeps_less_the_more_it_recomputes():
    def kept(remat):
        config = dataclasses.replace(SHALLOW, remat=remat)
        params = jax.eval_shape(Regressor(config).init, jax.random.key(0), VECTORS)["params"]
        pullback = jax.eval_shape(lambda p: jax.vjp(functools.partial(scanned, config), p)[1], params)
        return sum(leaf.size for leaf in jax.tree.leaves(pullback))

    assert kept("nothing_saveable") < kept("dots_saveable") < kept(None)
    assert kept("nothing_saveable") < kept(None) / 3


def inner_jaxprs(equation):
    values = jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns"))
    return [getattr(v, "jaxpr", v) for v in values if hasattr(v, "eqns") or hasattr(v, "jaxpr")]


def count_equations(jaxpr):
    """Equations of a jaxpr and of all jaxprs inside it."""
    return len(jaxpr.eqns) + sum(count_equations(inner) for e in jaxpr.eqns for inner in inner_jaxprs(e))


def test_remat_outside_of_the_scan_is_kept_from_common_subexpression_elimination():
    # Inside of a scan the loops keep forward and recomputation apart; outside XLA would merge the two again.
    def remats(jaxpr, in_scan=False):
        for e in jaxpr.eqns:
            if "prevent_cse" in e.params:
                yield in_scan, e.params["prevent_cse"]
            for inner in inner_jaxprs(e):
                yield from remats(inner, in_scan or e.primitive.name == "scan")

    config = dataclasses.replace(SHALLOW, remat="nothing_saveable")
    params = jax.eval_shape(Regressor(config).init, jax.random.key(0), VECTORS)["params"]
    found = list(remats(jax.make_jaxpr(functools.partial(scanned, config))(params).jaxpr))
    assert {in_scan for in_scan, _ in found} == {True, False}
    assert all(prevent_cse for in_scan, prevent_cse in found if not in_scan)


def test_program_size_does_not_depend_on_depth():
    def sizes(num_layers):
        model = LanguageModel(dataclasses.replace(MODELS["tied"], num_layers=num_layers))
        tokens = jax.ShapeDtypeStruct((2, 8), jnp.int32)
        params = jax.eval_shape(model.init, jax.random.key(0), tokens)

        def loss(params, tokens, state):
            return model.apply(params, tokens, state)[0].sum()

        traced = jax.jit(jax.value_and_grad(loss)).trace(params, tokens, jax.eval_shape(lambda: model.init_state(2)))
        # The jaxpr, and what XLA is given: a scan may still be unrolled on the way to it.
        return count_equations(traced.jaxpr.jaxpr), len(traced.lower().as_text().splitlines())

    assert sizes(12) == sizes(3)


def test_layers_of_one_scan_start_with_different_parameters():
    _, params, _ = build("tied")
    for path, leaf in jax.tree_util.tree_leaves_with_path(params["params"]["backbone"]["groups"]):
        name = jax.tree_util.keystr(path)
        assert leaf.shape[0] == 2, name
        constant = any(word in name for word in ("norm", "bias"))
        assert constant or (leaf[0] != leaf[1]).any(), f"{name} starts the same in both groups"


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


def test_regressor_goes_on_from_its_state_and_sees_no_later_input():
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


def test_description_adds_up_for_arrays_plans_and_shards():
    params = {
        "layer": {"kernel": jnp.zeros((16, 3)), "scale": jnp.zeros((), jnp.bfloat16)},
        "steps": jnp.zeros((2000,), jnp.int32),
    }
    text = describe(params)
    header, rule, *rows, last_rule, totals = text.splitlines()
    assert header.split() == ["path", "shape", "dtype", "sharding", "bytes"]
    assert set(rule) == set(last_rule) == {"-"}
    assert [row.split() for row in rows] == [
        ["layer/kernel", "16x3", "float32", "192"],
        ["layer/scale", "scalar", "bfloat16", "2"],
        ["steps", "2000", "int32", "8,000"],
    ]
    assert len({len(row) for row in rows}) == 1  # bytes are aligned to the right
    assert totals == "2,049 parameters, 8,194 bytes, 8,194 bytes on each device"
    assert describe(jax.eval_shape(lambda: params)) == text

    mesh = jax.make_mesh((4, 2), ("data", "fsdp"))
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None))
    params["layer"]["kernel"] = jax.device_put(params["layer"]["kernel"], sharding)
    text = describe(params)
    assert "(('data', 'fsdp'), None)" in text
    assert text.endswith("2,049 parameters, 8,194 bytes, 8,026 bytes on each device")
    plan = {
        **params,
        "layer": {**params["layer"], "kernel": jax.ShapeDtypeStruct((16, 3), jnp.float32, sharding=sharding)},
    }
    assert describe(plan) == text
    assert describe({"key": jax.random.key(0)}).endswith("1 parameters, 8 bytes, 8 bytes on each device")


def test_description_of_a_model_counts_every_parameter():
    _, params, _ = build("untied")
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    text = describe(params)
    assert text.endswith(f"{count:,} parameters, {4 * count:,} bytes, {4 * count:,} bytes on each device")
    assert "params/backbone/groups/1_lru/mixer/nu_log" in text
    assert len(text.splitlines()) == len(jax.tree.leaves(params)) + 4


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
