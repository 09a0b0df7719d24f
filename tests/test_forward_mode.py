"""Forward-mode differentiation: right inside of the context, refused by name outside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import matrix_ops
from recurrax import ops
from recurrax.mixers import GLA, RGLRU
from recurrax.models import LanguageModel, LanguageModelConfig
from recurrax.ops import forward_mode

pytestmark = pytest.mark.usefixtures("unchecked_shapes")

LENGTH = 7
RESET = np.zeros((1, LENGTH), bool)
RESET[0, 3] = True


def normal(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape)


def matrix_op(case, implementation):
    inputs = matrix_ops.draw(case, LENGTH, heads=1, key=3, value=2)

    def op(*values):
        named = dict(zip(inputs, values, strict=True))
        return matrix_ops.call(case, named, reset=RESET, implementation=implementation, chunk_size=4)

    return op, tuple(np.float64(x) for x in inputs.values())


def vector_op(op, implementation):
    x, state = normal(1, LENGTH, 2), normal(1, 2)
    system = (-np.abs(normal(2, 3)), normal(2, 3), normal(2, 1, 3))
    positional = {
        "diagonal_scan": (0.5 * normal(1, LENGTH, 2), x, state),
        "selective_scan": (x, np.abs(x), system[0], normal(1, LENGTH, 3), normal(1, LENGTH, 3), normal(1, 2, 3)),
        "state_space": (x, *system),
        "long_convolution": (x, normal(2, 3), normal(1, 2, 2)),
        "causal_conv1d": (x, normal(3, 2), normal(2), normal(1, 2, 2)),
    }[op]
    options = {} if implementation is None else {"implementation": implementation}
    options |= {} if op == "long_convolution" or implementation == "fft" else {"reset": RESET}
    return lambda *values: getattr(ops, op)(*values, **options), positional


CASES = {case: matrix_op(case, "xla") for case in matrix_ops.ONE_PER_OP}
FORMS = {
    "diagonal_scan": ("reference", "sequential", "associative", "chunked"),
    "selective_scan": ("reference", "chunked"),
    "state_space": ("chunked", "fft"),
    "long_convolution": (None,),
    "causal_conv1d": (None,),
}
CASES |= {f"{op}, {form}": vector_op(op, form) for op, forms in FORMS.items() for form in forms}


@pytest.mark.parametrize("case", CASES)
def test_forward_mode_matches_finite_differences(case):
    op, inputs = CASES[case]
    with jax.enable_x64(True), forward_mode():
        run = jax.jit(lambda *values: op(*values))
        order = 1 if case in matrix_ops.CASES and not case.startswith("delta rule") else 2
        check_grads(run, tuple(map(jnp.asarray, inputs)), order=order, modes=["fwd"], atol=1e-5, rtol=1e-5)


def model():
    pattern = (RGLRU(num_heads=2), GLA(num_heads=2))
    config = LanguageModelConfig(vocab_size=11, dim=8, num_layers=2, pattern=pattern)
    tokens = np.arange(LENGTH)[None] % 11
    params = jax.jit(LanguageModel(config).init)(jax.random.key(0), tokens)
    return lambda params: LanguageModel(config).apply(params, tokens)[0], params


def test_model_forward_mode_matches_its_gradient():
    """Forward mode through a model agrees with its gradient."""
    logits, params = model()
    direction = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape), params)
    weights = jnp.asarray(normal(1, LENGTH, 11), jnp.float32)

    @jax.jit
    def loss(params):
        return (weights * logits(params)).sum()

    gradient = jax.grad(loss)(params)  # by the ops' own backward passes; traced anew below
    want = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), gradient, direction)))
    with forward_mode():
        got = jax.jvp(loss, (params,), (direction,))[1]
    np.testing.assert_allclose(got, want, rtol=1e-4)
    with pytest.raises(TypeError, match=r"with recurrax\.ops\.forward_mode\(\)"):
        jax.jvp(loss, (params,), (direction,))


def test_forward_mode_of_half_precision_products():
    x, kernel = jnp.asarray(normal(1, LENGTH, 3), jnp.bfloat16), jnp.asarray(normal(3, 2), jnp.float32)

    def products(kernel):
        return ops.scale(ops.shift(ops.linear(x, kernel), kernel[0]), kernel[1])

    direction = jnp.asarray([[1, -2], [3, 1], [-1, 2]], jnp.float32)
    with forward_mode():
        tangent = jax.jvp(products, (kernel,), (direction,))[1]
    weights = jnp.cos(jnp.arange(tangent.size)).reshape(tangent.shape).astype(tangent.dtype)
    gradient = jax.vjp(products, kernel)[1](weights)[0]
    want = (gradient * direction).sum()
    np.testing.assert_allclose((weights * tangent).astype(jnp.float32).sum(), want, rtol=0.05)


@pytest.mark.parametrize("wrap", [jax.jacfwd, jax.hessian, lambda f: jax.linearize(f, jnp.ones((1, 4, 2)))[1]])
def test_forward_mode_outside_its_context_is_refused(wrap):
    def loss(x):
        return ops.diagonal_scan(0.5 * x, x)[0].sum()

    with pytest.raises(TypeError, match=r"jax\.jacfwd, jax\.hessian.* run it inside of `with recurrax\.ops\.forward"):
        wrap(loss)(jnp.ones((1, 4, 2)))
    assert jax.grad(loss)(jnp.ones((1, 4, 2))).shape == (1, 4, 2)
