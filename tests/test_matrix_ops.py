"""The chunked forms of the ops of matrix states: chunks, blocks, formats and memory. Their laws: test_op_laws.py."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from matrix_ops import (
    CASES,
    IMPLEMENTATIONS,
    ONE_PER_OP,
    STEPS,
    call,
    check,
    draw,
    evaluate,
    random_cotangents,
    wide,
)
from recurrax import ops
from recurrax.ops import blocks
from support.jaxprs import count_equations

every_case = pytest.mark.parametrize("case", CASES)
every_op = pytest.mark.parametrize("case", ONE_PER_OP)
every_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


@every_case
def test_chunks_and_blocks_match_the_oracle(case):
    """Two blocks, the second one short, chunks that no reset respects, grouped heads, K != V."""
    inputs = draw(case, 301, queries=2, key=16, value=12)
    reset = np.random.default_rng(2).uniform(size=(1, 301)) < 0.02
    check(case, inputs, reset=reset, implementation="xla", outputs=1e-6, gradients=2e-6)


@every_op
@pytest.mark.parametrize("length", [1, 7, 9])
def test_any_length_around_a_chunk(case, length):
    check(case, draw(case, length, batch=2), chunk_size=8, implementation="xla")


@every_op
def test_any_scale_and_chunks_of_one_token(case):
    inputs = draw(case, 24)
    check(case, inputs, chunk_size=1, scale=0.3, implementation="xla")


@every_op
def test_reset_forgets_a_huge_state(case):
    inputs = draw(case, 40)
    reset = np.arange(40)[None] % 8 == 0
    big = {**inputs, "state": 1e30 * inputs["state"]}
    run = jax.jit(functools.partial(call, case, chunk_size=16))
    o, last = run(big, reset=reset)
    pieces = [slice(start, start + 8) for start in range(0, 40, 8)]
    alone = [run({n: x[:, p] for n, x in inputs.items() if n != "state"}) for p in pieces]
    np.testing.assert_allclose(o, np.concatenate([piece[0] for piece in alone], 1), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(last, alone[-1][1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("case", "dtype", "rounding"),
    [*((case, jnp.bfloat16, 2**-9) for case in ONE_PER_OP), ("delta rule, scalar", jnp.float16, 2**-12)],
)
def test_half_precision_inputs_are_computed_in_float32(case, dtype, rounding):
    (o, state), gradients = check(
        case, draw(case, 70, dtype=dtype), outputs=1.5 * rounding, gradients=1.5 * rounding, implementation="xla"
    )
    assert o.dtype == gradients["q"].dtype == dtype
    assert state.dtype == gradients["state"].dtype == jnp.float32


def test_gates_may_have_a_wider_dtype():
    """Gates and strengths may have more digits than the values they act on."""
    case = "delta rule, scalar"
    inputs = draw(case, 20)
    half = {n: jnp.asarray(x, jnp.bfloat16) if n in "qkv" else x for n, x in inputs.items()}
    (o, _), gradients = evaluate(case, half, random_cotangents(half))
    assert o.dtype == jnp.bfloat16
    assert gradients["log_decay"].dtype == gradients["beta"].dtype == jnp.float32


def test_float64_is_exact_and_differentiable_twice():
    case = "delta rule, scalar"
    with jax.enable_x64(True):
        inputs = {n: jnp.asarray(wide(x)) for n, x in draw(case, 5, heads=1, key=3, value=2).items()}
        run = functools.partial(call, case, chunk_size=2, implementation="xla")
        assert all(x.dtype == jnp.float64 for x in run(inputs))

        def f(*values):
            o, state = run(dict(zip(inputs, values, strict=True)))
            return (o**2).sum() + (state**3).sum()

        check_grads(f, tuple(inputs.values()), order=2, modes=["rev"], atol=1e-5, rtol=1e-5)


@every_op
def test_vmap_and_eval_shape(case):
    inputs = draw(case, 20)
    run = functools.partial(call, case)
    o, state = jax.jit(run)(inputs)
    stacked = {name: jnp.stack([x, x]) for name, x in inputs.items()}
    for name in ("v", "state"):
        stacked[name] = stacked[name].at[1].multiply(2)
    many, _ = jax.jit(jax.vmap(run))(stacked)  # o is linear in (v, state)
    np.testing.assert_allclose(many[1], 2 * o, rtol=1e-5, atol=1e-6)
    shapes = jax.eval_shape(run, inputs)
    assert [(x.shape, x.dtype) for x in shapes] == [(x.shape, x.dtype) for x in (o, state)]


def test_checkpoint():
    case = "delta rule, scalar"
    inputs = draw(case, 20)

    def loss(inputs, f):
        o, state = f(inputs)
        return (o**2).sum() + (state**2).sum()

    run = functools.partial(call, case)
    plain, again = (jax.jit(jax.grad(functools.partial(loss, f=f)))(inputs) for f in (run, jax.checkpoint(run)))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), plain, again)


def shapes_of(case, length):
    """The inputs' shapes at this length, nothing allocated."""
    return {
        name: jax.ShapeDtypeStruct(x.shape if name == "state" else (x.shape[0], length, *x.shape[2:]), x.dtype)
        for name, x in draw(case, 2).items()
    }


