"""`state_space` and the layers of one fixed system against their definitions: values, gradients, states, resets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oracles import structured
from oracles.common import wide
from recurrax.mixers import LMU, LSSL, S4, S4D, hippo, time_invariant
from recurrax.ops import state_space
from support.numerics import draw, largest_error

# Float32 rounds at 6e-8; sums of some tens of terms stay well below this.
FLOAT32 = 2e-6
KINDS = ("complex", "real", "dense")


def system(kind, dim=3, size=4, outputs=2):
    """a as `state_space` takes it, b, c; and A."""
    numbers = functools.partial(np.random.default_rng(len(kind)).uniform, size=(dim, size))
    a = -numbers(0.01, 0.5).astype(np.float32)
    b, c = draw(dim, size), draw(dim, outputs, size)
    if kind == "dense":
        a = a[..., None] * np.eye(size, dtype=np.float32) + 0.1 * draw(dim, size, size)
        return a, b, c, np.eye(size) + wide(a)
    if kind == "complex":
        a = a + 1j * numbers(0, 3).astype(np.float32)
        b, c = b + 1j * draw(dim, size, seed=1), c + 1j * draw(dim, outputs, size, seed=1)
    return a, b, c, np.exp(wide(a))[..., None] * np.eye(size)


def start(kind, *shape):
    return draw(*shape) + 1j * draw(*shape, seed=1) if kind == "complex" else draw(*shape)


def stepped(x, matrix, b, c, state=None, reset=None):
    """h = A h + b x, y = Re(c h), one token at a time."""
    h = np.zeros((len(x), *b.shape)) if state is None else wide(state)
    y = np.zeros((*x.shape, c.shape[1]))
    for t in range(x.shape[1]):
        if reset is not None:
            h = np.where(reset[:, t, None, None], 0, h)
        h = np.einsum("dmn,bdn->bdm", matrix, h) + wide(b) * x[:, t, :, None]
        y[:, t] = np.einsum("dmn,bdn->bdm", wide(c), h).real
    return y, h


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 31])
def test_state_space_matches_its_definition(length, kind):
    a, b, c, matrix = system(kind)
    x, state = draw(2, length, 3), start(kind, 2, 3, 4)

    @jax.jit
    def run(a, b, c, x, state, reset):
        """Chunks of 8 with all powers computed here, with powers that are constants, and the FFT of both."""
        run = functools.partial(state_space, x, state=state, reset=reset, chunk_size=8)
        whole = functools.partial(state_space, x, implementation="fft", chunk_size=8)
        return (run(a, b, c), run(*system(kind)[:3])), (whole(a, b, c), whole(*system(kind)[:3]))

    for density in (0.0, 0.2, 1.0):
        reset = np.random.default_rng(1).uniform(size=(2, length)) < density
        results = run(a, b, c, x, state, reset)
        for ways, want in zip(results, (stepped(x, matrix, b, c, state, reset), stepped(x, matrix, b, c)), strict=True):
            for y, after in ways:
                assert largest_error(y, want[0]) <= FLOAT32
                assert largest_error(after, want[1]) <= FLOAT32
    y, after = jax.jit(functools.partial(state_space, chunk_size=8))(x, a, b, c, state)
    want, want_state = stepped(x, matrix, b, c, state)
    assert max(largest_error(y, want), largest_error(after, want_state)) <= FLOAT32


def test_fft_is_the_default_for_long_sequences():
    """Whole sequences of more than one chunk are convolved by FFT by default."""
    a, b, c, _ = system("real")
    a, b, c, x = *(jnp.asarray(value) for value in (a, b, c)), draw(2, 77, 3)

    def transforms(*arguments, **options):
        return "fft" in str(jax.make_jaxpr(lambda *v: state_space(*v, **options))(*arguments))

    assert transforms(x, a, b, c)
    assert not transforms(x[:, :64], a, b, c)
    assert not transforms(x, a, b, c, jnp.asarray(start("real", 2, 3, 4)))
    assert not transforms(x, a, b, c, reset=np.zeros((2, 77), bool))


@pytest.mark.parametrize("kind", ["complex", "dense"])
def test_state_space_gradients_match_the_loop(kind):
    """The gradients of both forms are those of the loop."""
    a, b, c, _ = system(kind)
    x, state, weight = draw(2, 37, 3), start(kind, 2, 3, 4), draw(2, 37, 3, 2)
    reset = np.random.default_rng(3).uniform(size=(2, 37)) < 0.1

    def loop(x, a, b, c, state, reset):
        def step(h, inputs):
            x, reset = inputs
            h = jnp.where(reset[:, None, None], 0, h)
            h = jnp.exp(a)[None] * h if a.ndim == 2 else h + jnp.einsum("dmn,bdn->bdm", a, h)
            h = h + b[None] * x[..., None]
            return h, jnp.einsum("dmn,bdn->bdm", c, h).real

        last, y = jax.lax.scan(step, state, (x.swapaxes(0, 1), reset.swapaxes(0, 1)))
        return y.swapaxes(0, 1), last

    def gradients(run):
        def loss(*arguments):
            y, last = run(*arguments)
            return (weight * y).sum() + (last.real * (1 + last.imag)).sum()

        return jax.grad(loss, argnums=(0, 1, 2, 3, 4))(x, a, b, c, state)

    @jax.jit
    def pairs(reset):
        chunked = gradients(functools.partial(state_space, reset=reset, chunk_size=8))
        whole = gradients(lambda *v: state_space(*v[:4], chunk_size=8))
        fresh = gradients(lambda *v: loop(*v[:4], jnp.zeros_like(v[4]), jnp.zeros_like(reset)))
        return (chunked, gradients(lambda *v: loop(*v, reset))), (whole, fresh)

    for got, want in pairs(reset):
        for value, expected in zip(got, want, strict=True):
            assert largest_error(value, expected) <= 10 * FLOAT32


def test_state_space_forgets_exactly():
    a, b, c, _ = system("complex")
    run = jax.jit(lambda x, h, reset: state_space(x, a, b, c, h, reset=reset, chunk_size=8))
    x, state = draw(1, 20, 3), start("complex", 1, 3, 4)
    for border in (3, 8, 15):  # inside a chunk, at its first and at its last step
        reset = np.arange(20)[None] == border
        loud = np.where(np.arange(20)[None, :, None] < border, 1e20 * x, x)
        (want, last), (got, got_last) = run(x, 0 * state, reset), run(loud, 1e20 * state, reset)
        np.testing.assert_array_equal(got[:, border:], want[:, border:])
        np.testing.assert_array_equal(got_last, last)


def test_state_space_keeps_the_digits_of_slow_modes():
    # 2,000 steps of a mode that decays by 1e-4: A = 0.9999 in float32 is wrong by 1e-8 per step, its power by 2e-5.
    a, b, c = (jnp.asarray(v, jnp.float32) for v in ([[-1e-4, -2e-4]], [[1.0, 1.0]], [[[1.0, 1.0]]]))
    x = np.zeros((1, 2000, 1), np.float32)
    x[0, 0] = 1

    @jax.jit
    def last(x, a):
        dense = jnp.expm1(a)[..., None] * jnp.eye(2)[None]
        forms = ((v, form) for v in (a, dense) for form in ("chunked", "fft"))
        return [state_space(x, v, b, c, implementation=form)[0][0, -1, 0, 0] for v, form in forms]

    np.testing.assert_allclose(last(x, a), np.exp(wide(a) * 1999).sum(), rtol=1e-6)


def test_state_space_keeps_dtypes():
    a, b, c, matrix = system("complex")
    y, state = jax.eval_shape(state_space, jnp.asarray(draw(2, 5, 3), jnp.bfloat16), a, b, c)
    assert (y.dtype, state.dtype) == (jnp.bfloat16, jnp.complex64)
    with jax.enable_x64(True):
        x = draw(2, 50, 3).astype(float)
        y, state = jax.jit(functools.partial(state_space, chunk_size=8))(x, *(wide(value) for value in (a, b, c)))
        assert (y.dtype, state.dtype) == (jnp.float64, jnp.complex128)
        assert largest_error(y, stepped(x, matrix, b, c)[0]) <= 1e-13


X, A, B, C = draw(2, 5, 3), draw(3, 4), draw(3, 4), draw(3, 2, 4)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((draw(2, 5), A, B, C), {}, r"x must be \(B, T, D\), no axis empty, got shape \(2, 5\)"),
        ((X, A, draw(2, 4), C), {}, r"b must be \(D, N\) = \(3, 4\), got shape \(2, 4\)"),
        ((X, draw(3, 5), B, C), {}, r"\(D, N\) = \(3, 4\) or \(D, N, N\) = \(3, 4, 4\), got shape \(3, 5\)"),
        ((X, A, B, draw(3, 4)), {}, r"c must be \(D, M, N\) = \(3, M, 4\), got shape \(3, 4\)"),
        ((X, A, B, C, draw(2, 4, 3)), {}, r"state must be \(B, D, N\) = \(2, 3, 4\), got shape \(2, 4, 3\)"),
        ((X, A, B, C), {"reset": np.zeros((5, 2), bool)}, r"reset must be boolean \(B, T\) = \(2, 5\), got bool"),
        ((X, A.astype(int), B, C), {}, "a must be real or complex floating point, got int"),
        ((X, draw(3, 4, 4) + 0j, B, C), {}, "a, b and c of dense matrices must be real"),
        ((X, A, B, C, draw(2, 3, 4) + 0j), {}, "state must be real where a, b and c are"),
        ((X, A, B, C), {"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
        ((X, A, B, C), {"implementation": "ftt"}, r"unknown implementation 'ftt' \(did you mean 'fft'\?\)"),
        ((X, A, B, C, draw(2, 3, 4)), {"implementation": "fft"}, "does not support a state; use 'chunked'"),
    ],
)
def test_state_space_says_what_does_not_fit(unchecked_shapes, arguments, options, message):
    with pytest.raises(ValueError, match=message):
        state_space(*arguments, **options)


@pytest.mark.parametrize(
    ("config", "oracle"),
    [
        (S4D(state_dim=6), structured.s4d),
        (LSSL(state_dim=3, num_outputs=2), structured.lssl),
        (LMU(order=3, theta=50.0, memory_channels=2), structured.lmu),
    ],
)
def test_layers_are_their_definitions_with_the_fft(config, oracle):
    layer, x = config.layer(2), draw(1, 70, 2)
    params = jax.jit(layer.init)(jax.random.key(0), x[:, :1])["params"]
    assert largest_error(jax.jit(layer.apply)({"params": params}, x)[0], oracle(params, x, None, config)) <= 1e-5


def test_s4_kernel_by_cauchy_sums_equals_powers():
    """S4's kernel is the same function by Cauchy sums and by powers."""
    config = S4(state_dim=6)
    layer, x, g = config.layer(3), draw(2, 100, 3), draw(2, 100, 3, seed=1)
    params = jax.jit(layer.init)(jax.random.key(0), x[:, :1])["params"]

    @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def gradients(params, x, state):
        y, after = layer.apply({"params": params}, x, state)
        return (g * y).sum(), (y, after)

    states = None, layer.init_state(2)
    results = jax.jit(lambda params, x: [gradients(params, x, state) for state in states])(params, x)
    by_cauchy, by_powers = ((outputs, grads) for (_, outputs), grads in results)
    assert largest_error(by_cauchy[0][0], structured.s4(params, x, None, config)) <= 1e-5
    for value, expected in zip(jax.tree.leaves(by_cauchy), jax.tree.leaves(by_powers), strict=True):
        assert largest_error(value, expected) <= 1e-5


