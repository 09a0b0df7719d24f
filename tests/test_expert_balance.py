"""Balancing the experts of a mixture: its loss, the update of the choice bias, and both in training."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oracles.common import sigmoid, wide
from recurrax.layers import LOSSES, UPDATES
from recurrax.models import LanguageModel, LanguageModelConfig
from recurrax.projections import MixtureOfExperts
from train import sharding
from train.config import TrainConfig
from train.data import DataConfig
from train.objectives import NextToken
from train.optimizers import AdamW
from train.sharding import MeshConfig
from train.state import abstract_state, init_state
from train.step import make_evaluation_step, make_train_step

DIM, TOKENS, EXPERTS = 6, (2, 7), 5
SWITCH = MixtureOfExperts(hidden=4, num_experts=EXPERTS, balance=0.5)
FREE = MixtureOfExperts(hidden=4, num_experts=EXPERTS, scores="sigmoid", choice_bias=True, balance=2.0, bias_rate=0.01)
VOCABULARY = 288


def build(config):
    layer, rng = config.layer(DIM), np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((*TOKENS, DIM)), jnp.float32)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
    params = {name: jnp.asarray(rng.standard_normal(v.shape), jnp.float32) for name, v in shapes.items()}
    return layer, params, x


def by_definition(params, x, config):
    """Return the balance loss and the step of the bias, token by token in float64; P is differentiable alone."""
    choices, probability = np.zeros(EXPERTS), np.zeros(EXPERTS)
    for token in wide(x).reshape(-1, DIM):
        logits = token @ wide(params["router_kernel"])
        score = sigmoid(logits) if config.scores == "sigmoid" else np.exp(logits) / np.exp(logits).sum()
        probability += score / score.sum() / np.prod(TOKENS)
        best = np.argsort(-(score + wide(params["choice_bias"]) if config.choice_bias else score))
        choices[best[: config.experts_per_token]] += 1
    share = choices / choices.sum()
    return EXPERTS * (share * probability).sum(), np.sign(1 / EXPERTS - share), share


@pytest.mark.parametrize("config", [SWITCH, FREE], ids=["softmax", "sigmoid"])
def test_balance_is_its_formula(config):
    layer, params, x = build(config)

    @jax.jit
    def run(params):
        def loss(params):
            _, found = layer.apply({"params": params}, x, mutable=[LOSSES, UPDATES])
            return found[LOSSES]["balance"], found.get(UPDATES)

        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, updates), gradients = run(params)
    want, step, _ = by_definition(params, x, config)
    assert loss == pytest.approx(config.balance * want, rel=1e-6)
    if config.bias_rate:
        np.testing.assert_array_equal(updates["choice_bias"], np.float32(config.bias_rate) * step)
    # The choice does not change along a small step, so the slope is that of P.
    direction = np.random.default_rng(1).standard_normal((DIM, EXPERTS))
    router = wide(params["router_kernel"])
    sides = [by_definition({**params, "router_kernel": router + h * direction}, x, config)[0] for h in (1e-6, -1e-6)]
    slope = config.balance * (sides[0] - sides[1]) / 2e-6
    assert (gradients["router_kernel"] * direction).sum() == pytest.approx(slope, rel=1e-4)
    assert not any(gradients[name].any() for name in gradients.keys() - {"router_kernel"})


def test_collections_are_filled_on_request_alone():
    layer, params, x = build(FREE)
    assert set(layer.init(jax.random.key(0), x)) == {"params"}
    _, found = layer.apply({"params": params}, x, mutable=[])
    assert found == {}
    plain, *_ = layer.apply({"params": params}, x)
    (asked, _), _ = layer.apply({"params": params}, x, mutable=[LOSSES, UPDATES])
    np.testing.assert_array_equal(plain, asked)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MixtureOfExperts(balance=-1.0), "balance must be at least 0, got -1.0"),
        (lambda: MixtureOfExperts(bias_rate=1e-3), "bias_rate 0.001 moves the choice bias; set choice_bias=True"),
    ],
)
def test_balance_refuses_what_does_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def run_config(mixture, accumulate=1, **mesh):
    return TrainConfig(
        model=LanguageModelConfig(vocab_size=VOCABULARY, dim=16, num_layers=3, projection=mixture),
        data=DataConfig(batch_size=4, sequence_length=16),
        optimizer=AdamW(accumulate=accumulate),
        mesh=MeshConfig(**{"data": 1, **mesh}),
    )


def batch():
    """Return a batch in which most tokens are equal, so that they choose the same experts."""
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (4, 17)).astype(np.int32)
    tokens[:, ::2] = 65
    return {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "reset": np.arange(64).reshape(4, 16) % 8 == 0,
        "weights": np.ones((4, 16), np.float32),
    }


@functools.cache
def trained(config, steps=1):
    """Return the metrics of each step, and the parameters after the last, by path."""
    mesh = sharding.make_mesh(config.mesh)
    abstract = abstract_state(config, mesh)
    step, state, rows = make_train_step(config, abstract, mesh), init_state(config, abstract), []
    for _ in range(steps):
        state, metrics = step(state, sharding.to_devices(batch(), sharding.batch_sharding(mesh)))
        rows.append(jax.device_get(metrics))
    return rows, jax.device_get(state.params)


def layers_of(params):
    (group,) = params["backbone"]["groups"].values()
    return group["projection"]


def test_training_reports_and_minimises_the_balance_loss():
    """The metric is the sum over layers; the loss of the data is reported without it."""
    config = run_config(dataclasses.replace(SWITCH, balance=1.0))
    rows, _ = trained(config, 12)
    plain, _ = trained(run_config(dataclasses.replace(SWITCH, balance=0.0)))
    assert rows[0]["loss"] == pytest.approx(plain[0]["loss"], rel=1e-6)
    assert "balance" not in plain[0]
    assert rows[0]["balance"] >= 3
    assert rows[-1]["balance"] < rows[0]["balance"]


def test_bias_update_evens_a_skewed_load():
    layer, params, _ = build(dataclasses.replace(FREE, experts_per_token=1))
    x = 1 + jnp.asarray(np.random.default_rng(3).standard_normal((*TOKENS, DIM)), jnp.float32)

    @jax.jit
    def step(params):
        _, found = layer.apply({"params": params}, x, mutable=[LOSSES, UPDATES])
        return {**params, "choice_bias": params["choice_bias"] + found[UPDATES]["choice_bias"]}

    before = by_definition(params, x, layer.config)[2].max()
    for _ in range(200):
        params = step(params)
    after = by_definition(params, x, layer.config)[2].max()
    assert before > 0.6
    assert after < 0.4


def test_training_moves_the_bias_by_its_rate():
    """One step moves it in every layer by the rate, or not at all, without the optimizer."""
    mixture = dataclasses.replace(FREE, balance=0.0, bias_rate=0.03, experts_per_token=1)
    _, params = trained(run_config(mixture))
    steps = layers_of(params)["choice_bias"] / 0.03
    assert steps.shape == (3, EXPERTS)
    np.testing.assert_allclose(steps, np.sign(steps), atol=1e-6)
    assert steps.any(axis=1).all()


@pytest.mark.parametrize("change", [{"data": 2, "time": 2}, {"fsdp": 2, "tensor": 2}, {"accumulate": 2}])
def test_balance_is_that_of_the_whole_batch(change):
    """On every mesh the shares are those of all rows and tokens; of slices of the batch, their mean."""
    mixture = dataclasses.replace(FREE, experts_per_token=1)
    want, params = trained(run_config(mixture))
    got, on_mesh = trained(run_config(mixture, **change))
    if "accumulate" not in change:
        assert got[0]["balance"] == pytest.approx(want[0]["balance"], rel=1e-5)
        np.testing.assert_allclose(layers_of(on_mesh)["choice_bias"], layers_of(params)["choice_bias"], atol=1e-7)
    assert got[0]["loss"] == pytest.approx(want[0]["loss"], rel=1e-5)
    assert got[0]["balance"] >= 2 * 3 * 0.99


def test_evaluation_leaves_balance_out():
    config = run_config(FREE)
    mesh = sharding.make_mesh(config.mesh)
    model = LanguageModel(config.model)
    state = jax.eval_shape(lambda: model.init_state(4))
    one = jax.tree.map(lambda _: jax.NamedSharding(mesh, jax.P()), state)
    step = make_evaluation_step(NextToken(), model, mesh, one)
    found = jax.eval_shape(step, abstract_state(config, mesh).params, state, jax.tree.map(jnp.asarray, batch()), 0)
    assert found[0].keys() == {"loss"}
