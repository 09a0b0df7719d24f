"""Layers and models under JAX's switches of number formats, and with parameters of half precision.

Every program here runs under strict dtype promotion; strict rank promotion is on in the whole suite (conftest.py).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from matrix_ops import ops_by_definition
from mixer_cases import DIM, MIXERS
from recurrax.layers import Depth
from recurrax.mixers import RGLRU, RWKV7, Attention
from recurrax.models import (
    BlockConfig,
    Classifier,
    ClassifierConfig,
    LanguageModel,
    LanguageModelConfig,
    Regressor,
    RegressorConfig,
    generate,
    prefill,
)
from recurrax.projections import GLU, MLP, ChannelMix, MixtureOfExperts
from support.numerics import draw
from train.precision import PrecisionConfig

BATCH, LENGTH, VOCABULARY = 2, 5, 7
# Sums of some 10 float32 terms, in another order where a compiler fuses the upcast of a parameter.
FLOAT32 = 2e-6
# One size for all: what is run op by op is compiled for each shape.
SIZES = {
    **{"num_heads": 2, "head_dim": 4, "value_head_dim": 4, "width": DIM, "hidden": DIM, "num_experts": 2},
    **{"state_dim": 4, "num_blocks": 1, "order": 4, "memory_channels": 2, "max_length": 8},
}


def sized(kind, **options):
    """Return a config of this class with the common sizes that it has fields for."""
    fields = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: size for name, size in SIZES.items() if name in fields}, **options)


EXPERTS = sized(MixtureOfExperts, shared_hidden=DIM, shared_gate=True, choice_bias=True)
CONFIGS = [sized(kind) for kind in {type(case.config): None for case in MIXERS.values()}]
LAYERS = {type(config).__name__: config.layer(DIM) for config in (*CONFIGS, sized(MLP), sized(GLU, bias=True), EXPERTS)}

BLOCK = BlockConfig(sized(RGLRU), sized(MLP), order="normed_residual", mixer_weights=(0.5, 2.0))
RWKV = {"pattern": (sized(RWKV7),), "projection": sized(ChannelMix), "norm": "layer", "embedding_norm": True}
MODELS = {
    "language model": LanguageModel(
        LanguageModelConfig(DIM, 2, (sized(RGLRU), sized(Attention)), vocab_size=VOCABULARY, logit_soft_cap=5.0)
    ),
    "language model with its own head": LanguageModel(
        LanguageModelConfig(DIM, 2, **RWKV, vocab_size=VOCABULARY, tied_head=False, remat="nothing_saveable")
    ),
    "classifier": Classifier(ClassifierConfig(DIM, 1, (BLOCK,), norm="simple_rms", num_classes=3)),
    "regressor": Regressor(RegressorConfig(DIM, 1, (sized(RGLRU),), vocab_size=VOCABULARY, pooling="last")),
}
MODULES = LAYERS | MODELS
every_module = pytest.mark.parametrize("name", MODULES)


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"), ops_by_definition():
        yield


def inputs(module, length=LENGTH):
    """Return tokens, or vectors, and a reset after the first of them in one row."""
    reset = np.zeros((BATCH, length), bool)
    reset[0, 1] = True
    if getattr(module.config, "vocab_size", None) is not None:
        return np.random.default_rng(0).integers(VOCABULARY, size=(BATCH, length)).astype(np.int32), reset
    return draw(BATCH, length, DIM), reset


def parameters(module):
    """Return random parameters, so that a forgotten bias would show; above 0, as stored decays are."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), inputs(module)[0])["params"]
    leaves, tree = jax.tree.flatten(shapes)
    return tree.unflatten([jnp.asarray(0.3 * np.abs(draw(*leaf.shape, seed=i))) for i, leaf in enumerate(leaves)])


def call(module, params, x, state=None, reset=None):
    """Return (y, state)."""
    return module.apply({"params": params}, x, state, reset=reset)


def every_use(module, params, x, reset):
    """Return the results for the whole sequence, for a chunk with a state, and for a scan over single tokens."""

    def step(state, inputs):
        y, state = call(module, params, inputs[0][:, None], state, inputs[1][:, None])
        return state, y

    whole = call(module, params, x, None, reset)
    chunk = call(module, params, x[:, :2], whole[1])
    last, steps = jax.lax.scan(step, module.init_state(BATCH), (x.swapaxes(0, 1), reset.swapaxes(0, 1)))
    return whole, chunk, (steps, last)


def total(tree):
    """Return the sum of all numbers, real and imaginary."""
    numbers = [leaf for leaf in jax.tree.leaves(tree) if leaf.dtype != bool]
    return sum(leaf.real.sum() + leaf.imag.sum() for leaf in numbers)


