"""The mixture of experts against its formula, token by token in float64, in values and in every gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oracles import projections as oracles
from recurrax.projections import MixtureOfExperts, mixture_of_experts

DIM = 6
GROUPED = MixtureOfExperts(
    hidden=5,
    num_experts=6,
    experts_per_token=3,
    scores="sigmoid",
    choice_bias=True,
    num_groups=3,
    groups_per_token=2,
    scale=2.5,
    shared_hidden=4,
)
CASES = {
    # Name -> config, and its parameters.
    "softmax": (MixtureOfExperts(hidden=5, num_experts=5), 5 * (3 * 6 * 5 + 6)),
    "softmax, not normalized": (
        MixtureOfExperts(hidden=3, num_experts=4, experts_per_token=3, normalize=False, activation="silu"),
        4 * (3 * 6 * 3 + 6),
    ),
    "shared expert with a gate": (
        MixtureOfExperts(hidden=7, num_experts=3, experts_per_token=1, shared_hidden=4, shared_gate=True),
        3 * (3 * 6 * 7 + 6) + 3 * 6 * 4 + 6,
    ),
    "sigmoid, groups, bias": (GROUPED, 6 * (3 * 6 * 5 + 6) + 6 + 3 * 6 * 4),
}


def build(config):
    layer, rng = config.layer(DIM), np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 7, DIM)), jnp.float32)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
    return {name: jnp.asarray(rng.standard_normal(v.shape), v.dtype) for name, v in shapes.items()}, x


@pytest.mark.parametrize("name", CASES)
def test_equals_its_formula_in_values_and_gradients(name):
    config, count = CASES[name]
    params, x = build(config)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    want = oracles.mixture_of_experts(params, x, config)
    probe = np.random.default_rng(1).standard_normal(want.shape).astype(np.float32)

    @jax.jit
    def run(params, x):
        def loss(params, x):
            y, _ = config.layer(DIM).apply({"params": params}, x)
            return (probe * y).sum(), y

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)

    (gradient, for_x), y = run(params, x)
    np.testing.assert_allclose(y, want, atol=3e-6 * np.abs(want).max())
    # The derivative along a random direction of one argument at a time: the choice of experts does not change.
    gradient = {**gradient, "x": for_x}
    wide = {name: np.asarray(value, np.float64) for name, value in {**params, "x": x}.items()}
    rng = np.random.default_rng(2)
    for argument in wide:
        direction = rng.standard_normal(wide[argument].shape)
        sides = []
        for step in (1e-6, -1e-6):
            moved = {**wide, argument: wide[argument] + step * direction}
            sides.append((probe * oracles.mixture_of_experts(moved, moved.pop("x"), config)).sum())
        slope = (sides[0] - sides[1]) / 2e-6
        found = (np.asarray(gradient[argument], np.float64) * direction).sum()
        size = np.sqrt((np.asarray(gradient[argument], np.float64) ** 2).sum())
        assert abs(found - slope) <= 1e-5 * size + 3e-6, argument


def test_mixture_is_positionwise_and_bfloat16_is_near():
    """Tokens do not see each other, and bfloat16 is near float32."""
    config, _ = CASES["softmax"]
    params, x = build(config)
    apply = jax.jit(lambda p, x: mixture_of_experts(p, x, config))
    y = apply(params, x)
    order = np.random.default_rng(3).permutation(7)
    np.testing.assert_allclose(apply(params, x[:, order]), y[:, order], atol=1e-5)
    half = apply(params, x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    want = oracles.mixture_of_experts(params, np.asarray(x.astype(jnp.bfloat16), np.float64), config)
    assert np.abs(np.asarray(half, np.float64) - want).max() < 5 * 2**-8 * np.abs(want).max()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_experts": 0}, "num_experts must be positive, got 0"),
        ({"experts_per_token": 9}, "experts_per_token 9 is above the 8 experts of 1 groups of 8"),
        ({"num_groups": 3}, "num_experts 8 is not divisible by num_groups 3"),
        ({"num_groups": 8}, "8 groups of 8 experts: a group needs two"),
        ({"num_groups": 2, "groups_per_token": 3}, "groups_per_token 3 is above num_groups 2"),
        ({"scores": "softmin"}, r"unknown scores 'softmin' \(did you mean 'softmax'\?\)"),
        ({"shared_gate": True}, "shared_gate needs a shared expert; set shared_hidden"),
        ({"hidden": 0}, "hidden must be positive, got 0"),
    ],
)
def test_configs_that_cannot_work_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        MixtureOfExperts(**fields)
