"""Every mixer under the same laws. A new one is a line of mixer_cases.py, and its step-by-step form in oracles/."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from matrix_ops import ops_by_definition
from mixer_cases import DIM, LENGTH, MIXERS
from oracles.common import sigmoid, softplus, wide
from recurrax import mixers, projections
from recurrax.layers import Depth
from recurrax.mixers import GLA, LRU, RGLRU, RWKV7, Attention

BATCH = 2
# Layers of the deep model whose first step is looked at.
DEPTH = 8
every_mixer = pytest.mark.parametrize("name", MIXERS)
# The first of each class, for laws whose programs take longer to compile; what options change are values.
one_of_each = pytest.mark.parametrize(
    "name", {type(case.config): name for name, case in reversed(MIXERS.items())}.values()
)

# Float32 rounds at 6e-8; sums over some 10 terms and 40 steps that roughly average out stay below this.
FLOAT32 = 1e-5
# Bfloat16 rounds at 2^-9 and a layer rounds three or four times in a row: input, mixed state, output.
BFLOAT16 = 8 * 2**-9


def error(got, want):
    """Largest error over the largest value."""
    got, want = (np.asarray(v if v.dtype != jnp.bfloat16 else v.astype(jnp.float32)) for v in (got, want))
    assert got.shape == want.shape, f"shape {got.shape} instead of {want.shape}"
    assert np.isfinite(got).all()
    if got.dtype == bool:
        return float((got != want).any())
    return np.abs(got - want).max(initial=0) / max(np.abs(want).max(initial=0), 1e-30)


def assert_close(got, want, bound=FLOAT32, label=""):
    """All leaves of two pytrees, one by one, under their names."""
    got_leaves, want_leaves = (jax.tree_util.tree_leaves_with_path(tree) for tree in (got, want))
    for (path, a), (other, b) in zip(got_leaves, want_leaves, strict=True):
        assert path == other
        if a.dtype != jax.dtypes.float0:
            assert error(a, b) <= bound, f"{label}{jax.tree_util.keystr(path)} is off by {error(a, b):.1e} of its size"


def assert_zero(tree, label):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if leaf.dtype != jax.dtypes.float0:
            assert not np.asarray(leaf).any(), f"{label}{jax.tree_util.keystr(path)} should be exactly 0"


def draw(*shape, seed=0):
    return np.random.default_rng((seed, *shape)).standard_normal(shape).astype(np.float32)


def resets(*borders):
    """True at these steps of the first sequence and, one step later, of the second."""
    reset = np.zeros((BATCH, LENGTH), bool)
    for t in borders:
        reset[0, t] = reset[1, t + 1] = True
    return reset


NOWHERE = np.zeros((BATCH, LENGTH), bool)


class Compiled:
    """A layer with parameters, its initial state with random numbers in it, and its programs, each compiled once."""

    def __init__(self, name):
        self.config = MIXERS[name].config
        self.layer = layer = self.config.layer(DIM)
        init = jax.jit(jax.vmap(lambda key, i: layer.init(key, jnp.zeros((1, 1, DIM)), depth=Depth(i, 2))["params"]))
        # Two layers, each with the parameters that its depth starts from.
        self.layers = jax.device_get(init(jax.random.split(jax.random.key(0), 2), np.arange(2)))
        # Biases start at 0, where a forgotten one would not show.
        first = {name: value[0] for name, value in self.layers.items()}
        self.params = {name: value if value.any() else 0.3 * draw(*value.shape) for name, value in first.items()}
        self.initial = layer.init_state(BATCH)
        self.start = jax.tree.map(
            lambda leaf: jnp.ones_like(leaf) if leaf.dtype == bool else jnp.asarray(draw(*leaf.shape), leaf.dtype),
            self.initial,
        )
        self.apply = jax.jit(self.call)
        self.whole = self.differentiate(self.call)
        self.steps = self.differentiate(self.scan, states=True)

    def call(self, params, x, state=None, reset=None):
        return self.layer.apply({"params": params}, x, state, reset=reset)

    def scan(self, params, x, state, reset):
        """One call per token; returns all states, time leading."""

        def step(state, inputs):
            x, reset = inputs
            y, state = self.call(params, x[:, None], state, reset[:, None])
            return state, (y[:, 0], state)

        _, (y, states) = jax.lax.scan(step, state, (x.swapaxes(0, 1), reset.swapaxes(0, 1)))
        return y.swapaxes(0, 1), states

    @staticmethod
    def differentiate(function, states=False):
        """(y, state), gradients by (params, x, state) of sum(g * y) + weight * (all entries of the last state)."""

        def loss(params, x, state, reset, g, weight):
            y, after = function(params, x, state, reset)
            last = jax.tree.map(lambda leaf: leaf[-1], after) if states else after
            numbers = [leaf for leaf in jax.tree.leaves(last) if leaf.dtype != bool]
            waves = [(leaf * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape)).sum() for leaf in numbers]
            # The imaginary part counts too, and differently from the real one.
            return (g * y).sum() + weight * sum(wave.real + 2 * wave.imag for wave in waves), (y, after)

        transformed = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True, allow_int=True))

        def evaluate(params, x, state, reset=NOWHERE, g=None, weight=1.0):
            g = draw(*x.shape, seed=1) if g is None else g
            with ops_by_definition():
                (_, outputs), gradients = transformed(params, x, state, reset, g, weight)
            return outputs, gradients

        return evaluate


@functools.cache
def compiled(name):
    return Compiled(name)


@every_mixer
def test_equals_its_definition_step_by_step(name):
    m, x, reset = compiled(name), draw(BATCH, LENGTH, DIM), resets(3, 13, 29)
    for documents in (NOWHERE, reset):
        want = MIXERS[name].oracle(m.params, x, documents, m.config)
        assert error(m.apply(m.params, x, m.initial, documents)[0], want) <= FLOAT32
    # A reset at the first step forgets whatever state came in.
    reset[:, 0] = True
    assert error(m.apply(m.params, x, m.start, reset)[0], want) <= FLOAT32


@one_of_each
def test_the_initial_state_is_what_none_means_and_looks_like_every_later_state(name):
    m, x = compiled(name), draw(BATCH, LENGTH, DIM)
    # In bfloat16; test_number_formats.py has float32, with JAX's switches.
    layer = m.config.layer(DIM, jnp.bfloat16)
    want = jax.eval_shape(lambda: layer.init_state(BATCH))
    for state, length in ((None, 1), (layer.init_state(BATCH), 3)):
        inputs = jnp.zeros((BATCH, length, DIM), jnp.bfloat16)
        y, after = jax.eval_shape(layer.apply, {"params": m.params}, inputs, state)
        assert after == want, f"T={length}: {after} instead of {want}"
        assert y == jax.ShapeDtypeStruct(inputs.shape, jnp.bfloat16)
    for leaf in jax.tree.leaves(want):
        assert leaf.shape[0] == BATCH
    # No state, no reset and a call of one token each take ways of their own.
    want, _ = m.whole(m.params, x, m.initial)
    assert_close(m.apply(m.params, x), want)


@one_of_each
def test_token_by_token_is_the_whole_sequence_in_values_and_gradients(name):
    m, x, reset = compiled(name), draw(BATCH, LENGTH, DIM), resets(3, 29)
    reset[1] = False  # here the incoming state matters to the end
    (y, after), gradients = m.whole(m.params, x, m.start, reset)
    (steps, states), step_gradients = m.steps(m.params, x, m.start, reset)
    assert_close(steps, y, label="y")
    assert_close(jax.tree.map(lambda leaf: leaf[-1], states), after, label="state")
    # Gradients pass through forty calls: rounding adds up, still far below any wrong term.
    assert_close(step_gradients, gradients, 4 * FLOAT32, label="gradient")
    # Calls shorter than any convolution or window, but not of one token.
    short = m.apply(m.params, x[:, :2], m.start, reset[:, :2])
    assert_close(short, (y[:, :2], jax.tree.map(lambda leaf: leaf[1], states)), label="2 tokens")


@one_of_each
def test_a_call_that_starts_after_any_token_goes_on_as_if_there_had_been_no_border(name):
    m, x, reset = compiled(name), draw(BATCH, LENGTH, DIM), resets(3, 29)
    reset[1] = False
    g = draw(BATCH, LENGTH, DIM, seed=1)
    (y, _), gradients = m.whole(m.params, x, m.start, reset, g, 0.0)
    states = jax.device_get(m.steps(m.params, x, m.start, reset)[0][1])
    for t in range(1, LENGTH):
        # What is missing at the end is padding that y cannot see.
        rest, rest_reset, rest_g = (
            np.pad(v[:, t:], ((0, 0), (0, t), *((0, 0) for _ in v.shape[2:]))) for v in (x, reset, g)
        )
        state = jax.tree.map(lambda leaf, t=t: leaf[t - 1], states)
        (got, _), (_, dx, _) = jax.device_get(m.whole(m.params, rest, state, rest_reset, rest_g, 0.0))
        assert error(got[:, : LENGTH - t], y[:, t:]) <= FLOAT32, f"cut after {t} tokens"
        got, want = dx[:, : LENGTH - t], np.asarray(gradients[1])
        assert np.abs(got - want[:, t:]).max() <= FLOAT32 * np.abs(want).max(), f"gradient, cut after {t} tokens"


@one_of_each
def test_no_output_depends_on_a_later_input_or_another_document(name):
    m, x, border = compiled(name), draw(BATCH, LENGTH, DIM), 22
    reset = NOWHERE.copy()
    reset[:, border] = True
    direction = draw(BATCH, DIM, seed=2)
    for s in range(LENGTH):
        g = np.zeros_like(x)
        g[:, s] = direction
        _, (_, dx, dstate) = m.whole(m.params, x, m.start, reset, g, 0.0)
        first = border if s >= border else 0
        dx = np.asarray(dx)
        assert not dx[:, s + 1 :].any(), f"y at {s} depends on later inputs"
        assert not dx[:, :first].any(), f"y at {s} depends on inputs of the document before"
        assert dx[:, s].any(axis=1).all(), f"y at {s} does not depend on its own input"
        assert s == first or dx[:, s - 1].any(axis=1).all(), f"y at {s} does not depend on the input before"
        if s >= border:
            assert_zero(dstate, f"gradient of y at {s}, after a reset, by the incoming state")
    # The final state of the second document knows nothing of the first either.
    _, (_, dx, dstate) = m.whole(m.params, x, m.start, reset, np.zeros_like(x), 1.0)
    assert np.asarray(dx)[:, border:].any()
    y_after = functools.partial(m.whole, m.params, draw(BATCH, LENGTH, DIM, seed=3))
    (_, state), _ = m.whole(m.params, x, m.start, reset)
    (_, other), _ = m.whole(m.params, np.where(np.arange(LENGTH)[None, :, None] < border, -x, x), m.initial, reset)
    # To rounding: running sums of gates may end on another last digit.
    assert_close(y_after(state)[0][0], y_after(other)[0][0], 1e-6)


@one_of_each
def test_reset_documents_are_separate_sequences(name):
    m, x, size = compiled(name), draw(BATCH, LENGTH, DIM), 10
    following = draw(BATCH, LENGTH, DIM, seed=3)
    reset = NOWHERE.copy()
    reset[:, ::size] = True
    (y, state), _ = m.whole(m.params, x, m.start, reset)
    for start in range(0, LENGTH, size):
        # The document alone, and what comes after it to fill the call.
        alone = np.concatenate([x[:, start : start + size], following[:, : LENGTH - size]], axis=1)
        (want, _), _ = m.whole(m.params, alone, m.initial)
        assert_close(np.asarray(y)[:, start : start + size], want[:, :size], label=f"document at {start}")
    # `want` went on after the last document: as the state does, which knows of no other.
    (got, _), _ = m.whole(m.params, following, state)
    assert_close(got[:, : LENGTH - size], want[:, size:], label="what follows")


@one_of_each
def test_bfloat16_keeps_the_laws_to_its_rounding(name):
    m, x = compiled(name), draw(BATCH, LENGTH, DIM)
    layer = m.config.layer(DIM, jnp.bfloat16)
    half = jnp.asarray(x, jnp.bfloat16)

    @jax.jit
    def both(params, x, reset):
        call = functools.partial(layer.apply, {"params": params})

        def step(state, inputs):
            y, state = call(inputs[0][:, None], state, reset=inputs[1][:, None])
            return state, y[:, 0]

        last, y = jax.lax.scan(step, layer.init_state(BATCH), (x.swapaxes(0, 1), reset.swapaxes(0, 1)))
        return call(x, None, reset=reset), (y.swapaxes(0, 1), last)

    reset = resets(3, 29)
    whole, steps = both(m.params, half, reset)
    assert whole[0].dtype == steps[0].dtype == jnp.bfloat16
    assert_close(steps, whole, BFLOAT16)
    # As far from the truth as the rounding of inputs, weights and outputs, and no farther.
    want = MIXERS[name].oracle(m.params, x, reset, m.config)
    assert error(whole[0].astype(jnp.float32), want) <= 2 * BFLOAT16


@every_mixer
def test_parameters_are_as_many_as_the_docstring_says_and_float32(name):
    m = compiled(name)
    assert sum(value.size for value in m.params.values()) == MIXERS[name].parameters
    assert "Parameters of" in type(m.layer).__doc__
    assert {value.dtype for value in m.params.values()} == {jnp.dtype("float32")}
    inputs = jnp.zeros((1, 1, DIM), jnp.bfloat16)
    half = jax.eval_shape(m.config.layer(DIM, jnp.bfloat16).init, jax.random.key(0), inputs)
    assert {value.dtype for value in jax.tree.leaves(half)} == {jnp.dtype("float32")}


@one_of_each
def test_gradients_stay_finite_at_huge_and_at_zero_inputs(name):
    m, x = compiled(name), draw(BATCH, LENGTH, DIM)
    for scale in (1e4, 0.0):
        for state in (m.initial, m.start):
            outputs, gradients = m.whole(m.params, scale * x, state, resets(5))
            for path, leaf in jax.tree_util.tree_leaves_with_path((outputs, gradients)):
                if leaf.dtype != jax.dtypes.float0:
                    assert np.isfinite(leaf).all(), f"{jax.tree_util.keystr(path)} at inputs times {scale}"


class Layer(nn.Module):
    """A mixer as the body of a scan over depth."""

    config: mixers.MixerConfig

    @nn.compact
    def __call__(self, x, state, reset):
        return self.config.layer(DIM, name="mixer")(x, state, reset=reset)


# One for each op and for each way of its own through a layer: what is transformed is op and shell.
TRANSFORMED = ("RG-LRU", "Mamba", "S4", "LMU", "GLA", "mLSTM", "Gated DeltaNet", "DeltaProduct", "RWKV-7", "attention")


@pytest.mark.parametrize("name", TRANSFORMED)
def test_scan_over_depth_remat_and_vmap_change_nothing(name):
    m, reset = compiled(name), resets(5)
    xs, g = draw(2, BATCH, LENGTH, DIM), draw(BATCH, LENGTH, DIM, seed=1)
    stack = nn.scan(
        nn.remat(Layer, prevent_cse=False),
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast),
        length=2,
    )(m.config)
    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), m.start)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def gradients(params, x):
        def loss(params, x):
            y, after = stack.apply({"params": {"mixer": params}}, x, states, reset)
            return (g * y).sum(), (y, after)

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, x)

    with ops_by_definition():
        (_, outputs), (dparams, dxs) = gradients(m.layers, xs)
    layers = [{name: value[i] for name, value in m.layers.items()} for i in range(2)]
    for i, x in enumerate(xs):
        (hidden, first), _ = m.whole(layers[0], x, m.start, reset)
        (y, second), (dsecond, dhidden, _) = m.whole(layers[1], hidden, m.start, reset, g, 0.0)
        _, (dfirst, dx, _) = m.whole(layers[0], x, m.start, reset, dhidden, 0.0)
        got = jax.tree.map(lambda leaf, i=i: leaf[i], (outputs, dparams, dxs))
        after = jax.tree.map(lambda *leaves: np.stack(leaves), first, second)
        want = ((y, after), {name: np.stack([dfirst[name], dsecond[name]]) for name in dfirst}, dx)
        assert_close(got, want, 4 * FLOAT32)


@functools.cache
def first_steps(config):
    """For 1 and for DEPTH layers: root mean square of what they add to their input, norm of a random sum's gradient.

    Layers behind a norm and beside a residual connection, as in a model, with the parameters that they start from.
    """
    dim, shape = 32, (BATCH, 16, 32)
    layer, x, g = config.layer(dim), draw(*shape), draw(*shape, seed=1)

    def loss(params, x, depth):
        def block(x, layers):
            i, params = layers
            normed = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True))
            y, _ = layer.apply({"params": params}, normed)
            return x + jnp.where(i < depth, y, 0), None

        y, _ = jax.lax.scan(block, x, (jnp.arange(DEPTH), params))
        return (g * y).sum(), jnp.sqrt(jnp.square(y - x).mean())

    @jax.jit
    def measure(key, depth):
        init = jax.vmap(lambda key, i: layer.init(key, jnp.zeros((1, 1, dim)), depth=Depth(i, depth))["params"])
        params = init(jax.random.split(key, DEPTH), jnp.minimum(jnp.arange(DEPTH), depth - 1))
        gradients, output = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x, depth)
        return output, jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(gradients)))

    with ops_by_definition():
        return {depth: jax.device_get(measure(jax.random.key(0), depth)) for depth in (1, DEPTH)}


CONFIGS = sorted({type(case.config) for case in MIXERS.values()}, key=lambda config: config.__name__)


@pytest.mark.parametrize("config", CONFIGS)
def test_starts_about_as_loud_as_attention(config):
    ours, attention = first_steps(config()), first_steps(Attention())
    for depth in ours:
        for what, got, want in zip(("output", "gradient"), ours[depth], attention[depth], strict=True):
            # The quietest is RWKV-7, 0.08: the authors scale its norm by ((1 + l) / L)^0.7 in layer l of L.
            assert 1 / 16 <= got / want <= 16, f"{what} of {depth} layers {got:.3g}, of attention {want:.3g}"


@one_of_each
def test_the_layer_is_its_pure_function(name):
    m, x, reset = compiled(name), draw(BATCH, LENGTH, DIM), resets(5)
    function = type(m.layer).function
    assert function in (vars(mixers) | vars(projections)).values()
    pure = jax.make_jaxpr(lambda *v: function(v[0], v[1], v[2], m.config, reset=v[3]))(m.params, x, m.start, reset)
    layer = jax.make_jaxpr(m.call)(m.params, x, m.start, reset)
    assert str(pure) == str(layer)


def test_every_mixer_of_the_library_is_in_the_table():
    public = (vars(mixers) | vars(projections)).values()
    configs = {v for v in public if isinstance(v, type) and issubclass(v, mixers.MixerConfig | projections.ChannelMix)}
    # test_directions.py has the laws of the wrappers.
    wrappers = {mixers.MixerConfig, mixers.Bidirectional, mixers.Reversed}
    assert configs - wrappers == {type(case.config) for case in MIXERS.values()}


def test_lru_starts_on_its_ring_with_unit_gain():
    config = LRU(state_dim=4096, r_min=0.5, r_max=0.9, max_phase=1.0)
    params = jax.jit(config.layer(2).init)(jax.random.key(0), np.zeros((1, 1, 2), np.float32))["params"]
    modulus, phase = np.abs(mixers.eigenvalues(params)), np.exp(wide(params["theta_log"]))
    assert 0.5 <= modulus.min() < 0.51
    assert 0.89 < modulus.max() <= 0.9 + 1e-6
    assert 0 < phase.min() < 0.01
    assert 0.99 < phase.max() <= 1 + 1e-6
    # Uniform on the area: the squared modulus is uniform. 4096 draws of width 0.56 average to 0.0025.
    assert abs((modulus**2).mean() - (0.25 + 0.81) / 2) < 0.01
    np.testing.assert_allclose(np.exp(params["gamma_log"]), np.sqrt(1 - modulus.astype(float) ** 2), rtol=1e-5)


def test_lru_gain_keeps_its_digits_next_to_the_unit_circle():
    config = LRU(state_dim=64, r_min=1 - 2e-6, r_max=1 - 1e-6)
    params = jax.jit(config.layer(2).init)(jax.random.key(0), np.zeros((1, 1, 2), np.float32))["params"]
    want = np.sqrt(-np.expm1(-2 * np.exp(wide(params["nu_log"]))))
    np.testing.assert_allclose(np.exp(wide(params["gamma_log"])), want, rtol=1e-5)


def test_rglru_starts_with_decays_in_their_range():
    config = RGLRU(width=1024, num_heads=512, a_min=0.5, a_max=0.9)
    params = jax.jit(config.layer(2).init)(jax.random.key(0), np.zeros((1, 1, 2), np.float32))["params"]
    a = np.exp(-config.c * softplus(wide(params["decay"])))  # the gate fully open
    assert 0.5 - 1e-5 <= a.min() < 0.51
    assert 0.89 < a.max() <= 0.9 + 1e-5


def test_rglru_with_a_closed_recurrence_gate_still_takes_input_in():
    # log a is about -1e-8: a rounds to 1, and 1 - a^2 computed from a would shut the input off.
    m, x = compiled("RG-LRU"), draw(BATCH, LENGTH, DIM)
    params = {**m.params, "recurrence_gate_bias": np.full(DIM, -16.0, np.float32)}
    params["recurrence_gate_kernel"] = 0 * params["recurrence_gate_kernel"]
    (y, _), gradients = m.whole(params, x, m.initial)
    want = MIXERS["RG-LRU"].oracle(params, x, None, m.config)
    assert np.abs(want).max() > 1e-5
    assert error(y, want) <= FLOAT32
    assert error(m.apply(params, jnp.asarray(x, jnp.bfloat16))[0], want) <= 2 * BFLOAT16
    for value in jax.tree.leaves(gradients):
        assert np.isfinite(value).all()


def test_rglru_whose_gate_underflows_to_zero_has_finite_gradients():
    m, x = compiled("RG-LRU"), draw(BATCH, LENGTH, DIM)
    params = {**m.params, "recurrence_gate_bias": np.full(DIM, -200.0, np.float32)}
    (y, _), gradients = m.whole(params, x, m.initial)
    assert_zero(y, "y")
    for value in jax.tree.leaves(gradients):
        assert np.isfinite(value).all()


def test_attention_without_a_window_refuses_a_call_longer_than_its_cache_and_slides_over_longer_streams():
    config = Attention(num_heads=2, max_length=6)
    layer, x = config.layer(DIM), draw(BATCH, 12, DIM)
    params = jax.jit(layer.init)(jax.random.key(0), x[:, :6])
    with pytest.raises(ValueError, match="12 tokens in one call, but max_length is 6"):
        layer.apply(params, jnp.asarray(x))
    _, state = jax.jit(layer.apply)(params, x[:, :6])
    second, _ = jax.jit(layer.apply)(params, x[:, 6:], state)
    want, _ = jax.jit(Attention(num_heads=2, window=6).layer(DIM).apply)(params, x)
    assert error(second, want[:, 6:]) <= FLOAT32


def test_rwkv7_blends_values_with_those_of_the_first_layer():
    m, inputs = compiled("RWKV-7 with a value residual"), draw(BATCH, LENGTH, DIM)
    params, x = jax.tree.map(jnp.asarray, (m.params, inputs))
    width = params["in_v"].shape[1]
    mixed = inputs + m.params["mix_v"] * (np.pad(inputs, ((0, 0), (1, 0), (0, 0)))[:, :-1] - inputs)
    own = mixers.rwkv7_value(params, x, None)
    assert error(own, mixed @ m.params["in_v"]) <= FLOAT32
    blend = jax.jit(lambda first: mixers.rwkv7(params, x, None, m.config, first_value=first)[0])
    plain = m.apply(params, x)[0]
    assert error(blend(own), plain) <= FLOAT32  # v + (v - v) * anything
    # Any blend is that of values which are already blended, when the gate lets nothing else through.
    first = jnp.asarray(draw(BATCH, LENGTH, width, seed=4))
    gate = sigmoid(m.params["blend_bias"] + mixed @ m.params["in_blend"] @ m.params["blend_kernel"])
    opened = {**params, "blend_bias": jnp.full(width, 100.0)}
    blended = jnp.asarray(own + (first - own) * gate)
    want, _ = jax.jit(lambda first: mixers.rwkv7(opened, x, None, m.config, first_value=first))(blended)
    assert error(blend(first), want) <= FLOAT32
    assert error(blend(first), plain) > 0.01
    with pytest.raises(ValueError, match="value_residual=False"):
        mixers.rwkv7({}, x, None, RWKV7(), first_value=first)


def test_a_state_of_another_layer_or_another_batch_is_refused_before_anything_is_computed():
    layer, x = GLA(num_heads=2).layer(DIM), jnp.zeros((BATCH, 3, DIM))
    params = jax.eval_shape(layer.init, jax.random.key(0), x)
    apply = functools.partial(jax.eval_shape, layer.apply, params, x)
    with pytest.raises(
        ValueError, match=r"no state of GLA .*\n  state\['s'\]: \(3, 2, 2, 4\), should be \(2, 2, 2, 4\)"
    ):
        apply(layer.init_state(BATCH + 1))
    with pytest.raises(ValueError, match=r"state: \(2, 256\), should be absent\n  state\['s'\]: missing, should be"):
        apply(LRU().layer(DIM).init_state(BATCH))
