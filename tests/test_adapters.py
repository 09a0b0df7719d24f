"""Adapters: what they declare, that they change nothing at first, and that runs train, save and load them alone."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval.__main__ import main as evaluate
from recurrax import adapters, mixers
from recurrax.adapters import ADAPTER, Adapted, InitialState, LoRA
from recurrax.models import (
    LanguageModel,
    LanguageModelConfig,
    parameters,
    select_rows,
    where_rows,
)
from recurrax.parameters import flat
from runs import flags, metrics, saved_state, small
from train import loop
from train.__main__ import main
from train.starts import Run
from train.state import declarations, trained_declarations

MIXED = LanguageModelConfig(
    vocab_size=11,
    dim=16,
    num_layers=4,
    first=(mixers.GLA(num_heads=2),),
    pattern=(mixers.LRU(state_dim=4), mixers.Attention(num_heads=2, max_length=32)),
    last=(mixers.RGLRU(num_heads=2),),
    projection=None,
)
KINDS = (LoRA(rank=2), LoRA(rank=1, alpha=3.0, targets=("*/mixer/*kernel", "embedding")), InitialState())


@pytest.fixture(scope="module")
def model():
    model = LanguageModel(MIXED)
    tokens = jax.random.randint(jax.random.key(1), (3, 8), 0, 11)
    return model, jax.jit(model.init)(jax.random.key(0), tokens)["params"], tokens


@functools.partial(jax.jit, static_argnums=0)
def apply(model, params, tokens, state=None, reset=None):
    """model.apply, compiled once for each model and adapter."""
    return model.apply({"params": params}, tokens, state, reset=reset)


def own_of(adapter, seed=None):
    """The adapter's first parameters, or random ones."""
    own = adapter.init(jax.random.key(5), MIXED, parameters(MIXED))
    if seed is None:
        return own
    leaves, treedef = jax.tree.flatten(own)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return treedef.unflatten([0.3 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)])


@pytest.mark.parametrize("adapter", KINDS, ids=str)
def test_new_adapter_changes_nothing(model, adapter):
    model, params, tokens = model
    reset = jnp.zeros(tokens.shape, bool).at[:, 0].set(True)
    plain, _ = apply(model, params, tokens, reset=reset)
    own = own_of(adapter)
    assert {path: leaf.shape for path, leaf in flat(own).items()} == {
        path: parameter.shape for path, parameter in adapter.declare(MIXED, parameters(MIXED)).items()
    }
    logits, _ = apply(Adapted(model, adapter), {**params, ADAPTER: own}, tokens, reset=reset)
    np.testing.assert_allclose(logits, plain, atol=1e-6)


def test_lora_adds_products_of_low_rank(model):
    """The adapted model is the model with W + (alpha / rank) A B, layer by layer, and nothing else is changed."""
    model, params, tokens = model
    adapter, own = KINDS[1], own_of(KINDS[1], 7)
    changed = dict(flat(params))
    targets = {path.rpartition("/")[0] for path in flat(own)}
    assert "embedding" in targets
    assert all("/mixer/" in path or path == "embedding" for path in targets)
    for path in targets:
        a, b = (np.asarray(flat(own)[f"{path}/{name}"], np.float64) for name in "ab")
        changed[path] = changed[path] + 3.0 * np.einsum("...nr,...rm->...nm", a, b)
    variables = {"params": {**params, ADAPTER: own}}
    merged = adapters.merge(adapter, MIXED, variables["params"])
    for path, leaf in flat(merged).items():
        np.testing.assert_allclose(leaf, changed[path], rtol=1e-5, atol=1e-6)
    reset = jnp.zeros(tokens.shape, bool)
    logits, _ = apply(Adapted(model, adapter), variables["params"], tokens, reset=reset)
    np.testing.assert_allclose(logits, apply(model, merged, tokens, reset=reset)[0], atol=1e-6)


def test_start_state_is_of_every_layer_but_attention(model):
    """Documents start from it: at a reset of the first step, and where there is no state; else the state goes on."""
    model, params, tokens = model
    adapter, own = InitialState(), own_of(InitialState(), 8)
    assert {path.split("/")[1] for path in flat(own)} == {"0_gla", "0_lru", "0_rglru"}
    variables, adapted = {"params": {**params, ADAPTER: own}}, Adapted(model, adapter)
    start = adapters.materialise(adapter, MIXED, variables["params"]).start
    for leaf in jax.tree.leaves(start["groups"]):
        assert leaf.shape[:2] == (1, 1)
    assert any(np.iscomplexobj(leaf) for leaf in jax.tree.leaves(start))
    expected, _ = apply(model, params, tokens, select_rows(start, [0, 0, 0]))
    first, state = apply(adapted, variables["params"], tokens[:, :4])
    none = jnp.zeros((3, 4), bool)
    second, _ = apply(adapted, variables["params"], tokens[:, 4:], state, none)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), expected, atol=1e-5)
    third, _ = apply(adapted, variables["params"], tokens[:, 4:], state, none.at[1, 0].set(True))
    alone, _ = apply(adapted, variables["params"], tokens[:, 4:])
    np.testing.assert_allclose(third, second.at[1].set(alone[1]), atol=1e-5)
    assert np.abs(third - second)[1].max() > 1e-3
    with pytest.raises(ValueError, match="cannot be merged into parameters"):
        adapters.merge(adapter, MIXED, variables["params"])