def test_diagonalised_legs_is_legs():
    a, b = hippo.legs(8)
    assert (a[2, 1], a[1, 1], a[1, 2], b[2]) == (-np.sqrt(15), -2, 0, np.sqrt(5))
    d = hippo.diagonalised_legs(8)
    v, values, p = (np.concatenate([part, part.conj()], -1) for part in (d.v, d.a, d.p))
    np.testing.assert_allclose(v @ (np.diag(values) - np.outer(p, p.conj())) @ v.conj().T, a, atol=1e-12)
    np.testing.assert_allclose(v @ np.concatenate([d.b, d.b.conj()]), b, atol=1e-12)
    assert (d.a.imag > 0).all()


def test_the_delay_system_remembers_its_window():
    # A line over the last 60 steps is Legendre's P_0 and P_1, with the newest end at 1 of [0, 1].
    less_identity, b = hippo.hold(*hippo.delay(6, 60.0))
    m = np.zeros(6)
    for t in range(400):
        m = m + less_identity @ m + b * t
    # The mean of the window and half the rise over it: shifted Legendre polynomials of the time ago.
    assert abs(m[0] - (400 - 30.5)) < 1
    assert abs(abs(m[1]) - 30) < 1
    assert np.abs(m[2:]).max() < 1


def test_hold_is_the_exponential_of_stiff_matrices_too():
    a, b = hippo.legs(6)
    for scale in (1e-6, 1.0, 50.0):
        less_identity, held = hippo.hold(scale * a, scale * b)
        np.testing.assert_allclose(less_identity, structured.exponential(scale * a) - np.eye(6), atol=1e-9)
        np.testing.assert_allclose(a @ held, less_identity @ b, atol=1e-9)


