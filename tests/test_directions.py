"""Layers that read backwards, or both ways, against a loop over documents in float64, and where they are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oracles import vector
from recurrax.mixers import LRU, RGLRU, RWKV7, Bidirectional, Reversed
from recurrax.models import Classifier, ClassifierConfig, LanguageModelConfig
from recurrax.projections import GLU

DIM, LENGTH = 6, 9
INNER = RGLRU(num_heads=2)
BACKWARD, BOTH = Reversed(INNER), Bidirectional(INNER)
STARTS = {"one document": [()], "documents": [(3, 4), (0, 7)]}


def oracle(params, x, reset, config):
    """Return the outputs: each document is reversed by itself, given to the mixer's oracle and reversed again."""
    y = np.zeros(x.shape)
    for row, starts in enumerate(reset):
        edges = sorted({0, *np.flatnonzero(starts), LENGTH})
        for begin, end in zip(edges[:-1], edges[1:], strict=True):
            document = x[row : row + 1, begin:end]
            y[row, begin:end] = vector.rglru(params["backward"], document[:, ::-1], None, INNER)[0, ::-1]
            if config == BOTH:
                y[row, begin:end] += vector.rglru(params["forward"], document, None, INNER)[0]
    return y


def build(config, starts):
    rng = np.random.default_rng(0)
    x, reset = rng.standard_normal((2, LENGTH, DIM)), np.zeros((2, LENGTH), bool)
    for row, places in enumerate(starts):
        reset[row, list(places)] = True
    params = config.layer(DIM).init(jax.random.key(1), jnp.asarray(x, jnp.float32))["params"]
    return params, x.astype(np.float32), reset if reset.any() else None


@pytest.mark.parametrize("starts", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize("config", [BACKWARD, BOTH], ids=["reversed", "bidirectional"])
def test_direction_equals_its_formula(config, starts):
    """Values and the derivative by every argument, along a random direction, are those of the float64 loop."""
    params, x, reset = build(config, starts)
    documents = np.zeros((2, LENGTH), bool) if reset is None else reset
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), {"params": params, "x": x})
    want = oracle(wide["params"], wide["x"], documents, config)
    probe = np.random.default_rng(2).standard_normal(want.shape)

    @jax.jit
    def run(params, x):
        def loss(params, x):
            y, state = config.layer(DIM).apply({"params": params}, x, reset=reset)
            return (probe.astype(np.float32) * y).sum(), (y, state)

        return jax.grad(loss, (0, 1), has_aux=True)(params, x)

    gradients, (y, state) = run(params, x)
    assert state == {}
    np.testing.assert_allclose(y, want, atol=3e-6 * np.abs(want).max())
    found, tree = jax.tree.flatten({"params": gradients[0], "x": gradients[1]})
    leaves = jax.tree.leaves(wide)
    for i, leaf in enumerate(leaves):
        direction, sides = np.random.default_rng(i).standard_normal(leaf.shape), []
        for step in (1e-6, -1e-6):
            moved = tree.unflatten([*leaves[:i], leaf + step * direction, *leaves[i + 1 :]])
            sides.append((probe * oracle(moved["params"], moved["x"], documents, config)).sum())
        slope, size = (sides[0] - sides[1]) / 2e-6, np.linalg.norm(found[i])
        assert abs((np.asarray(found[i], np.float64) * direction).sum() - slope) <= 2e-5 * size + 3e-6, i


def test_direction_of_a_language_model_is_refused():
    with pytest.raises(ValueError, match="Reversed.* is not causal.*choose causal layers, or a Classifier"):
        LanguageModelConfig(pattern=(BACKWARD,))


def test_direction_serves_a_classifier():
    """Every output depends on every input, and a sequence cannot be continued."""
    model = Classifier(ClassifierConfig(DIM, 2, (BOTH,), num_classes=3, pooling="none"))
    x = np.random.default_rng(0).standard_normal((1, 4, DIM)).astype(np.float32)
    params = jax.jit(model.init)(jax.random.key(0), x)
    jacobian = jax.jit(jax.jacrev(lambda x: model.apply(params, x)[0][0, :, 0]))(x)[:, 0]
    assert (np.abs(jacobian).max(-1) > 0).all()
    with pytest.raises(ValueError, match="cannot continue a sequence"):
        model.apply(params, x, model.init_state(1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bidirectional(GLU()), "mixer must be a mixer config, such as RGLRU.*got GLU"),
        (lambda: Reversed(RWKV7(value_residual=True)), "uses a value residual"),
        (lambda: Reversed(LRU()).layer(DIM).apply({"params": {}}, jnp.zeros((1, 2, DIM)), jnp.zeros(1)), "state"),
    ],
)
def test_direction_that_cannot_work_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