@every_case
@every_implementation
def test_program_size_does_not_depend_on_length(case, implementation):
    def size(length):
        def loss(inputs):
            return call(case, inputs, implementation=implementation)[0].sum()

        return count_equations(jax.make_jaxpr(jax.value_and_grad(loss))(shapes_of(case, length)).jaxpr)

    assert size(1 << 20) == size(1 << 14) > 30


@every_op
def test_backward_keeps_one_state_per_block(case):
    """The backward pass keeps the inputs and one state per block."""
    length = 4 * blocks.BLOCK["cpu"]
    inputs = shapes_of(case, length)
    pullback = jax.eval_shape(lambda inputs: jax.vjp(functools.partial(call, case), inputs)[1], inputs)
    kept = sum(leaf.size for leaf in jax.tree.leaves(pullback))
    steps = STEPS if case.startswith(("delta product", "dplr")) else 1  # which make blocks of fewer tokens
    assert kept <= sum(x.size for x in inputs.values()) + 4 * steps * inputs["state"].size


def numbers_held(batch, length, heads, key, value, *, rows, chunk=32):
    """The formula in the docstring of `blocks`. dplr_rule writes two rows per token, as delta_product with R = 2."""
    block = blocks.BLOCK["cpu"] // rows
    growing = length * (3 * rows * (key + value) + key * value / block)
    return batch * heads * (growing + 16 * (block * rows * (key + value + rows * chunk) + key * value * block / chunk))


@every_op
def test_matrix_op_memory_stays_under_its_formula(case):
    """The memory of forward and backward pass stays under its formula."""
    step = jax.jit(lambda inputs: jax.value_and_grad(lambda inputs: (call(case, inputs)[0] ** 2).sum())(inputs))
    for length in (1024, 4096):
        memory = step.lower(shapes_of(case, length)).compile().memory_analysis()
        rows = STEPS if case.startswith(("delta product", "dplr")) else 1
        assert memory.temp_size_in_bytes <= 4 * numbers_held(1, length, 2, 8, 8, rows=rows)


