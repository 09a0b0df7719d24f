"""Trains one model on one task from several seeds at once, and scores it at every length."""

import collections
import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eval.tasks import models
from eval.tasks.seeds import TEST_SEED, Trained, train
from eval.tasks.suite import Setting
from recurrax.mixers import MixerConfig
from recurrax.models import parameters
from recurrax.tasks import Example, Task


@dataclasses.dataclass(frozen=True)
class Scores:
    """The results of training from several seeds."""

    score: dict[int, list[float]]
    """Share of right answers by length and seed or, where answers are numbers, the mean squared error."""
    nats: dict[int, list[float]] | None
    """Mean of -log p of the answers by length and seed; None where answers are numbers."""
    distance: dict[int, list[float]] | None
    """Total variation distance to the true distribution by length and seed; None for tasks without one."""
    loss: list[float]
    """Mean training loss of the last steps by seed."""
    roughness: list[float]
    """Standard deviation of the gradient's norm over its mean, by seed."""
    parameters: int
    seconds: float
    """Seconds of training and tests, compilation included."""


def measure(setting: Setting, pattern: tuple[MixerConfig, ...], seeds: tuple[int, ...]) -> Scores:
    """Train and test a model from several seeds, vmapped: each has its own parameters and its own sequences.

    Raises:
      FloatingPointError: the loss of a seed was not finite.
    """
    start = time.monotonic()
    model = models.model_for(setting, pattern)
    trained = fit(setting, model, seeds)
    found = {length: scores(model, trained.params, setting, length) for length in setting.lengths}
    by_name = {
        name: {length: each[name] for length, each in found.items()} if name in found[setting.task.length] else None
        for name in ("score", "nats", "distance")
    }
    return Scores(
        **by_name,
        loss=trained.loss,
        roughness=trained.roughness,
        parameters=models.count(model, setting.task),
        seconds=time.monotonic() - start,
    )


def fit(setting: Setting, model, seeds: tuple[int, ...]) -> Trained:
    """Return the model trained as the setting says."""
    first = setting.task.batch(0, 0, 1)
    return train(
        lambda key: model.init(key, first.inputs)["params"],
        lambda params, batch: loss(model.apply({"params": params}, batch.inputs)[0], batch),
        setting.task,
        seeds,
        steps=setting.steps,
        batch_size=setting.batch_size,
        learning_rate=setting.learning_rate,
        weight_decay=setting.weight_decay,
        declared=parameters(model, input_dim=first.inputs.shape[2] if first.inputs.ndim == 3 else None),
        lengths=setting.curriculum,
    )


def loss(outputs, batch: Example):
    """Return sums over the answers that count: of nats or squared errors, and of weights."""
    if batch.targets.dtype == jnp.float32:
        losses = jnp.square(outputs[..., 0] - batch.targets)
    else:
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, batch.targets)
    return (losses * batch.weights).sum(), batch.weights.sum()


def scores(model, params, setting: Setting, length: int) -> dict[str, list[float]]:
    """Return each score by seed, on `test_size` sequences of this length."""
    answers = jax.jit(jax.vmap(lambda params, inputs: model.apply({"params": params}, inputs)[0], (0, None)))
    sums, count = collections.defaultdict(float), 0.0
    for batch in test_batches(setting.task.at(length), setting.test_size, setting.batch_size):
        for name, value in graded(np.asarray(answers(params, batch.inputs), np.float64), batch).items():
            sums[name] += value
        count += batch.weights.sum()
    return {name: (value / count).tolist() for name, value in sums.items()}


def test_batches(task: Task, count: int, size: int):
    """Yield the batches of a test, the same for all models."""
    size = min(size, count)
    return (task.held_out().batch(TEST_SEED, start, size) for start in range(0, count, size))


def graded(outputs: np.ndarray, batch: Example) -> dict[str, np.ndarray]:
    """Return the scores of outputs (seeds, B, T, classes), summed over the answers that count, by seed."""
    weights = batch.weights
    if batch.targets.dtype == np.float32:
        return {"score": (np.square(outputs[..., 0] - batch.targets) * weights).sum((1, 2))}
    logs = outputs - outputs.max(-1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(-1, keepdims=True))
    nats = -np.take_along_axis(logs, batch.targets[None, ..., None], -1)[..., 0]
    if batch.distribution is None:
        right = outputs.argmax(-1) == batch.targets
    else:
        right = np.take_along_axis(batch.distribution[None], outputs.argmax(-1)[..., None], -1)[..., 0] > 0
    sums = {"score": (right * weights).sum((1, 2)), "nats": (nats * weights).sum((1, 2))}
    if batch.distribution is not None:
        apart = np.abs(np.exp(logs) - batch.distribution).sum(-1) / 2
        sums["distance"] = (apart * weights).sum((1, 2))
    return sums
