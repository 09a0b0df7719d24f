"""Mixed precision: products of bfloat16 factors, and gradients of matrices in the dtype that the policy says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from matrix_ops import ops_by_definition
from recurrax.mixers import GLA, LRU, RGLRU, Attention, LatentAttention
from recurrax.models import LanguageModel, LanguageModelConfig, parameters
from recurrax.ops import contract, linear, scale, shift
from train.config import TrainConfig
from train.data import VOCAB_SIZE, DataConfig
from train.plan import make_plan
from train.precision import PrecisionConfig, for_products
from train.sharding import MeshConfig

HALF = jnp.bfloat16


def draw(*shape, dtype=np.float32, seed=0):
    return jnp.asarray(np.random.default_rng((seed, *shape)).standard_normal(shape), dtype)


def is_half(x):
    """Whether bfloat16 has all of these numbers."""
    return bool((x == x.astype(HALF)).all())


def error(got, want):
    return np.linalg.norm(np.asarray(got, np.float64) - want) / np.linalg.norm(want)


def test_product_dtype_is_that_of_its_factors():
    """Products have the dtype of their factors; the gradients of matrices are not rounded to it."""
    x, kernel, dy = draw(3, 40, 16, dtype=HALF), draw(16, 8), draw(3, 40, 8, dtype=HALF)
    y, back = jax.vjp(linear, x, kernel)
    dx, dkernel = back(dy)
    assert (y.dtype, dx.dtype, dkernel.dtype) == (HALF, HALF, jnp.float32)
    wide_x, wide_kernel, wide_dy = (np.asarray(v, np.float64) for v in (x, kernel.astype(HALF), dy))
    assert error(y, wide_x @ wide_kernel) < 3e-3
    assert error(dx, wide_dy @ wide_kernel.T) < 3e-3
    assert error(dkernel, np.einsum("btd,bte->de", wide_x, wide_dy)) < 1e-6


@pytest.mark.parametrize("spec", ["bthk,chk->bthc", "bsc,chk->bshk", "btd,dv->btv"])
def test_any_contraction_with_a_matrix(spec):
    sizes = dict(zip("bthkcsdv", (2, 5, 3, 4, 6, 7, 8, 9), strict=True))
    of_x, of_kernel, of_y = (tuple(sizes[letter] for letter in part) for part in spec.replace("->", ",").split(","))
    x, kernel, dy = draw(*of_x, dtype=HALF), draw(*of_kernel), draw(*of_y)
    y, back = jax.vjp(lambda x, kernel: contract(spec, x, kernel, jnp.float32), x, kernel)
    dx, dkernel = back(dy)
    assert (y.dtype, dx.dtype, dkernel.dtype) == (jnp.float32, HALF, jnp.float32)
    wide_x, wide_kernel, wide_dy = (np.asarray(v.astype(HALF), np.float64) for v in (x, kernel, dy))
    letters_x, letters_kernel, letters_y = spec.replace("->", ",").split(",")
    assert error(y, np.einsum(spec, wide_x, wide_kernel)) < 1e-6
    assert error(dx, np.einsum(f"{letters_y},{letters_kernel}->{letters_x}", wide_dy, wide_kernel)) < 3e-3
    assert error(dkernel, np.einsum(f"{letters_x},{letters_y}->{letters_kernel}", wide_x, wide_dy)) < 1e-6


def test_scales_and_shifts():
    x, vector, dy = draw(3, 40, 2, 4, dtype=HALF), draw(2, 1), draw(3, 40, 2, 4, dtype=HALF)
    wide_x, wide_vector, wide_dy = (np.asarray(v.astype(HALF), np.float64) for v in (x, vector, dy))
    for function, want, want_dx, want_dvector in (
        (scale, wide_x * wide_vector, wide_dy * wide_vector, (wide_x * wide_dy)),
        (shift, wide_x + wide_vector, wide_dy, wide_dy),
    ):
        y, back = jax.vjp(function, x, vector)
        dx, dvector = back(dy)
        assert (y.dtype, dx.dtype, dvector.dtype) == (HALF, HALF, jnp.float32)
        assert error(y, want) < 3e-3
        assert error(dx, want_dx) < 3e-3
        assert error(dvector, want_dvector.sum((0, 1, 3))[:, None]) < 1e-6


@pytest.mark.parametrize("rows", [1, 100, 131_070])
def test_sums_over_many_tokens_keep_their_digits(rows):
    x, vector = np.random.default_rng(0).random((rows, 3), np.float32), np.ones(3, np.float32)
    for function, terms in ((scale, x), (shift, np.ones_like(x))):
        gradient = jax.jit(jax.grad(lambda v, f=function: (f(jnp.asarray(x), v) * x).sum()))(vector)
        assert error(gradient, (np.float64(terms) * x).sum(0)) < 1e-6


def test_product_in_one_dtype_is_the_plain_product():
    """In one dtype it is the plain product, in forward mode as well."""
    x, kernel = draw(2, 5, 4), draw(4, 3)
    y, dy = jax.jvp(lambda kernel: linear(x, kernel), (kernel,), (kernel,))
    np.testing.assert_array_equal(y, dy)


PATTERN = (GLA(num_heads=2), RGLRU(num_heads=2), LRU(), Attention(num_heads=2), LatentAttention(num_heads=2))


@pytest.fixture(scope="module")
def model():
    config = LanguageModelConfig(
        dim=16, num_layers=5, pattern=PATTERN, vocab_size=VOCAB_SIZE, dtype="bfloat16", tied_head=False
    )
    return config, jax.jit(LanguageModel(config).init)(jax.random.key(0), np.zeros((1, 1), np.int32))["params"]


@pytest.mark.parametrize("reduction", ["float32", "bfloat16"])
def test_matrix_gradients_follow_the_policy(model, reduction):
    """The gradients of all matrices are summed in the policy's dtype."""
    config, params = model
    declared = parameters(config)
    tokens = np.random.default_rng(0).integers(256, size=(2, 12))

    def loss(params):
        params = for_products(params, declared, PrecisionConfig(reduction))
        return jax.nn.log_softmax(LanguageModel(config).apply({"params": params}, tokens)[0])[..., 0].mean()

    with ops_by_definition():
        gradients = jax.jit(jax.grad(loss))(params)
    matrices = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert leaf.dtype == jnp.float32
        matrix = name.endswith("_kernel") or "/in_" in name or "/out_" in name
        # Taps, the gates of RG-LRU, which are computed in float32, and B of an LRU.
        exact = "conv_kernel" in name or "_gate_kernel" in name or "2_lru/mixer/in_" in name
        rounded = reduction == "bfloat16" and matrix and not exact
        matrices += rounded
        assert is_half(leaf) == rounded, name  # the embedding's, biases', the recurrences' own never are
    assert (matrices > 20) == (reduction == "bfloat16")


