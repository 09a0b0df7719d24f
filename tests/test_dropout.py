"""Dropout and layer drop: absent without the rng stream, right in the mean, different by layer, the same on a mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from recurrax.mixers import LRU
from recurrax.models import LanguageModel, LanguageModelConfig, dropout
from recurrax.projections import MLP
from train import sharding
from train.sharding import MeshConfig

TOKENS = np.random.default_rng(0).integers(11, size=(4, 8)).astype(np.int32)
SMALL = functools.partial(
    LanguageModelConfig, dim=8, num_layers=4, pattern=(LRU(state_dim=4),), projection=MLP(), vocab_size=11
)
MODEL = LanguageModel(SMALL(dropout=0.3, layer_drop=0.5))


@functools.cache
def params():
    return jax.jit(MODEL.init)(jax.random.key(0), TOKENS)


@functools.cache
def program(config):
    """Return the jitted logits under a key, computed on this mesh."""
    mesh = sharding.make_mesh(config)

    def logits(params, tokens, key):
        with sharding.on(mesh):
            return MODEL.apply(params, tokens, rngs={"dropout": key})[0]

    whole = NamedSharding(mesh, PartitionSpec())
    return jax.jit(logits, in_shardings=(whole, sharding.batch_sharding(mesh), whole))


def test_dropout_is_off_without_its_stream():
    """The program of evaluation is that of a model without dropout, and so are the parameters."""
    plain = LanguageModel(SMALL())
    programs = [str(jax.make_jaxpr(model.apply)(params(), TOKENS)) for model in (MODEL, plain)]
    assert programs[0] == programs[1]
    assert jax.tree.structure(params()) == jax.tree.structure(jax.eval_shape(plain.init, jax.random.key(0), TOKENS))


def test_dropout_depends_on_its_key_alone():
    run = program(MeshConfig(data=1))
    first, again, other = (np.asarray(run(params(), TOKENS, jax.random.key(i))) for i in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    for mesh in (MeshConfig(data=2, tensor=2), MeshConfig(data=1, time=2)):
        found = program(mesh)(params(), TOKENS, jax.random.key(1))
        np.testing.assert_allclose(found, first, atol=2e-5 * np.abs(first).max())


def test_dropout_mask_differs_between_scanned_layers():
    """Of a stream that each layer only adds its masked ones to, the layers under the scan drop different entries."""
    seen = []

    def record(key, x, rate, shape):
        jax.debug.callback(lambda kept: seen.append(np.asarray(kept)), jax.random.bernoulli(key, 0.5, shape))
        return x

    model = LanguageModel(SMALL(dropout=0.5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recurrax.models.block.drop", record)
        jax.block_until_ready(model.apply(params(), TOKENS, rngs={"dropout": jax.random.key(0)}))
        jax.effects_barrier()
    assert len(seen) == 8  # a mixer and a projection in each of four layers
    assert len({mask.tobytes() for mask in seen}) == 8


def test_drop_keeps_the_mean_and_whole_sequences():
    key, x = jax.random.key(3), jnp.ones((4096, 2, 3))
    y = np.asarray(dropout.drop(key, x, 0.25, x.shape))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs(y.mean() - 1) < 5 * np.sqrt(0.25 / 0.75 / y.size)
    whole = np.asarray(dropout.drop(key, x, 0.25, (4096, 1, 1)))
    assert (whole == whole[:, :1, :1]).all()
    assert abs(whole.mean() - 1) < 5 * np.sqrt(0.25 / 0.75 / 4096)


def test_layer_drop_rises_linearly_with_depth():
    rates = [dropout.layer_drop_rate(0.3, dropout.Depth(i, 4)) for i in range(4)]
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3], rtol=1e-6)
    assert dropout.layer_drop_rate(0.3, dropout.Depth(0, 1)) == 0


@pytest.mark.parametrize("name", ["dropout", "layer_drop"])
def test_dropout_rate_out_of_range_is_refused(name):
    for value in (-0.1, 1.0):
        with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\), got {value}"):
            SMALL(**{name: value})
