"""Trains one model on one task from several seeds at once, and scores it at every length."""

import collections
import concurrent.futures
import dataclasses
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eval.tasks import models
from eval.tasks.suite import Setting
from recurrax.mixers import MixerConfig
from recurrax.tasks import Example, Task
from train.config import OptimizerConfig
from train.state import make_optimizer

TEST_SEED = 2**31
"""Of the sequences of tests: no training has it."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """What training came to."""

    score: dict[int, list[float]]
    """By length and seed: the share of right answers or, where they are numbers, the mean squared error."""
    distance: dict[int, list[float]] | None
    """By length and seed: total variation distance to the true distribution, where a task has one."""
    loss: list[float]
    """By seed: mean training loss of the last steps."""
    parameters: int
    seconds: float
    """Of training and tests, compilation included."""


def measure(setting: Setting, pattern: tuple[MixerConfig, ...], seeds: tuple[int, ...]) -> Scores:
    """Everything is vmapped over the seeds: each has its own parameters and its own sequences.

    Raises:
      FloatingPointError: the loss of a seed was not finite.
    """
    start = time.monotonic()
    model = models.model_for(setting.task, pattern, setting.dim, setting.num_layers)
    optimizer = make_optimizer(
        OptimizerConfig(
            learning_rate=setting.learning_rate,
            warmup_steps=setting.steps // 10,
            decay_steps=setting.steps,
            final_fraction=0.02,
            weight_decay=0.01,
            beta2=0.98,
        )
    )
    first = setting.task.batch(0, 0, 1)

    def create(seed):
        params = model.init(jax.random.key(seed), first.inputs)["params"]
        return params, optimizer.init(params)

    def step(state, batch):
        params, opt_state = state
        value, gradients = jax.value_and_grad(lambda params: loss(model, params, batch))(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    state = jax.jit(jax.vmap(create))(np.array(seeds, np.uint32))
    train_step = jax.jit(jax.vmap(step), donate_argnums=0)
    losses = []
    for batch in batches(setting, seeds):
        state, value = train_step(state, batch)
        losses.append(value)
    last = np.mean(jax.device_get(losses[-max(len(losses) // 20, 1) :]), axis=0)
    if not np.isfinite(last).all():
        raise FloatingPointError(f"the loss of seeds {seeds} is {last.tolist()} at the end")
    found = {length: scores(model, state[0], setting, length) for length in setting.lengths}
    has_distance = first.distribution is not None
    return Scores(
        score={length: each["score"] for length, each in found.items()},
        distance={length: each["distance"] for length, each in found.items()} if has_distance else None,
        loss=last.tolist(),
        parameters=models.count(model, setting.task),
        seconds=time.monotonic() - start,
    )


def loss(model, params, batch: Example):
    """Mean over the answers that count: nats, or squared error."""
    outputs, _ = model.apply({"params": params}, batch.inputs)
    if batch.targets.dtype == jnp.float32:
        losses = jnp.square(outputs[..., 0] - batch.targets)
    else:
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, batch.targets)
    return (losses * batch.weights).sum() / batch.weights.sum()


def scores(model, params, setting: Setting, length: int) -> dict[str, list[float]]:
    """By seed, on `test_size` sequences of this length."""
    task = setting.task.held_out().at(length)

    answers = jax.jit(jax.vmap(lambda params, inputs: model.apply({"params": params}, inputs)[0], (0, None)))
    sums, count = collections.defaultdict(float), 0.0
    size = min(setting.batch_size, setting.test_size)
    for start in range(0, setting.test_size, size):
        batch = task.batch(TEST_SEED, start, size)
        for name, value in graded(np.asarray(answers(params, batch.inputs), np.float64), batch).items():
            sums[name] += value
        count += batch.weights.sum()
    return {name: (value / count).tolist() for name, value in sums.items()}


def graded(outputs: np.ndarray, batch: Example) -> dict[str, np.ndarray]:
    """Sums over the answers that count, by seed, of outputs (seeds, B, T, classes)."""
    if batch.targets.dtype == np.float32:
        points = np.square(outputs[..., 0] - batch.targets)
    elif batch.distribution is None:
        points = outputs.argmax(-1) == batch.targets
    else:
        points = np.take_along_axis(batch.distribution[None], outputs.argmax(-1)[..., None], -1)[..., 0] > 0
    sums = {"score": (points * batch.weights).sum((1, 2))}
    if batch.distribution is not None:
        likely = np.exp(outputs - outputs.max(-1, keepdims=True))
        likely /= likely.sum(-1, keepdims=True)
        apart = np.abs(likely - batch.distribution).sum(-1) / 2
        sums["distance"] = (apart * batch.weights).sum((1, 2))
    return sums


def batches(setting: Setting, seeds: tuple[int, ...]) -> Iterator[Example]:
    """Of all steps, with an axis of seeds in front; the next one is made while a step is computed."""
    with concurrent.futures.ThreadPoolExecutor(1) as background:
        coming = background.submit(_batch, setting.task, setting.batch_size, seeds, 0)
        for step in range(setting.steps):
            batch = coming.result()
            if step + 1 < setting.steps:
                coming = background.submit(_batch, setting.task, setting.batch_size, seeds, step + 1)
            yield batch


def _batch(task: Task, size: int, seeds: tuple[int, ...], step: int) -> Example:
    each = [task.batch(seed, step * size, size) for seed in seeds]
    # Distributions are for tests: training sees the one answer that was drawn.
    return Example(*(np.stack(parts) for parts in zip(*(one[:3] for one in each), strict=True)))
