"""The bugs that libraries of this field have had, by name: each is a test here, of every op that it could befall."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval import oracles
from matrix_ops import (
    CASES,
    ONE_PER_OP,
    call,
    check,
    draw,
    evaluate,
    random_cotangents,
    relative_error,
    truth,
    wide,
)
from oracles import vector
from recurrax.mixers.layers.rglru import RGLRU
from recurrax.ops import causal_conv1d, diagonal_scan, linear_attention

every_op = pytest.mark.parametrize("case", ONE_PER_OP)
decaying = pytest.mark.parametrize("case", [case for case in CASES if "," in case])


def gates(*values, rest):
    """Gates of these values at a tenth of all places each, and `rest` elsewhere."""

    def draw(rng, shape):
        return np.array([*values, *[rest] * (10 - len(values))])[rng.integers(0, 10, shape)]

    return draw


@decaying
def test_decay_exponents_stay_negative_and_exact(case):
    """Exponents were positive after an exclusive sum or a late mask, and lost their digits."""
    # One program per op for the three: -20 overflows e^{-g}, -200 makes 0 * inf of a late mask, and after a -300 the
    # difference of two running sums keeps 3e-5 of the small gates that follow. e^-1e4 and e^-inf are plainly 0.
    for mixed in (
        gates(-20.0, rest=-0.1),
        gates(-200.0, -200.0, -200.0, 0.0, 0.0, rest=-1.0),
        gates(-300.0, -1e4, -np.inf, 0.0, -20.0, rest=-1e-3),
    ):
        check(case, draw(case, 70, gates=mixed), outputs=1e-6, gradients=2e-6, implementation="xla")


def test_global_exponential_of_the_negative_sum():
    # e^{-(g_1 + ... + g_t)} is e^65536 at the end.
    case = "linear attention, channel"
    inputs = draw(case, 1 << 16, heads=1, key=4, value=4, gates=gates(rest=-1.0))
    check(case, inputs, outputs=1e-6, gradients=2e-6)


def test_reverse_cumulative_sum_over_the_whole_sequence():
    # The log-decay's gradient as sum over s >= t of q dq - k dk: noise of the whole sequence in every gate.
    for case in ("linear attention, scalar", "delta rule, scalar"):
        inputs = draw(case, 16_384, heads=1, key=8, value=8, gates=gates(rest=-1e-3))
        check(case, inputs, gradients=2e-6)


@every_op
def test_state_in_the_dtype_of_half_precision_inputs(case):
    # 1,000 steps that hardly forget: a bfloat16 state would stop growing.
    inputs = draw(case, 1000, heads=1, gates=gates(rest=-1e-4), dtype=jnp.bfloat16)
    _, state = jax.jit(functools.partial(call, case, implementation="xla"))(inputs)
    (_, want), _ = truth(case, inputs)
    assert state.dtype == jnp.float32
    assert relative_error(state, want) < 1e-6


def test_overflow_of_an_inner_state_in_float16():
    case = "linear attention"
    inputs = draw(case, 3000, heads=1, dtype=np.float16)
    inputs["k"], inputs["v"] = np.abs(inputs["k"]), 200 * np.ones_like(inputs["v"])
    o, state = call(case, inputs, scale=1e-3)
    assert wide(state).max() > 65_504
    assert np.isfinite(wide(o)).all()


@pytest.mark.parametrize("case", ["delta rule", "delta product", "dplr, scalar"])
@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_neumann_series_of_equal_keys(case, beta):
    # Powers of the triangular matrix of equal keys grow like binomials: 3e18 in a chunk of 64.
    inputs = draw(case, 70, gates=gates(rest=-1e-3))
    key = inputs["k"].reshape(-1, 8)[0]
    inputs["k"] = np.broadcast_to(key, inputs["k"].shape)
    if "beta" in inputs:
        inputs["beta"] = np.full_like(inputs["beta"], beta)
    else:
        inputs["a"], inputs["b"] = inputs["k"], -beta * inputs["k"]
    check(case, inputs, chunk_size=64, outputs=1e-4, gradients=1e-4)


@every_op
def test_zero_keys(case):
    inputs = draw(case, 40)
    for name in {"k", "a", "b"} & inputs.keys():
        inputs[name] = np.zeros_like(inputs[name])
    check(case, inputs, implementation="xla")


@every_op
def test_final_state_gradient_with_short_last_chunk(case):
    """The gradient through the final state was wrong with a short last chunk."""
    inputs = draw(case, 2 * 8 + 1)
    d_o, d_state = random_cotangents(inputs)
    for cotangents in ((0 * d_o, d_state), (d_o, 0 * d_state)):
        _, got = evaluate(case, inputs, cotangents, chunk_size=8)
        _, want = truth(case, inputs, cotangents)
        for name in got:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=2e-6)


def test_convolution_gradient_with_a_short_last_piece():
    """The last piece of a convolution was shorter than its width: its gradient was wrong."""
    rng = np.random.default_rng(0)
    x, kernel, state = rng.standard_normal((1, 9, 3)), rng.standard_normal((4, 3)), rng.standard_normal((1, 3, 3))
    x, kernel, state = (v.astype(np.float32) for v in (x, kernel, state))

    def in_pieces(x, kernel, state, cuts):
        outputs = []
        for piece in np.split(np.arange(9), cuts):
            y, state = causal_conv1d(x[:, piece], kernel, None, state)
            outputs.append(y)
        return (jnp.concatenate(outputs, 1) ** 3).sum() + (state**3).sum()

    grads = [
        jax.jit(jax.grad(functools.partial(in_pieces, cuts=cuts), (0, 1, 2)))(x, kernel, state)
        for cuts in ([], [2, 3, 8])
    ]
    for other in grads[1:]:
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), other, grads[0])


@every_op
def test_cotangent_of_another_layout(case):
    # The output goes on transposed, under vmap: its cotangent comes back in another order of axes.
    inputs = draw(case, 12)
    stacked = {name: np.stack([x, -x if name == "v" else x]) for name, x in inputs.items()}
    weights = np.random.default_rng(0).standard_normal((12, 8, 1, 2)).astype(np.float32)

    def loss(inputs):
        o, _ = call(case, inputs)
        return jnp.sum(jnp.transpose(o, (1, 3, 0, 2)) * weights)

    got = jax.jit(jax.vmap(jax.grad(loss)))(stacked)
    for i in range(2):
        one = {name: x[i] for name, x in stacked.items()}
        _, want = truth(case, one, (weights.transpose(2, 0, 3, 1), np.zeros(one["state"].shape)))
        for name in want:
            np.testing.assert_allclose(got[name][i], want[name], rtol=1e-5, atol=2e-6)


@every_op
def test_sizes_beyond_32_bits(case):
    # 2^36 numbers per array: shapes only, but all the arithmetic on sizes and positions that tracing does.
    inputs = {n: jax.ShapeDtypeStruct(x.shape, x.dtype) for n, x in draw(case, 2, batch=1).items()}
    long = {
        n: jax.ShapeDtypeStruct(x.shape if n == "state" else (512, 1 << 23, *x.shape[2:]), jnp.bfloat16)
        for n, x in inputs.items()
    }
    long["state"] = jax.ShapeDtypeStruct((512, *inputs["state"].shape[1:]), jnp.float32)
    gradients = jax.eval_shape(jax.grad(lambda inputs: call(case, inputs)[0].astype(jnp.float32).sum()), long)
    assert {n: x.shape for n, x in gradients.items()} == {n: x.shape for n, x in long.items()}


@every_op
def test_padding_that_writes_into_the_state(case):
    # 19 tokens in chunks of 16; and a caller's own padding of zeros.
    inputs = draw(case, 19)
    run = jax.jit(functools.partial(call, case, chunk_size=16))
    o, state = run(inputs)
    (_, want), _ = truth(case, inputs)
    assert relative_error(state, want) < 1e-6
    padded = {
        n: x if n == "state" else np.pad(x, [(0, 0), (0, 21)] + [(0, 0)] * (x.ndim - 2)) for n, x in inputs.items()
    }
    longer, same = run(padded)
    np.testing.assert_allclose(same, state, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(longer[:, :19], o, rtol=1e-6, atol=1e-6)


@every_op
def test_final_state_without_an_initial_one(case):
    """The final state was returned only if an initial state was given."""
    inputs = draw(case, 12)
    inputs["state"] = 0 * inputs["state"]
    run = jax.jit(functools.partial(call, case))
    with_state = run(inputs)
    del inputs["state"]
    o, state = run(inputs)
    np.testing.assert_array_equal(o, with_state[0])
    np.testing.assert_array_equal(state, with_state[1])


@every_op
def test_finite_but_wrong_on_a_new_device(case):
    # Whatever this backend's best implementation is, it computes what the definition computes, on this device.
    inputs = draw(case, 300, key=32, value=32)
    o, state = jax.jit(functools.partial(call, case))(inputs)
    (want, want_state), _ = truth(case, inputs)
    assert max(relative_error(o, want), relative_error(state, want_state)) < 2e-6


@every_op
def test_precision_of_a_chain_of_eight_pieces(case):
    inputs = draw(case, 8 * 32, gates=gates(rest=-1e-4))
    run = jax.jit(functools.partial(call, case))
    state, outputs = inputs.pop("state"), []
    (want, want_state), _ = truth(case, {**inputs, "state": state})
    for n in range(8):
        o, state = run({name: x[:, 32 * n : 32 * (n + 1)] for name, x in inputs.items()}, state=state)
        outputs.append(o)
    assert relative_error(np.concatenate(outputs, 1), want) < 1e-6
    assert relative_error(state, want_state) < 1e-6


@every_op
def test_initial_state_after_a_resume(case):
    # Prefill, then one token at a time: the whole sequence, state and all.
    inputs = draw(case, 24)
    (want, want_state), _ = truth(case, inputs)
    run = jax.jit(functools.partial(call, case))
    state = inputs.pop("state")
    o, state = run({name: x[:, :16] for name, x in inputs.items()}, state=state)
    outputs = [o]
    for t in range(16, 24):
        o, state = run({name: x[:, t : t + 1] for name, x in inputs.items()}, state=state)
        outputs.append(o)
    assert relative_error(np.concatenate(outputs, 1), want) < 1e-6
    assert relative_error(state, want_state) < 1e-6


def test_one_minus_a_squared_near_one():
    # At log a = -1e-6 float32's 1 - a^2 is 2 % off; in bfloat16 it is 0, and the input is shut off.
    config = RGLRU(num_heads=1, conv_width=1)
    layer = config.layer(4, jnp.float32, "rglru")
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 6, 4)), jnp.float32)
    params = layer.init(jax.random.key(0), x)["params"]
    # softplus(decay) = 1e-6 / (8 * 0.5) for a gate of one half.
    params = {**params, "decay": np.full_like(params["decay"], np.log(np.expm1(2.5e-7)))}
    params = {n: np.zeros_like(v) if n.startswith("recurrence_gate") else v for n, v in params.items()}
    y, _ = layer.apply({"params": params}, x)
    assert relative_error(y, vector.rglru(params, x, None, config)) < 1e-6


def test_sum_of_phases():
    # Angles added up in float32 are off by radians after 16,384 steps.
    rng = np.random.default_rng(0)
    a = ((1 - 1e-4) * np.exp(2j * np.pi * rng.uniform(size=4))).astype(np.complex64)
    x = rng.standard_normal((1, 16_384, 4)).astype(np.float32)
    h, _ = diagonal_scan(a, x.astype(np.complex64))
    want = oracles.diagonal_scan({"a": a, "x": x})[0]
    assert np.linalg.norm(h - want) / np.linalg.norm(want) < 1e-6


def test_reference_of_every_op_at_length_one():
    """The reference of every op was wrong at a length of one."""
    q = k = v = np.ones((1, 1, 1, 1), np.float32)
    o, state = linear_attention(q, 2 * k, 3 * v, state=5 * np.ones((1, 1, 1, 1), np.float32), scale=1.0)
    assert float(o[0, 0, 0, 0]) == float(state[0, 0, 0, 0]) == 11


def test_reduction_over_seven_axes():
    """jaxlib 0.10.2 on a CPU: the sum of a product of rank 7 overran a buffer and killed the process (jax #40412).

    The gradient of a decay per channel under one vmap had such a sum.
    """
    program = """
import jax, jax.numpy as jnp
from recurrax.ops import delta_rule
q, k = jax.random.normal(jax.random.key(0), (2, 2, 2, 40, 2, 12))
v, beta = jnp.ones((2, 2, 40, 2, 11)), jnp.full((2, 2, 40, 2), 0.5)
loss = lambda q, k, v, beta: (delta_rule(q, k / 4, v, beta, -jnp.abs(k))[0] ** 2).sum()
gradients = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1, 2, 3))))(q, k, v, beta)
assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
