"""Projections against their formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oracles import projections as oracles
from recurrax import projections
from recurrax.projections import ACTIVATIONS, GLU, MLP

DIM = 8
PROJECTIONS = {"mlp": (MLP, oracles.mlp), "glu": (GLU, oracles.glu)}
every_projection = pytest.mark.parametrize("name", PROJECTIONS)


def build(config):
    """A layer, parameters with no zeros in them, and inputs that reach both tails of the activation."""
    layer, rng = config.layer(DIM), np.random.default_rng(0)
    x = jnp.asarray(3 * rng.standard_normal((2, 5, DIM)), jnp.float32)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
    params = {name: jnp.asarray(rng.standard_normal(v.shape) * DIM**-0.5, v.dtype) for name, v in shapes.items()}
    return layer, params, x


def test_every_activation_has_an_oracle():
    assert set(ACTIVATIONS) == set(oracles.ACTIVATIONS)


@every_projection
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_equals_its_formula(name, activation):
    config, oracle = PROJECTIONS[name]
    config = config(activation=activation)
    layer, params, x = build(config)
    y, state = jax.jit(layer.apply)({"params": params}, x)
    assert state == {} == layer.init_state(2)
    want = oracle(params, x, config)
    # Sums of some 30 float32 products, each rounded at 6e-8.
    np.testing.assert_allclose(y, want, rtol=1e-5, atol=3e-6 * np.abs(want).max())
    pure = jax.make_jaxpr(lambda p, x: getattr(projections, name)(p, x, config))(params, x)
    assert str(pure) == str(jax.make_jaxpr(lambda p, x: layer.apply({"params": p}, x)[0])(params, x))


@every_projection
def test_projection_in_bfloat16_keeps_float32_parameters(name):
    """In bfloat16 a projection is the same up to rounding, and its parameters stay float32."""
    config, oracle = PROJECTIONS[name]
    layer, params, x = build(config())
    y, _ = jax.jit(layer.apply)({"params": params}, x.astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    want = oracle(params, x, config())
    # Five roundings at 2^-9: input, weights, hidden, activation, output.
    assert np.abs(y.astype(jnp.float32) - want).max() < 5 * 2**-8 * np.abs(want).max()
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x.astype(jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


@every_projection
def test_each_position_is_on_its_own(name):
    layer, params, x = build(PROJECTIONS[name][0]())
    jacobian = jax.jit(jax.jacrev(lambda x: layer.apply({"params": params}, x)[0].sum(-1)))(x)
    for i, s, j, t in np.ndindex(2, 5, 2, 5):
        assert jacobian[i, s, j, t].any() == ((i, s) == (j, t))


def test_parameters_are_as_many_as_the_docstrings_say():
    def count(config, dim):
        shapes = jax.eval_shape(config.layer(dim).init, jax.random.key(0), jnp.zeros((1, 1, dim)))
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    for dim in (8, 24, 100):
        for expansion in (0.01, 1.0, 8 / 3, 4.0):
            mlp, glu = MLP(expansion=expansion), GLU(expansion=expansion)
            e = mlp.width(dim)
            assert e % 8 == 0
            assert e == 8 or abs(e - expansion * dim) <= 4
            assert glu.width(dim) == e
            assert count(mlp, dim) == 2 * dim * e + e
            assert count(glu, dim) == 3 * dim * e
    assert (MLP().width(256), GLU().width(256)) == (1024, 768)


@every_projection
def test_projection_gradients_are_finite_at_extremes(name):
    """Gradients stay finite at huge inputs and at zero inputs."""
    for activation in ACTIVATIONS:
        layer, params, x = build(PROJECTIONS[name][0](activation=activation))
        gradient = jax.jit(jax.grad(lambda p, x, layer=layer: layer.apply({"params": p}, x)[0].sum(), argnums=(0, 1)))
        for scale in (1e4, 0.0):
            for leaf in jax.tree.leaves(gradient(params, scale * x)):
                assert np.isfinite(leaf).all(), (activation, scale)


@pytest.mark.parametrize("config", [MLP, GLU])
def test_bad_projection_configs_are_refused(config):
    """Bad configs are refused with the value and the choices."""
    with pytest.raises(ValueError, match=r"expansion must be positive, got -1.0"):
        config(expansion=-1.0)
    with pytest.raises(ValueError, match=r"expansion must be positive, got 0.0"):
        config(expansion=0.0)
    with pytest.raises(ValueError, match=r"unknown activation 'gelo' \(did you mean 'gelu'\?\); choose one of gelu, "):
        config(activation="gelo")
    with pytest.raises(ValueError, match=r"unknown activation 'xyzzy'; choose one of gelu, .*, identity"):
        config(activation="xyzzy")
