"""Single mixers: how their recurrences start, at the edges of their gates, and what one of them alone can do."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_cases import DIM, LENGTH, MIXERS
from oracles.common import sigmoid, softplus, wide
from recurrax import mixers
from recurrax.mixers import LRU, RGLRU, RWKV7, Attention
from support.layers import BATCH, BFLOAT16, FLOAT32, compiled
from support.numerics import draw, largest_error


def test_lru_starts_on_its_ring():
    """Moduli and phases fill their ranges uniformly in area, and every state has unit gain."""
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


def test_lru_gain_is_exact_near_one():
    """Next to the unit circle the gain sqrt(1 - |lambda|^2) is exact to rounding."""
    config = LRU(state_dim=64, r_min=1 - 2e-6, r_max=1 - 1e-6)
    params = jax.jit(config.layer(2).init)(jax.random.key(0), np.zeros((1, 1, 2), np.float32))["params"]
    want = np.sqrt(-np.expm1(-2 * np.exp(wide(params["nu_log"]))))
    np.testing.assert_allclose(np.exp(wide(params["gamma_log"])), want, rtol=1e-5)


def test_rglru_starts_within_its_range():
    """With the gate fully open the decay factors fill [a_min, a_max]."""
    config = RGLRU(width=1024, num_heads=512, a_min=0.5, a_max=0.9)
    params = jax.jit(config.layer(2).init)(jax.random.key(0), np.zeros((1, 1, 2), np.float32))["params"]
    a = np.exp(-config.c * softplus(wide(params["decay"])))  # the gate fully open
    assert 0.5 - 1e-5 <= a.min() < 0.51
    assert 0.89 < a.max() <= 0.9 + 1e-5


def test_rglru_closed_gate_takes_input():
    """At log a near -1e-8 a rounds to 1, and 1 - a^2 computed from a would shut the input off."""
    m, x = compiled("RG-LRU"), draw(BATCH, LENGTH, DIM)
    params = {**m.params, "recurrence_gate_bias": np.full(DIM, -16.0, np.float32)}
    params["recurrence_gate_kernel"] = 0 * params["recurrence_gate_kernel"]
    (y, _), gradients = m.whole(params, x, m.initial)
    want = MIXERS["RG-LRU"].oracle(params, x, None, m.config)
    assert np.abs(want).max() > 1e-5
    assert largest_error(y, want) <= FLOAT32
    assert largest_error(jax.jit(m.call)(params, jnp.asarray(x, jnp.bfloat16))[0], want) <= 2 * BFLOAT16
    chex.assert_tree_all_finite(gradients)


def test_rglru_underflowing_gate_has_finite_gradients():
    """A recurrence gate that underflows to 0 gives outputs of 0 and finite gradients."""
    m, x = compiled("RG-LRU"), draw(BATCH, LENGTH, DIM)
    params = {**m.params, "recurrence_gate_bias": np.full(DIM, -200.0, np.float32)}
    (y, _), gradients = m.whole(params, x, m.initial)
    assert not np.asarray(y).any()
    chex.assert_tree_all_finite(gradients)


def test_attention_cache_bounds_calls_not_streams():
    """A call longer than max_length is refused; over a longer stream the cache is a window."""
    config = Attention(num_heads=2, max_length=6)
    layer, x = config.layer(DIM), draw(BATCH, 12, DIM)
    params = jax.jit(layer.init)(jax.random.key(0), x[:, :6])
    with pytest.raises(ValueError, match="12 tokens in one call, but max_length is 6"):
        layer.apply(params, jnp.asarray(x))
    _, state = jax.jit(layer.apply)(params, x[:, :6])
    second, _ = jax.jit(layer.apply)(params, x[:, 6:], state)
    want, _ = jax.jit(Attention(num_heads=2, window=6).layer(DIM).apply)(params, x)
    assert largest_error(second, want[:, 6:]) <= FLOAT32


def test_rwkv7_blends_its_values_with_the_first():
    """The value residual moves the values towards those of the first layer by a gate."""
    m, inputs = compiled("RWKV-7 with a value residual"), draw(BATCH, LENGTH, DIM)
    params, x = jax.tree.map(jnp.asarray, (m.params, inputs))
    width = params["in_v"].shape[1]
    mixed = inputs + m.params["mix_v"] * (np.pad(inputs, ((0, 0), (1, 0), (0, 0)))[:, :-1] - inputs)
    own = mixers.rwkv7_value(params, x, None)
    assert largest_error(own, mixed @ m.params["in_v"]) <= FLOAT32
    blend = jax.jit(lambda first: mixers.rwkv7(params, x, None, m.config, first_value=first)[0])
    plain = jax.jit(m.call)(params, x)[0]
    assert largest_error(blend(own), plain) <= FLOAT32  # v + (v - v) * anything
    # Any blend is that of values which are already blended, when the gate lets nothing else through.
    first = jnp.asarray(draw(BATCH, LENGTH, width, seed=4))
    gate = sigmoid(m.params["blend_bias"] + mixed @ m.params["in_blend"] @ m.params["blend_kernel"])
    opened = {**params, "blend_bias": jnp.full(width, 100.0)}
    blended = jnp.asarray(own + (first - own) * gate)
    want, _ = jax.jit(lambda first: mixers.rwkv7(opened, x, None, m.config, first_value=first))(blended)
    assert largest_error(blend(first), want) <= FLOAT32
    assert largest_error(blend(first), plain) > 0.01
    with pytest.raises(ValueError, match="value_residual=False"):
        mixers.rwkv7({}, x, None, RWKV7(), first_value=first)