def test_rows_of_states_are_selected_everywhere(model):
    """Rows of every leaf, stacked or not: the selected rows go on as they would have."""
    model, params, tokens = model
    _, state = apply(model, params, tokens)
    chosen = select_rows(state, jnp.asarray([2, 0]))
    whole, _ = apply(model, params, tokens, state)
    order = jnp.asarray([1, 2, 0])
    rows, _ = apply(model, params, tokens[order], select_rows(state, order))
    np.testing.assert_allclose(rows, whole[order], atol=1e-6)
    twice = where_rows(jnp.asarray([True, False]), chosen, select_rows(state, [1, 1]))
    for got, want in zip(jax.tree.leaves(twice), jax.tree.leaves(select_rows(state, [2, 1])), strict=True):
        np.testing.assert_array_equal(got, want)
    for wrong in ([3], [-1, 0]):
        with pytest.raises(ValueError, match=r"indices must be in \[0, 3\)"):
            select_rows(state, wrong)


@pytest.mark.parametrize("adapter", KINDS, ids=str)
def test_saved_adapter_is_loaded(adapter, tmp_path):
    own = own_of(adapter, 9)
    adapters.save(tmp_path / "a.npz", adapter, own)
    kind, loaded = adapters.load(tmp_path / "a.npz")
    assert kind == adapter
    assert {p: leaf.tobytes() for p, leaf in flat(loaded).items()} == {
        p: np.asarray(leaf).tobytes() for p, leaf in flat(own).items()
    }
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"a\.npz is damaged, or no adapter"):
        adapters.load(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("adapter", "config", "message"),
    [
        (LoRA(targets=("*/nothing/*",)), MIXED, "adapter.targets: '\\*/nothing/\\*' matches no parameter"),
        (LoRA(targets=("vector",)), MIXED, "which is no matrix"),
        (
            InitialState(),
            LanguageModelConfig(num_layers=1, pattern=(mixers.Attention(),), projection=None),
            "no layer of this model has a state",
        ),
    ],
)
def test_adapter_of_what_is_not_there_is_refused(adapter, config, message):
    with pytest.raises(ValueError, match=message):
        adapter.declare(config, parameters(config))
    with pytest.raises(ValueError, match="rank must be positive"):
        LoRA(rank=0)


RUNS = {
    "LoRA": ("LoRA(rank=2)", []),
    "InitialState": ("InitialState()", ["--data.no-packed"]),
}


@pytest.mark.usefixtures("compiled_once")
@pytest.mark.parametrize("kind", RUNS)
def test_run_trains_an_adapter_alone(kind, text, small_run, tmp_path, capsys):
    """The model keeps its bits, the run resumes to the bit, and the file is loaded into the model by `generate`."""
    adapter, more = RUNS[kind]
    words = [
        "tiny",
        *flags(text, steps=6, optimizer__learning_rate=0.05),
        "--start",
        f"Run({str(small_run)!r})",
        "--adapter",
        adapter,
    ]
    words += more
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    assert main([*words, "--workdir", str(whole)]) == 0
    assert f"parameters are trained: {ADAPTER}/*" in capsys.readouterr().out
    assert main([*words, "--steps", "3", "--workdir", str(pieces)]) == 0
    assert main([*words, "--workdir", str(pieces)]) == 0
    saved, base = saved_state(whole), saved_state(small_run)
    assert saved_state(pieces) == saved
    for name, value in base.items():
        if name.startswith("params/"):
            assert saved[name] == value
    assert (whole / "adapter.npz").read_bytes() == (pieces / "adapter.npz").read_bytes()
    assert (whole / "adapter.npz").stat().st_size < 50_000
    read, own = adapters.load(whole / "adapter.npz")
    for path, leaf in flat(own).items():
        assert saved[f"params/{ADAPTER}/{path}"][2] == leaf.tobytes()
    capsys.readouterr()
    sample = ["--prompt", "ab", "--tokens", "32", "--temperature", "0"]
    said = []
    for source in (["--workdir", str(whole)], ["--workdir", str(small_run), "--adapter", str(whole / "adapter.npz")]):
        assert evaluate(["generate", *source, *sample]) == 0
        said.append(capsys.readouterr().out.partition("\n\n[")[0])
    assert said[0] == said[1]
    assert evaluate(["perplexity", "--workdir", str(whole)]) == 0
    bits = metrics(whole)[-1]
    assert "bits per byte" in capsys.readouterr().out
    assert "validation_loss" in bits


@pytest.mark.usefixtures("compiled_once")
def test_run_starts_from_a_run_with_an_adapter(text, small_run, tmp_path):
    """From LoRA with its products added; a start state cannot be taken over and is refused."""
    config = small(text, steps=2, start=Run(str(small_run)), adapter=LoRA(rank=2))
    loop.train(config, str(tmp_path / "lora"))
    own = json.loads((tmp_path / "lora" / "config.json").read_text())
    assert own["adapter"]["type"] == "recurrax.adapters.LoRA"
    start = Run(str(tmp_path / "lora")).arrays(declarations(small(text)))
    saved = saved_state(tmp_path / "lora")
    assert any(start[path].tobytes() != saved[f"params/{path}"][2] for path in start)
    states = dataclasses.replace(config, adapter=InitialState(), data=dataclasses.replace(config.data, packed=False))
    loop.train(states, str(tmp_path / "states"))
    with pytest.raises(ValueError, match="cannot be merged into parameters"):
        Run(str(tmp_path / "states")).arrays(declarations(small(text)))


def test_settings_of_adapters_are_checked(text):
    with pytest.raises(ValueError, match=r"must begin a row: set data\.packed to False"):
        declarations(small(text, adapter=InitialState()))
    config = small(text, adapter=LoRA(rank=2))
    assert all(path.startswith(f"{ADAPTER}/") for path in trained_declarations(config))
    both = dataclasses.replace(config, train=(f"{ADAPTER}/*", "embedding"))
    assert "embedding" in trained_declarations(both)
