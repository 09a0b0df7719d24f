"""A chunk of no tokens or a batch of no rows is refused by every op, layer and model, which name it and its shape."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_cases import DIM, MIXERS
from recurrax import ops
from recurrax.mixers import RGLRU
from recurrax.models import (
    Classifier,
    ClassifierConfig,
    LanguageModel,
    LanguageModelConfig,
    Regressor,
    RegressorConfig,
    generate,
    prefill,
)
from recurrax.projections import GLU, MLP, MixtureOfExperts

one_of_each = pytest.mark.parametrize("name", {type(case.config): name for name, case in MIXERS.items()}.values())
every_shape = pytest.mark.parametrize("shape", [(2, 0), (0, 3)])


def refuses(name, shape):
    return pytest.raises(ValueError, match=f"{name} must .*{re.escape(str(shape))}")


def numbers(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@one_of_each
@every_shape
def test_mixer_refuses_empty_inputs(name, shape):
    config = MIXERS[name].config
    layer, x = config.layer(DIM), numbers(*shape, DIM)
    params = jax.eval_shape(layer.init, jax.random.key(0), numbers(2, 3, DIM))
    for state in (None, jax.eval_shape(lambda: layer.init_state(shape[0]))):
        with refuses("x", x.shape):
            jax.eval_shape(layer.apply, params, x, state)
        with refuses("x", x.shape):
            jax.eval_shape(lambda params, x, s: layer.function(params, x, s, config), params["params"], x, state)


@pytest.mark.parametrize("config", [MLP(), GLU(), MixtureOfExperts()])
@every_shape
def test_projection_refuses_empty_inputs(config, shape):
    layer, x = config.layer(DIM), numbers(*shape, DIM)
    params = jax.eval_shape(layer.init, jax.random.key(0), numbers(2, 3, DIM))
    with refuses("x", x.shape):
        jax.eval_shape(layer.apply, params, x)


OPS = {
    "diagonal_scan": lambda x: ops.diagonal_scan(x, x),
    "causal_conv1d": lambda x: ops.causal_conv1d(x, jnp.ones((4, DIM))),
    "long_convolution": lambda x: ops.long_convolution(x, jnp.ones((DIM, 4))),
    "selective_scan": lambda x: ops.selective_scan(x, x, -jnp.ones((DIM, 2)), x[..., :2], x[..., :2]),
    "state_space": lambda x: ops.state_space(x, -jnp.ones((DIM, 2)), jnp.ones((DIM, 2)), jnp.ones((DIM, 1, 2))),
    "linear": lambda x: ops.linear(x, jnp.ones((DIM, 2))),
    "contract": lambda x: ops.contract("btd,de->bte", x, jnp.ones((DIM, 2))),
    "scale": lambda x: ops.scale(x, jnp.ones(DIM)),
    "shift": lambda x: ops.shift(x, jnp.ones(DIM)),
}
HEADS = {
    "linear_attention": lambda v: ops.linear_attention(v, v, v),
    "delta_rule": lambda v: ops.delta_rule(v, v, v, v[..., 0]),
    "delta_product": lambda v: ops.delta_product(v, v[:, :, None], v[:, :, None], v[:, :, None, :, 0]),
    "dplr_rule": lambda v: ops.dplr_rule(v, v, v, v, v, None),
}


@pytest.mark.parametrize("name", OPS | HEADS)
@every_shape
def test_op_refuses_empty_inputs(name, shape):
    if name in OPS:
        with refuses("x", (*shape, DIM)):
            jax.eval_shape(OPS[name], numbers(*shape, DIM))
    else:
        of_values = (*shape, 1, 2, 4) if name == "delta_product" else (*shape, 2, 4)
        with refuses("v", of_values):
            jax.eval_shape(HEADS[name], numbers(*shape, 2, 4))


SHAPE = {"dim": DIM, "num_layers": 1, "pattern": (RGLRU(num_heads=2),)}
MODELS = {
    "tokens": LanguageModel(LanguageModelConfig(**SHAPE, vocab_size=7)),
    "inputs": Classifier(ClassifierConfig(**SHAPE)),
    "inputs of tokens": Regressor(RegressorConfig(**SHAPE, vocab_size=7)),
}


@pytest.mark.parametrize("name", MODELS)
@every_shape
def test_model_refuses_empty_inputs(name, shape):
    model = MODELS[name]

    def inputs(*shape):
        return numbers(*shape, 3) if name == "inputs" else jax.ShapeDtypeStruct(shape, jnp.int32)

    params = jax.eval_shape(model.init, jax.random.key(0), inputs(2, 3))
    for state in (None, jax.eval_shape(lambda: model.init_state(shape[0]))):
        with refuses(name.split()[0], inputs(*shape).shape):
            jax.eval_shape(model.apply, params, inputs(*shape), state)


def test_generation_refuses_empty_prompts_and_batches():
    model = MODELS["tokens"]
    params = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 1), np.int32))
    for shape in ((2, 0), (0, 3)):
        with refuses("tokens", shape):
            jax.eval_shape(functools.partial(prefill, model), params, jax.ShapeDtypeStruct(shape, jnp.int32))
    with refuses("logits", (0, 7)):
        generated = functools.partial(generate, model, num_tokens=3)
        jax.eval_shape(generated, params, numbers(0, 7), model.init_state(0), jax.random.key(0))
