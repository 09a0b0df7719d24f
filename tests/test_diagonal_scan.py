"""`diagonal_scan` against its definition in float64: values, every gradient, every implementation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from eval import oracles
from recurrax.ops import OPS, diagonal_scan
from support.jaxprs import count_equations
from support.numerics import relative_error

# Kernels are interpreted here, which takes long: test_kernels.py has small sizes for them.
IMPLEMENTATIONS = tuple(name for name, each in OPS["diagonal_scan"].implementations.items() if not each.interpret)
CHUNK = 16


def draw(seed, batch, length, *, decay, kind, dim=3, resets=0.0):
    """Inputs and cotangents: `decay` maps uniform noise to |a|; kind: real or complex, plain or " constant"."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        value = rng.standard_normal(shape)
        if kind.startswith("complex"):
            value = value + 1j * rng.standard_normal(shape)
        return value.astype(np.complex64 if kind.startswith("complex") else np.float32)

    shape = (dim,) if kind.endswith("constant") else (batch, length, dim)
    a = decay(rng.uniform(size=shape))
    a = a * (np.exp(2j * np.pi * rng.uniform(size=shape)) if kind.startswith("complex") else rng.choice([-1, 1], shape))
    reset = rng.uniform(size=(batch, length)) < resets if resets else None
    x, h0, g, g_last = (normal(batch, length, dim), normal(batch, dim), normal(batch, length, dim), normal(batch, dim))
    return a.astype(x.dtype), x, h0, g, g_last, reset


@functools.partial(jax.jit, static_argnames=("reverse", "chunk_size", "implementation"))
def evaluate(a, x, h0, g, g_last, reset=None, **options):
    """(h, h_last), (da, dx, dh0) of the op."""
    outputs, pullback = jax.vjp(lambda a, x, h0: diagonal_scan(a, x, h0, reset=reset, **options), a, x, h0)
    return outputs, pullback((g, g_last))


def check(inputs, bound, **options):
    a, x, h0, g, g_last, reset = inputs
    reverse = options.get("reverse", False)
    outputs, gradients = evaluate(a, x, h0, g, g_last, reset, **options)
    given = {"a": a, "x": x, "h0": h0, "reset": reset}
    *want, want_gradients = oracles.diagonal_scan(given, (g, g_last), reverse)
    names = ("h", "h_last", "da", "dx", "dh0")
    for name, got, expected in zip(names, (*outputs, *gradients), (*want, *want_gradients.values()), strict=True):
        assert relative_error(got, expected) <= bound, (name, relative_error(got, expected))


