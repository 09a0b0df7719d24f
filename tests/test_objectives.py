"""Objectives compute their formulas, refuse other models and data, and keep the promises of a run."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recurrax.mixers import GLA, LRU, Bidirectional
from recurrax.models import ClassifierConfig, LanguageModelConfig, RegressorConfig
from recurrax.tasks import Adding, SelectiveCopying, SequentialImages
from train import presets
from train.checkpoint import CheckpointConfig
from train.config import EvaluationConfig, LogConfig, TrainConfig
from train.data import DataConfig, TaskData, batch_at, open_data
from train.objectives import Classification, Masked, NextToken, Regression
from train.optimizers import AdamW
from train.plan import make_plan
from train.sharding import MeshConfig

SHAPE = (2, 5)
CLASSES = 7


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def nll(logits, targets, smoothing=0.0):
    logs = log_softmax(logits)
    uniform = np.full(logits.shape, 1 / logits.shape[-1])
    q = (1 - smoothing) * np.eye(logits.shape[-1])[targets] + smoothing * uniform
    return -(q * logs).sum(-1)


def huber(y, t):
    error = np.abs(y - t)
    return np.where(error <= 1, error**2 / 2, error - 0.5)


FORMULAS = {
    "next token": (NextToken(), lambda y, t: nll(y, t), {}),
    "smoothed, with z-loss": (
        NextToken(label_smoothing=0.2, z_loss=0.3),
        lambda y, t: nll(y, t, 0.2) + 0.3 * np.log(np.exp(y).sum(-1)) ** 2,
        {"cross_entropy": lambda y, t: nll(y, t)},
    ),
    "z-loss": (
        NextToken(z_loss=0.3),
        lambda y, t: nll(y, t) + 0.3 * np.log(np.exp(y).sum(-1)) ** 2,
        {"cross_entropy": lambda y, t: nll(y, t)},
    ),
    "classification": (Classification(), lambda y, t: nll(y, t), {"accuracy": lambda y, t: y.argmax(-1) == t}),
    "smoothed classification": (
        Classification(label_smoothing=0.1),
        lambda y, t: nll(y, t, 0.1),
        {"accuracy": lambda y, t: y.argmax(-1) == t},
    ),
    "squared error": (Regression(), lambda y, t: ((y - t) ** 2).mean(-1), {}),
    "absolute error": (
        Regression(error="absolute"),
        lambda y, t: np.abs(y - t).mean(-1),
        {"squared_error": lambda y, t: ((y - t) ** 2).mean(-1)},
    ),
    "Huber's error": (
        Regression(error="huber"),
        lambda y, t: huber(y, t).mean(-1),
        {"squared_error": lambda y, t: ((y - t) ** 2).mean(-1)},
    ),
}


class Given:
    """A model whose outputs are its parameters."""

    def apply(self, params, inputs, state, reset=None, rngs=None):
        return params["params"], None


# A language model has an output at every step.
POOLED = [name for name, (objective, *_) in FORMULAS.items() if not isinstance(objective, NextToken)]


@pytest.mark.parametrize(
    ("name", "pooled"), [*((name, False) for name in FORMULAS), *((name, True) for name in POOLED)]
)
def test_objective_sums_its_formula(name, pooled):
    """Sums over weighted targets, and gradients by central differences; a target of weight 0 may be anything."""
    objective, formula, others = FORMULAS[name]
    rng = np.random.default_rng(0)
    numbers = isinstance(objective, Regression)
    inner = 3 if numbers else CLASSES
    targets = rng.standard_normal((*SHAPE, inner)) if numbers else rng.integers(CLASSES, size=SHAPE)
    weights = np.array([[1, 0, 0.5, 2, 1], [0, 1, 1, 1, 0.5]])
    outputs = rng.standard_normal((SHAPE[0], inner) if pooled else (*SHAPE, inner))
    batch = {"inputs": jnp.zeros(SHAPE), "targets": jnp.asarray(targets), "weights": jnp.asarray(weights, jnp.float32)}
    t, w = (targets[:, -1], weights[:, -1]) if pooled else (targets, weights)

    def total(values):
        return np.sum(w * values)

    found = objective.loss(Given(), jnp.asarray(outputs, jnp.float32), batch)
    assert float(found.weight) == w.sum()
    assert float(found.total) == pytest.approx(total(formula(outputs, t)), rel=1e-5)
    assert {key: float(value) for key, value in found.metrics.items()} == pytest.approx(
        {key: total(each(outputs, t)) for key, each in others.items()}, rel=1e-5
    )

    gradient = jax.grad(lambda y: objective.loss(Given(), y, batch).total)(jnp.asarray(outputs, jnp.float32))
    wanted = np.zeros_like(outputs)
    for index in np.ndindex(outputs.shape):
        step = np.zeros_like(outputs)
        step[index] = 1e-6
        wanted[index] = (total(formula(outputs + step, t)) - total(formula(outputs - step, t))) / 2e-6
    np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-5)

    if not pooled:
        outputs[0, 1] = np.nan
        assert float(objective.loss(Given(), jnp.asarray(outputs, jnp.float32), batch).total) == float(found.total)


SIZES = {"dim": 16, "num_layers": 1, "projection": None}
COPY = SelectiveCopying(length=16, num_items=2, num_symbols=4)
BASE = TrainConfig(
    steps=4,
    objective=Classification(),
    model=ClassifierConfig(
        **SIZES, pattern=(LRU(state_dim=8),), pooling="none", vocab_size=COPY.vocab_size, num_classes=COPY.num_classes
    ),
    data=TaskData(task=COPY, batch_size=8, held_out=12),
    optimizer=AdamW(learning_rate=1e-2),
    evaluation=EvaluationConfig(every=2, batch_size=8),
    checkpoint=CheckpointConfig(every=2),
    log=LogConfig(every=1),
    mesh=MeshConfig(data=1),
)
REGRESSION = Adding(length=16)
CONFIGS = {
    "classes of steps": BASE,
    "classes of sequences": dataclasses.replace(
        BASE,
        objective=Classification(label_smoothing=0.1),
        model=ClassifierConfig(**SIZES, pattern=(Bidirectional(LRU(state_dim=8)),), pooling="mean", num_classes=10),
        data=TaskData(task=SequentialImages(), batch_size=8, held_out=12),
    ),
    "numbers": dataclasses.replace(
        BASE,
        objective=Regression(error="huber"),
        model=RegressorConfig(**SIZES, pattern=(LRU(state_dim=8),), pooling="none"),
        data=TaskData(task=REGRESSION, batch_size=8, held_out=12),
    ),
}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def masked(text):
    """Return the run of a classifier that reads text in both directions."""
    pattern = (Bidirectional(LRU(state_dim=8)),)
    model = ClassifierConfig(**SIZES, pattern=pattern, pooling="none", vocab_size=288, num_classes=288)
    data = DataConfig(path=str(text), sequence_length=32, batch_size=8)
    evaluation = EvaluationConfig(every=2, batch_size=8, max_batches=3)
    return dataclasses.replace(BASE, objective=Masked(rate=0.3), model=model, data=data, evaluation=evaluation)


def test_masked_hides_tokens_at_its_rates():
    """Of the chosen tokens a tenth is random, a tenth stays, and the rest is hidden; starts are never chosen."""
    objective, rng = Masked(rate=0.3, random=0.2, kept=0.1), np.random.default_rng(0)
    tokens = rng.integers(0, 256, (64, 512)).astype(np.int32)
    reset = rng.random(tokens.shape) < 0.05
    tokens[reset] = 256
    batch = {"inputs": tokens, "reset": reset}
    found = jax.device_get(objective.prepare(batch, jax.random.key(0)))
    chosen = found["weights"] == 1
    assert chosen[~reset].mean() == pytest.approx(0.3, abs=0.01)
    assert not chosen[reset].any()
    np.testing.assert_array_equal(found["targets"], tokens)
    np.testing.assert_array_equal(found["inputs"][~chosen], tokens[~chosen])
    hidden, same = found["inputs"][chosen] == 257, found["inputs"][chosen] == tokens[chosen]
    assert hidden.mean() == pytest.approx(0.7, abs=0.02)
    assert same.mean() == pytest.approx(0.1 + 0.2 / 256, abs=0.02)
    other = objective.prepare(batch, jax.random.key(1))
    assert not np.array_equal(other["weights"], found["weights"])


def validation_of(row):
    prefix = "validation_"
    return {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}


def test_plan_of_a_classifier():
    """A plan reads the shapes of the run's own batches."""
    config = CONFIGS["classes of sequences"]
    found = make_plan(dataclasses.replace(config, mesh=MeshConfig(data=2)))
    assert found.tokens == 8 * 64
    assert found.parameter_count == sum(np.size(leaf) for leaf in jax.tree.leaves(parameters_of(config)))


