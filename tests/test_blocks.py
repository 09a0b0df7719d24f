"""Blocks that differ: orders, weights, projections of their own, what stands before and after the pattern, norms."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrax.mixers import LRU, RWKV7, Attention, rwkv7, rwkv7_value
from recurrax.models import BlockConfig, LanguageModel, LanguageModelConfig
from recurrax.projections import GLU, ChannelMix

RANKS = {"decay_rank": 2, "rate_rank": 3, "gate_rank": 4}
FIRST = RWKV7(num_heads=2, **RANKS)
LATER = RWKV7(num_heads=2, value_residual=True, value_rank=5, **RANKS)
BARE = BlockConfig(LRU(state_dim=6), None, "post_norm", mixer_weights=(0.5, 2.0))
LAST = BlockConfig(LRU(state_dim=4), GLU(hidden=5, bias=True), "normed_residual", (0.75, 1.5), (2.0, 0.25))
CONFIG = LanguageModelConfig(
    vocab_size=11,
    dim=8,
    num_layers=6,
    first=(FIRST,),
    pattern=(LATER, BARE),
    last=(LAST,),
    projection=ChannelMix(hidden=7),
    norm="layer",
    norm_eps=1e-3,
    embedding_scale=0.7,
    embedding_norm=True,
    logit_soft_cap=1.5,
    tied_head=False,
)
TOKENS = np.random.default_rng(0).integers(0, 11, (2, 9)).astype(np.int32)


def build(config):
    """The model, and parameters away from where they start."""
    model = LanguageModel(config)
    shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
    rng = np.random.default_rng(1)
    return model, jax.tree.map(lambda leaf: jnp.asarray(0.4 * rng.standard_normal(leaf.shape), leaf.dtype), shapes)


def layer_norm(params, x):
    x = np.asarray(x, np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + CONFIG.norm_eps)
    return x * np.asarray(params["scale"]) + np.asarray(params["bias"])


def by_hand(params):
    """The logits: every sum and norm in float64, and the layers' own functions for what is between."""
    params = params["params"]
    backbone = params["backbone"]
    x = layer_norm(params["embedding_norm"], 0.7 * np.asarray(params["embedding"])[TOKENS])
    blocks = [(FIRST, backbone["first"]["0_rwkv7"])]
    for i in range(2):
        group = jax.tree.map(lambda leaf, i=i: leaf[i], backbone["groups"])
        blocks += [(LATER, group["0_rwkv7"]), (BARE, group["1_lru"])]
    first_value = None
    for mixer, block in blocks:
        own = block["mixer"]
        if mixer is BARE:
            y, _ = mixer.mixer.layer(8).apply({"params": own}, jnp.float32(x))
            x = 0.5 * x + 2 * layer_norm(block["mixer_norm"], y)
            continue
        normed = jnp.float32(layer_norm(block["mixer_norm"], x))
        y, _ = rwkv7(own, normed, None, mixer, first_value=first_value)
        if mixer is FIRST:
            first_value = rwkv7_value(own, normed, None)
        x = x + np.asarray(y)
        y, _ = CONFIG.projection.layer(8).apply(
            {"params": block["projection"]}, jnp.float32(layer_norm(block["projection_norm"], x))
        )
        x = x + np.asarray(y)
    block = backbone["rest"]["0_lru"]
    n = layer_norm(block["mixer_norm"], x)
    y, _ = LAST.mixer.layer(8).apply({"params": block["mixer"]}, jnp.float32(n))
    n = layer_norm(block["projection_norm"], 0.75 * n + 1.5 * np.asarray(y))
    own = {name: np.asarray(leaf, np.float64) for name, leaf in block["projection"].items()}
    hidden = np.asarray(jax.nn.gelu(n @ own["in_gate"] + own["bias_gate"])) * (n @ own["in_kernel"] + own["bias_in"])
    x = layer_norm(backbone["norm"], 2 * n + 0.25 * (hidden @ own["out_kernel"] + own["bias_out"]))
    return 1.5 * np.tanh(x @ np.asarray(params["out_kernel"]) / 1.5)


def test_block_matches_its_formula_and_continues():
    """Every kind of block computes its formula and continues from its state."""
    model, params = build(CONFIG)
    apply = jax.jit(model.apply)
    logits, state = apply(params, TOKENS)
    np.testing.assert_allclose(logits, by_hand(params), atol=2e-5)
    assert params["params"]["backbone"]["groups"]["1_lru"].keys() == {"mixer_norm", "mixer"}

    between = model.init_state(2)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, between)
    for part in (slice(0, 3), slice(3, 6), slice(6, 9)):
        piece, between = apply(params, TOKENS[:, part], between)
        np.testing.assert_allclose(piece, logits[:, part], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), between, state)


def test_a_norm_without_a_scale_has_no_parameters():
    config = LanguageModelConfig(dim=8, num_layers=1, pattern=(LRU(state_dim=4),), norm="simple_rms")
    shapes = jax.eval_shape(LanguageModel(config).init, jax.random.key(0), TOKENS)
    assert shapes["params"]["backbone"].keys() == {"groups"}
    assert shapes["params"]["backbone"]["groups"]["0_lru"].keys() == {"mixer", "projection"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BlockConfig("lru"), "mixer must be the config of a layer, .* got 'lru'"),
        (lambda: BlockConfig(LRU(), "glu"), "projection must be the config of a layer, .*None, got 'glu'"),
        (lambda: BlockConfig(LRU(), order="pre"), "unknown order 'pre'.*; choose one of pre_norm, post_norm"),
        (lambda: LanguageModelConfig(norm="rmsnorm"), r"unknown norm 'rmsnorm' \(did you mean 'rms'\?\)"),
        (lambda: LanguageModelConfig(norm_eps=0.0), "norm_eps must be positive, got 0"),
        (lambda: LanguageModelConfig(embedding_scale=-1.0), "embedding_scale must be positive, got -1"),
        (lambda: LanguageModelConfig(first=("lru",)), "first must be a tuple of mixer or block configs"),
        (lambda: LanguageModelConfig(num_layers=2, first=3 * (LRU(),)), "num_layers 2 is less than the 3 blocks"),
        (lambda: LanguageModelConfig(pattern=(LATER,)), r"uses a value residual.*first=\(RWKV7\(\),\)"),
        (
            lambda: LanguageModelConfig(dim=12, num_layers=2, last=(Attention(num_heads=5),)),
            "dim 12 is not divisible by num_heads 5",
        ),
    ],
)
def test_bad_blocks_are_refused(make, message, unchecked_shapes):
    """Blocks that cannot work are refused with the reason."""
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        make()