DECAYS = {
    "uniform up to 1 - 1e-6": lambda u: u * (1 - 1e-6),
    "all 1 - 1e-6": lambda u: np.full_like(u, 1 - 1e-6),
    "all 1 - 1e-3": lambda u: np.full_like(u, 1 - 1e-3),
    "some 0": lambda u: np.where(u < 0.01, 0.0, 1 - 1e-6),
    "e^-20": lambda u: np.full_like(u, np.exp(-20.0)),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", ["real", "complex", "real constant", "complex constant"])
@pytest.mark.parametrize("decay", DECAYS)
def test_long_scan_matches_the_float64_oracle(implementation, kind, decay):
    """A long scan matches the float64 oracle in values and every gradient."""
    check(draw(0, 2, 4096, decay=DECAYS[decay], kind=kind), 1e-6, implementation=implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("length", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 97])
def test_any_length_direction_and_reset_matches_the_oracle(implementation, length):
    for kind, resets, reverse in [("real", 0.2, False), ("complex constant", 0.2, True), ("real constant", 0.0, True)]:
        inputs = draw(length, 2, length, decay=lambda u: u, kind=kind, resets=resets)
        check(inputs, 1e-6, implementation=implementation, reverse=reverse, chunk_size=CHUNK)


def test_phases_hold_over_sixteen_thousand_steps():
    # Accumulating angles in float32 would be off by radians here; multiplying plain complex64 numbers by 1e-3.
    inputs = draw(1, 1, 16_384, decay=lambda u: np.full_like(u, 1 - 1e-6), kind="complex constant")
    for implementation in IMPLEMENTATIONS:
        check(inputs, 1e-6, implementation=implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", ["real", "complex", "real constant"])
def test_gradients_of_second_order_match_finite_differences(implementation, kind):
    with jax.enable_x64(True):
        a, x, h0, _, _, reset = draw(2, 2, 7, decay=lambda u: 0.3 + 0.6 * u, kind=kind, resets=0.2)
        wide = [jnp.asarray(v, jnp.promote_types(v.dtype, jnp.float64)) for v in (a, x, h0)]

        def f(*v):
            h, h_last = diagonal_scan(*v, reset=reset, implementation=implementation, chunk_size=3)
            return (h**2).sum() + (h_last**3).sum()

        def real(*v):
            return jnp.real(f(*v)) + jnp.imag(f(*v))

        check_grads(jax.jit(real), wide, order=2, modes=["rev"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_reset_clears_an_infinite_state(implementation):
    """A reset starts a new sequence even after an infinite state."""
    a, x, h0, *_ = draw(3, 1, 40, decay=lambda u: u, kind="real")
    reset = np.zeros((1, 40), bool)
    reset[:, [0, 13, 32]] = True
    h, h_last = diagonal_scan(a, x, 1e30 * h0, reset=reset, implementation=implementation, chunk_size=CHUNK)
    pieces = [slice(0, 13), slice(13, 32), slice(32, 40)]
    separate = [diagonal_scan(a[:, p], x[:, p], implementation=implementation, chunk_size=CHUNK) for p in pieces]
    np.testing.assert_allclose(h, np.concatenate([s[0] for s in separate], 1), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(h_last, separate[-1][1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_half_precision_inputs_keep_a_float32_state(implementation):
    a, x, h0, *_ = draw(5, 2, 300, decay=lambda u: 1 - 1e-3 * u, kind="real")
    a, x = jnp.asarray(a, jnp.bfloat16), jnp.asarray(x, jnp.bfloat16)
    h, h_last = diagonal_scan(a, x, h0, implementation=implementation)
    want, want_last, _ = oracles.diagonal_scan({"a": a, "x": x, "h0": h0})
    assert h.dtype == jnp.bfloat16
    assert h_last.dtype == jnp.float32
    assert relative_error(h_last, want_last) < 1e-6
    assert relative_error(h.astype(jnp.float32), want) < 2e-3  # the output's own rounding


def test_diagonal_scan_shapes_and_vmap():
    """Inner shapes, real decays of complex states, and vmap."""
    rng = np.random.default_rng(6)
    a = rng.uniform(size=(4, 5)).astype(np.float32)
    x = (rng.standard_normal((2, 9, 4, 5)) + 1j * rng.standard_normal((2, 9, 4, 5))).astype(np.complex64)
    h, h_last = diagonal_scan(a, x)
    want, want_last, _ = oracles.diagonal_scan({"a": a, "x": x})
    assert h.shape == x.shape
    assert relative_error(h, want) < 1e-6
    assert relative_error(h_last, want_last) < 1e-6
    da = jax.grad(lambda a: jnp.abs(diagonal_scan(a, x)[0]).sum())(a)
    assert da.dtype == jnp.float32  # a real decay has a real gradient
    stacked, _ = jax.vmap(lambda x: diagonal_scan(a, x))(jnp.stack([x, 2 * x]))
    np.testing.assert_allclose(stacked[1], 2 * stacked[0], rtol=1e-6)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_program_size_does_not_depend_on_length(implementation):
    def size(length):
        x = jax.ShapeDtypeStruct((2, length, 3), jnp.float32)

        def loss(a, x):
            return diagonal_scan(a, x, implementation=implementation)[0].sum()

        return count_equations(jax.make_jaxpr(jax.value_and_grad(loss, argnums=(0, 1)))(x, x).jaxpr)

    assert size(1 << 20) == size(1 << 8) > 30


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_backward_keeps_decays_and_states_only(implementation):
    """The backward pass keeps the decays and the states and nothing else."""
    x = jnp.zeros((2, 256, 3))
    _, pullback = jax.vjp(lambda a, x: diagonal_scan(a, x, implementation=implementation), x, x)
    kept = sum(leaf.size for leaf in jax.tree.leaves(pullback) if hasattr(leaf, "size"))
    assert kept <= 2 * x.size + 2 * 2 * 3  # a, h; h0


def test_sequential_form_needs_no_temporary_array():
    x = jnp.zeros((4, 512, 64))
    compiled = jax.jit(lambda a, x: diagonal_scan(a, x, implementation="sequential")).lower(x, x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < x.nbytes / 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"implementation": "chunk"}, "did you mean 'chunked'"),
        ({"implementation": "pallas"}, "'sequential', 'associative', 'chunked', 'reference'"),
        ({"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
        (
            {"x": np.zeros((2, 0, 3), np.float32), "a": np.zeros(3, np.float32)},
            r"x must be \(B, T, \*D\), no axis empty",
        ),
        ({"x": np.zeros((2, 5, 3), np.int32)}, "x must be real or complex floating point, got int32"),
        ({"a": np.zeros((2, 4, 3), np.float32)}, r"a must be \(B, T, \*D\) = \(2, 5, 3\)"),
        ({"h0": np.zeros((3, 3), np.float32)}, r"h0 must be \(B, \*D\) = \(2, 3\)"),
        ({"reset": np.zeros((2, 4), bool)}, r"reset must be boolean \(B, T\)"),
    ],
)
def test_bad_diagonal_scan_arguments_are_refused(change, message, unchecked_shapes):
    """Bad arguments are refused with the value and the choices."""
    arguments = {"a": np.zeros((2, 5, 3), np.float32), "x": np.zeros((2, 5, 3), np.float32), **change}
    with pytest.raises(ValueError, match=message):
        diagonal_scan(arguments.pop("a"), arguments.pop("x"), arguments.pop("h0", None), **arguments)
