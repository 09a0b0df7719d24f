"""The scan over depth and rematerialisation change no number, and programs do not grow with depth."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from recurrax.models import (
    Block,
    BlockConfig,
    LanguageModel,
    Regressor,
)
from recurrax.models.block import Norm
from support.jaxprs import count_equations, inner_jaxprs
from support.models import MODELS, SHALLOW, VECTORS, build
from support.numerics import assert_close

pytestmark = pytest.mark.usefixtures("unchecked_shapes")


def one_by_one(config, params, x, reset):
    """The blocks of a backbone, applied one after the other with their own slices of the scanned parameters."""
    width = len(config.pattern)
    for i in range(config.num_layers):
        mixer = config.pattern[i % width]
        name = f"{i % width}_{type(mixer).__name__.lower()}"
        if i < config.num_layers // width * width:
            own = jax.tree.map(lambda leaf, i=i: leaf[i // width], params["groups"][name])
        else:
            own = params["rest"][name]
        block = Block(BlockConfig(mixer, config.projection), config.dim, Norm("rms", 1e-6, "float32"))
        x, _, _ = block.apply({"params": own}, x, None, None, reset)
    return nn.RMSNorm().apply({"params": params["norm"]}, x)


def loss_and_gradients(config, function):
    model = Regressor(config)
    params = jax.jit(model.init)(jax.random.key(0), VECTORS)["params"]
    return jax.jit(jax.value_and_grad(functools.partial(function, config)))(params)


def scanned(config, params):
    return (Regressor(config).apply({"params": params}, VECTORS)[0] ** 2).sum()


@functools.cache
def plain():
    def blocks(config, params):
        x = VECTORS @ params["in_embedding"]["kernel"] + params["in_embedding"]["bias"][None, None]
        x = one_by_one(config, params["backbone"], x, None)
        return ((x @ params["out_head"]["kernel"] + params["out_head"]["bias"][None, None]) ** 2).sum()

    return loss_and_gradients(SHALLOW, blocks)


@pytest.mark.parametrize("remat", [None, "nothing_saveable"])
def test_scan_and_remat_change_no_number(remat):
    """Scan and remat leave values and gradients as they are."""
    got = loss_and_gradients(dataclasses.replace(SHALLOW, remat=remat), scanned)
    assert_close(got, plain(), 2e-5)


def test_remat_keeps_less_the_more_it_recomputes():
    def kept(remat):
        config = dataclasses.replace(SHALLOW, remat=remat)
        params = jax.eval_shape(Regressor(config).init, jax.random.key(0), VECTORS)["params"]
        pullback = jax.eval_shape(lambda p: jax.vjp(functools.partial(scanned, config), p)[1], params)
        return sum(leaf.size for leaf in jax.tree.leaves(pullback))

    assert kept("nothing_saveable") < kept("dots_saveable") < kept(None)
    assert kept("nothing_saveable") < kept(None) / 3


def test_remat_outside_the_scan_survives_cse():
    """Remat outside of the scan is protected from common subexpression elimination."""

    # Inside of a scan the loops keep forward and recomputation apart; outside XLA would merge the two again.
    def remats(jaxpr, in_scan=False):
        for e in jaxpr.eqns:
            if "prevent_cse" in e.params:
                yield in_scan, e.params["prevent_cse"]
            for inner in inner_jaxprs(e):
                yield from remats(inner, in_scan or e.primitive.name == "scan")

    config = dataclasses.replace(SHALLOW, remat="nothing_saveable")
    params = jax.eval_shape(Regressor(config).init, jax.random.key(0), VECTORS)["params"]
    found = list(remats(jax.make_jaxpr(functools.partial(scanned, config))(params).jaxpr))
    assert {in_scan for in_scan, _ in found} == {True, False}
    assert all(prevent_cse for in_scan, prevent_cse in found if not in_scan)


def test_program_size_does_not_depend_on_depth():
    def sizes(num_layers):
        model = LanguageModel(dataclasses.replace(MODELS["tied"], num_layers=num_layers))
        tokens = jax.ShapeDtypeStruct((2, 8), jnp.int32)
        params = jax.eval_shape(model.init, jax.random.key(0), tokens)

        def loss(params, tokens, state):
            return model.apply(params, tokens, state)[0].sum()

        traced = jax.jit(jax.value_and_grad(loss)).trace(params, tokens, jax.eval_shape(lambda: model.init_state(2)))
        # The jaxpr, and what XLA is given: a scan may still be unrolled on the way to it.
        return count_equations(traced.jaxpr.jaxpr), len(traced.lower().as_text().splitlines())

    assert sizes(12) == sizes(3)


def test_layers_of_one_scan_start_with_different_parameters():
    _, params, _ = build("tied")
    for path, leaf in jax.tree_util.tree_leaves_with_path(params["params"]["backbone"]["groups"]):
        name = jax.tree_util.keystr(path)
        assert leaf.shape[0] == 2, name
        constant = any(word in name for word in ("norm", "bias"))
        assert constant or (leaf[0] != leaf[1]).any(), f"{name} starts the same in both groups"
