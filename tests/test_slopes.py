"""The fixed decays of Lightning and TransNormerLLM: their formulas, and that layers use those of their depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrax import sites
from recurrax.layers import Depth
from recurrax.mixers import Lightning, TransNormerLLM
from recurrax.mixers.slopes import FORMULAS, slopes
from recurrax.models import LanguageModel, LanguageModelConfig
from recurrax.probes.attention import layer_attention
from recurrax.probes.layers import given

LAYERS = 4


def by_definition(heads, layer, formula):
    """Return the decays in float64."""
    h = np.arange(1, heads + 1)
    base = 2.0 ** (-8 * h / heads)
    if formula == "paper":
        return base * (1 - layer / LAYERS)
    if formula == "minimax":
        return base * (1 - layer / (LAYERS - 1 + 1e-5) + 1e-5)
    if heads == 6:  # ALiBi's: those of 4 heads, then the first and third of 8
        base = np.array([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3])
    return base * (1 - layer / (LAYERS - 1) + 1e-5)


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("heads", [4, 6])
def test_slopes_are_their_formula_in_every_layer(heads, formula):
    for layer in range(LAYERS):
        got = jax.jit(lambda index: slopes(heads, Depth(index, LAYERS), formula))(jnp.float32(layer))
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, by_definition(heads, layer, formula), rtol=1e-6)


@pytest.mark.parametrize("config", [Lightning(num_heads=4), TransNormerLLM(num_heads=4)])
def test_layer_decays_by_its_depth(config):
    layer, x = config.layer(8), jnp.ones((1, 3, 8))
    params = layer.init(jax.random.key(0), x)
    with sites.marks() as marks:
        layer.apply(params, x, depth=Depth(2, LAYERS))
    want = -np.broadcast_to(by_definition(4, 2, "paper"), (1, 3, 4))
    np.testing.assert_allclose(marks["log_decay"][0], want, rtol=1e-6)


def test_probes_run_a_layer_at_its_depth():
    """The marks of the second layer of a model have the decays of that layer."""
    config = LanguageModelConfig(vocab_size=11, dim=8, num_layers=2, pattern=(Lightning(num_heads=2),), projection=None)
    model, tokens = LanguageModel(config), np.arange(5)[None] % 11
    params = jax.jit(model.init)(jax.random.key(0), tokens)
    _, second = given(model, params, tokens)
    want = 2.0 ** (-8 * np.arange(1, 3) / 2) * (1 - 1 / 2)
    np.testing.assert_allclose(layer_attention(second)[1]["log_decay"][0], np.broadcast_to(-want, (1, 5, 2)), rtol=1e-6)


def test_unknown_formula_is_refused():
    with pytest.raises(ValueError, match=r"unknown slopes 'alibi'.*choose one of paper, minimax, transnormer"):
        Lightning(slopes="alibi")