def dtypes(run, *arguments):
    """Return the dtypes of the function's results."""
    return jax.tree.map(lambda leaf: leaf.dtype, jax.eval_shape(run, *arguments))


def cast(tree, dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


@every_module
def test_dtypes_are_the_same_in_every_format(name):
    module = MODULES[name]
    params, (x, reset) = parameters(module), inputs(module)

    def run(params, x, reset):
        def loss(params):
            uses = every_use(module, params, x, reset)
            return total(uses[0]), uses

        return jax.grad(loss, has_aux=True)(params)

    uses = dtypes(functools.partial(every_use, module), params, x, reset)
    # Both at once, to trace one program less: whatever either of them changes is seen.
    full, half = (jax.tree.map(lambda _, d=d: jnp.dtype(d), params) for d in ("float32", "float16"))
    with jax.enable_x64(True):
        assert dtypes(run, cast(params, jnp.float16), x, reset) == (half, uses)
        assert dtypes(module.init, jax.random.key(0), x)["params"] == full


@functools.partial(jax.jit, static_argnums=0)
def whole(module, params, x, reset):
    return call(module, params, x, None, reset)


@every_module
def test_bfloat16_parameters_are_computed_with_in_float32(name):
    module = MODULES[name]
    params, (x, reset) = cast(parameters(module), jnp.bfloat16), inputs(module)
    got, want = (whole(module, tree, x, reset) for tree in (params, cast(params, jnp.float32)))
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        error = np.abs(np.asarray(a, complex) - np.asarray(b, complex)).max() / np.abs(b).max()
        assert error <= FLOAT32, f"{jax.tree_util.keystr(path)} is off by {error:.1e}"


def test_initializers_draw_the_same_numbers_with_x64():
    # LRU's gain starts from its eigenvalues, which it looks up.
    layers = [case.config.layer(DIM).bind({"params": {"nu_log": np.float32([-1])}}) for case in MIXERS.values()]
    tables = [layer.parameters(Depth(1, 4)) for layer in layers]
    shapes = {parameter.init: parameter.shape for table in tables for parameter in table.values()}

    @jax.jit
    def create(key):
        return [initializer(key, shape, jnp.float32) for initializer, shape in shapes.items()]

    want = jax.device_get(create(jax.random.key(0)))
    with jax.enable_x64(True):
        got = jax.device_get(create(jax.random.key(0)))
    for initializer, a, b in zip(shapes, got, want, strict=True):
        assert (a.dtype, a.tobytes()) == (np.dtype("float32"), b.tobytes()), initializer


def test_op_makes_no_nan_op_by_op():
    """No intermediate value is NaN in the layer that subtracts, divides and takes logarithms most.

    Op by op each primitive and shape is compiled by itself: all layers together would take minutes.
    """
    module = MODULES["MLSTM"]
    params, (x, reset) = parameters(module), inputs(module, 2)

    def loss(params, x):
        state = module.init_state(BATCH) if hasattr(module, "init_state") else None
        return total(call(module, params, x, state, reset))

    differentiated = (0, 1) if x.dtype == np.float32 else 0
    with jax.disable_jit(), jax.debug_nans(True):
        for values in (x, np.zeros_like(x)):
            results = jax.value_and_grad(loss, differentiated)(params, jnp.asarray(values))
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(results))


def test_generation_draws_the_same_int32_tokens_with_x64():
    model = MODELS["language model"]
    params, (prompt, _) = {"params": parameters(model)}, inputs(model)
    drawn = []
    for x64 in (False, True):
        with jax.enable_x64(x64), jax.debug_nans(True):
            logits, state = prefill(model, params, jnp.asarray(prompt))
            tokens, *_ = generate(
                model, params, logits, state, jax.random.key(0), 6, 1.0, 0.9, np.arange(VOCABULARY) > 0
            )
        assert tokens.dtype == jnp.int32
        drawn.append(tokens)
    np.testing.assert_array_equal(*drawn)
    assert len(np.unique(drawn)) > 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.dtype("bfloat16"), np.dtype(jnp.bfloat16)])
def test_config_takes_a_dtype_for_its_name(dtype):
    got, want = LanguageModelConfig(dtype=dtype), LanguageModelConfig(dtype="bfloat16")
    assert (got, hash(got), repr(got), dataclasses.asdict(got)) == (
        want,
        hash(want),
        repr(want),
        dataclasses.asdict(want),
    )
    assert PrecisionConfig(dtype) == PrecisionConfig("bfloat16")


def test_config_refuses_a_dtype_it_does_not_have():
    for dtype in (jnp.float16, "float16", jnp.float64, "half"):
        with pytest.raises(ValueError, match="unknown dtype .*; choose one of float32, bfloat16"):
            LanguageModelConfig(dtype=dtype)
