"""Softmax attention on TPUs, by a kernel that holds no scores: its values and gradients, where it runs, how often."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrax.mixers import Attention, flash, softmax
from recurrax.models import LanguageModel, LanguageModelConfig
from recurrax.ops import platforms
from support.numerics import draw, relative_error


@pytest.mark.parametrize(("window", "queries"), [(None, 2), (100, 4)])
def test_flash_attention_is_attention_with_scores(window, queries):
    """Values and gradients of the kernel are those of the masked product, in documents that start anywhere."""
    length = 256
    shapes = [(2, length, heads, 32) for heads in (queries, 2, 2, queries)]
    q, k, v, g = (jnp.asarray(draw(*shape, seed=i), jnp.bfloat16) for i, shape in enumerate(shapes))
    reset = np.zeros((2, length), bool)
    reset[0, [0, 3, 128, 200]] = True
    document = jnp.cumsum(reset, 1)
    seen = softmax.Seen(0, (document[:, None] == document[:, :, None])[:, None], document)
    assert flash.takes(q, k)

    def values_and_gradients(run, *arrays):
        o, pullback = jax.vjp(run, *arrays)
        return o, *pullback(g.astype(o.dtype))

    def flashed(q, k, v):
        return flash.attend(q, k, v, document, window, 0.25, interpret=True)

    def exact(q, k, v):
        return softmax.attend(q, k, v, seen, window, 0.25)

    got = jax.jit(functools.partial(values_and_gradients, flashed))(q, k, v)
    want = jax.jit(functools.partial(values_and_gradients, exact))(*(x.astype(jnp.float32) for x in (q, k, v)))
    for each, truth in zip(got, want, strict=True):
        assert relative_error(each, truth) <= 1e-2


def test_attention_holds_no_scores_on_a_tpu():
    """In a program for a TPU whole sequences of attention run in the kernel, in bfloat16 and lengths that it takes."""
    layer = Attention(num_heads=2, window=64).layer(32, jnp.bfloat16)
    params = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 2, 32), jnp.bfloat16))
    for length, dtype, kernel in ((256, jnp.bfloat16, True), (256, jnp.float32, False), (130, jnp.bfloat16, False)):
        with platforms.on("tpu"):
            text = str(jax.make_jaxpr(layer.apply)(params, jax.ShapeDtypeStruct((1, length, 32), dtype)))
        assert ("pallas_call" in text) == kernel
        assert (f"[1,2,{length},{length}]" in text.replace("1,1,2,", "1,2,")) == (not kernel)


def test_rematerialised_attention_runs_its_kernel_once():
    """What the backward pass needs of the forward kernel is held, whatever else is computed again."""
    shape = {"vocab_size": 16, "dim": 32, "num_layers": 2, "pattern": (Attention(num_heads=2),)}
    config = LanguageModelConfig(dtype="bfloat16", remat="nothing_saveable", **shape)
    model, tokens = LanguageModel(config), jnp.zeros((1, 256), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens)
    with platforms.on("tpu"):
        traced = jax.jit(jax.grad(lambda params: model.apply(params, tokens)[0].sum())).trace(params)
        text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count('kernel_name = "splash_mha_fwd') == 1