GOOD = {
    "q": np.zeros((2, 5, 4, 3), np.float32),
    "k": np.zeros((2, 5, 2, 3), np.float32),
    "v": np.zeros((2, 5, 2, 6), np.float32),
    "beta": np.zeros((2, 5, 2), np.float32),
    "log_decay": np.zeros((2, 5, 2), np.float32),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"implementation": "xl"}, "unknown implementation 'xl'.*'xla', 'reference'"),
        ({"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
        ({"v": np.zeros((2, 5, 2), np.float32)}, r"v must be \(B, T, H, V\), no axis empty, got shape \(2, 5, 2\)"),
        ({"v": np.zeros((2, 0, 2, 6), np.float32)}, "v must be .* no axis empty"),
        ({"k": np.zeros((2, 4, 2, 3), np.float32)}, r"k must be \(B, T, H, K\) = \(2, 5, 2, 3\), got shape \(2, 4"),
        ({"q": np.zeros((2, 5, 3, 3), np.float32)}, r"q must be \(B, T, Hq, K\) = \(2, 5, a multiple of 2, 3\)"),
        ({"q": np.zeros((2, 5, 4, 7), np.float32)}, "q must be .*, got shape"),
        ({"q": np.zeros((2, 5, 4, 3), np.int32)}, "q must be bfloat16, float16, float32 or float64, got int32"),
        ({"q": np.zeros((2, 5, 4, 3), np.float16)}, "q, k, v must have one dtype, got q float16, k float32"),
        ({"beta": np.zeros((2, 5), np.float32)}, r"beta must be \(B, T, H\) = \(2, 5, 2\), got shape \(2, 5\)"),
        ({"beta": np.zeros((2, 5, 2), bool)}, "beta must be .*, got bool"),
        ({"log_decay": np.zeros((2, 5, 2, 4), np.float32)}, r"or \(B, T, H, K\) = \(2, 5, 2, 3\), got shape"),
        ({"log_decay": np.zeros((2, 5, 2), np.int32)}, "log_decay must be .*, got int32"),
        ({"log_decay": np.full((2, 5, 2), 0.5, np.float32)}, "log_decay must be <= 0, .* its largest is 0.5"),
        ({"log_decay": np.full((2, 5, 2), np.nan, np.float32)}, "log_decay must be <= 0, .* its largest is nan"),
        ({"state": np.zeros((2, 2, 6, 3), np.float32)}, r"state must be \(B, H, K, V\) = \(2, 2, 3, 6\)"),
        ({"state": np.zeros((2, 2, 3, 6), np.int32)}, "state must be .*, got int32"),
        ({"reset": np.zeros((2, 4), bool)}, r"reset must be boolean \(B, T\) = \(2, 5\)"),
        ({"reset": np.zeros((2, 5), np.float32)}, "reset must be boolean .* got float32"),
    ],
)
def test_bad_matrix_op_arguments_are_refused(change, message, unchecked_shapes):
    """Bad arguments are refused with the value and the choices."""
    good = dict(GOOD)
    with pytest.raises(ValueError, match=message):
        ops.delta_rule(**{**good, **change})
    beta = good.pop("beta")
    if "beta" in change:
        return
    with pytest.raises(ValueError, match=message):
        ops.linear_attention(**{**good, **change})
    one_step = {"k": good["k"], "v": good["v"], "beta": beta}
    several = {name: np.stack([value, value], 2) for name, value in one_step.items()}
    if not change.keys() & {"k", "v"}:
        with pytest.raises(ValueError, match=message):
            ops.delta_product(**{**good, **several, **change})
    with pytest.raises(ValueError, match=message.replace("q, k, v must", "q, k, v, a, b must")):
        ops.dplr_rule(**{**good, "a": good["k"], "b": good["k"], **change})


@every_op
def test_constants_of_a_traced_function_are_known_too(case):
    inputs = draw(case, 4, gates=lambda rng, shape: np.full(shape, 0.5))
    gates = inputs.pop("log_decay", None)
    if gates is not None:
        with pytest.raises(ValueError, match="log_decay must be <= 0"):
            jax.eval_shape(lambda inputs: call(case, {**inputs, "log_decay": gates}), inputs)


@every_case
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_it_lowers_for_accelerators(case, platform):
    def loss(inputs):
        return call(case, inputs, implementation="xla")[0].sum()

    lowered = jax.jit(jax.grad(loss)).trace(shapes_of(case, 300)).lower(lowering_platforms=(platform,))
    assert "stablehlo.while" in lowered.as_text()