@pytest.mark.parametrize("reduction", ["float32", "bfloat16"])
def test_devices_send_each_other_gradients_in_that_dtype(reduction):
    model = LanguageModelConfig(
        vocab_size=VOCAB_SIZE, dim=64, num_layers=2, pattern=(Attention(),), dtype="bfloat16", tied_head=False
    )
    config = TrainConfig(
        model=model,
        data=DataConfig(sequence_length=64, batch_size=8),
        mesh=MeshConfig(data=1, fsdp=4),
        precision=PrecisionConfig(reduction),
    )
    sums = [c for c in make_plan(config).cost.collectives if c.kind in ("all-reduce", "reduce-scatter")]
    sent = {dtype: sum(c.payload for c in sums if c.dtype == dtype) for dtype in ("f32", "bf16")}
    embedding = 4 * model.vocab_size * model.dim
    if reduction == "float32":
        assert sent["bf16"] == 0
        assert sent["f32"] > 2 * embedding
    else:
        assert sent["f32"] < 1.5 * embedding
        assert sent["bf16"] > 0.5 * embedding


def test_rules_of_the_policy_are_checked():
    with pytest.raises(ValueError, match="precision.reduction='float16': choose one of float32, bfloat16"):
        PrecisionConfig("float16")
    with pytest.raises(ValueError, match="precision.reduction bfloat16 is less than model.dtype float32"):
        TrainConfig(precision=PrecisionConfig("bfloat16"))