@pytest.mark.parametrize("method", time_invariant.DISCRETIZATIONS)
def test_discretisation_is_exact_near_zero(method):
    """The discretisation keeps its digits near zero and its gradient at zero."""
    z = np.array([0, 1e-30, -1e-7 + 1e-8j, -1e-3 + 1e-3j, -0.3 + 0.19j, -0.3 + 0.21j, -4 + 30j], np.complex64)
    dt = np.ones(z.shape, np.float32)
    log_a, b = jax.jit(functools.partial(time_invariant.discretize, method=method))(z, dt)
    w = wide(z)
    with np.errstate(invalid="ignore"):
        want_a = np.exp(w) if method == "zoh" else (1 + w / 2) / (1 - w / 2)
        want_b = np.where(w == 0, 1, np.expm1(w) / w) if method == "zoh" else 1 / (1 - w / 2)
    np.testing.assert_allclose(np.exp(log_a), want_a, rtol=3e-6)
    np.testing.assert_allclose(b, want_b, rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda z: time_invariant.discretize(z, jnp.asarray(dt), method)[1].real.sum()))(z)
    with np.errstate(invalid="ignore", divide="ignore"):
        exact = (np.exp(w) - np.expm1(w) / w) / w if method == "zoh" else 0.5 / (1 - w / 2) ** 2
    near = np.abs(w) < 1e-2
    np.testing.assert_allclose(gradient, np.where(near, 0.5 + w / 3 if method == "zoh" else exact, exact), rtol=1e-4)


def test_half_the_sampling_rate_is_twice_the_rate():
    # A slow wave, held over pairs of tokens: with steps twice as long, every second token is the whole story.
    layer, coarse = (S4D(state_dim=8, rate=rate, gate=False).layer(2) for rate in (1.0, 2.0))
    x = np.repeat(np.sin(np.arange(40) / 5)[None, :, None] * np.ones(2), 2, axis=1).astype(np.float32)
    params = jax.jit(layer.init)(jax.random.key(0), x)
    fine, got = jax.jit(lambda x: (layer.apply(params, x)[0], coarse.apply(params, x[:, ::2])[0]))(x)
    assert largest_error(got, fine[:, 1::2]) <= 1e-5