def parameters_of(config):
    from train.sharding import make_mesh
    from train.state import abstract_state

    return abstract_state(config, make_mesh(config.mesh)).params


@every_config
def test_batches_are_functions_of_seed_and_step(config):
    """Batches have the declared arrays; rows of a slice are those of the whole; seeds and steps differ."""
    rows, held_out, identity = open_data(config.data)
    whole = batch_at(rows, config.data, 0, 3)
    part = batch_at(rows, config.data, 0, 3, slice(2, 5))
    shape = (config.data.batch_size, config.data.sequence_length)
    assert whole.keys() == config.data.fields.keys()
    for name, (dtype, inner) in config.data.fields.items():
        assert (whole[name].dtype.name, whole[name].shape) == (dtype, (*shape, *inner))
        np.testing.assert_array_equal(part[name], whole[name][2:5])
    for other in (batch_at(rows, config.data, 1, 3), batch_at(rows, config.data, 0, 4)):
        assert not np.array_equal(other["inputs"], whole["inputs"])
    assert json.loads(json.dumps(identity)) == identity
    batches = list(held_out.batches(8))
    assert [batch["weights"].any(axis=1).sum() for batch in batches] == [8, 4]  # 12, filled up with weight 0


LANGUAGE = LanguageModelConfig(**SIZES, vocab_size=288, pattern=(GLA(num_heads=2),))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": NextToken()}, "objective NextToken trains a LanguageModelConfig, got a ClassifierConfig"),
        ({"objective": Regression()}, "objective Regression trains a RegressorConfig, got a ClassifierConfig"),
        ({"data": DataConfig()}, "objective Classification needs data with classes, got text"),
        ({"data": TaskData(task=REGRESSION)}, "needs data with classes, got data with numbers"),
        ({"data": TaskData(task=SequentialImages())}, r"model.vocab_size must be None for SequentialImages\(.*, got"),
        ({"data": TaskData(task=SelectiveCopying(num_symbols=30))}, r"model.vocab_size must be 32 for .*, got"),
        ({"objective": Masked()}, "objective Masked needs text, got data with classes"),
        (
            {"objective": Masked(), "data": DataConfig()},
            "needs a class for each token, and mask_token among them; got 6 classes",
        ),
        ({"model": LANGUAGE, "objective": NextToken()}, "needs text, got data with classes"),
    ],
)
def test_values_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(BASE, **changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NextToken(label_smoothing=1.0), r"objective.label_smoothing must be in \[0, 1\), got 1.0"),
        (lambda: NextToken(z_loss=-1.0), "z_loss must be at least 0, got -1.0"),
        (
            lambda: Regression(error="cubic"),
            "unknown objective.error 'cubic'.*; choose one of squared, absolute",
        ),
        (lambda: Masked(rate=0.0), "rate must be positive, got 0.0"),
        (lambda: Masked(random=0.6, kept=0.6), r"objective.random \+ kept must be at most 1, got 0.6 \+ 0.6"),
        (lambda: TaskData(held_out=0), "held_out must be positive, got 0"),
    ],
)
def test_bad_objectives_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_held_out_sequences_are_no_training_sequences():
    """No seed of training gives the held-out sequences, which are the same in every run."""
    test = TaskData(COPY, held_out=8).open()[1]
    (batch,) = test.batches(8)
    (again,) = test.batches(8)
    np.testing.assert_array_equal(batch["inputs"], again["inputs"])
    rows, _, _ = open_data(TaskData(task=COPY, batch_size=8))
    for seed in (0, 1, 2**32 - 1):
        assert not np.array_equal(batch_at(rows, BASE.data, seed, 0)["inputs"], batch["inputs"])


def test_presets_name_their_objective():
    assert presets.default().objective == NextToken()
    assert presets.digits().objective == Classification()


def test_held_out_data_have_no_regularization():
    assert NextToken(label_smoothing=0.2, z_loss=0.3).held_out() == NextToken()
    assert Classification(label_smoothing=0.1).held_out() == Classification()
