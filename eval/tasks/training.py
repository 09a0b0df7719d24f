"""Trains several models at once that differ in the seed alone."""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
import optax

from recurrax.parameters import Parameter
from recurrax.tasks import Example, Task
from recurrax.types import Params
from train.optimizers import AdamW, Cosine

TEST_SEED = 2**31
"""Seed of the sequences of tests, which no training has."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """The results of training; every leaf of `params` has a leading axis of seeds."""

    params: Params
    loss: list[float]
    """Mean loss of the last twentieth of the steps, by seed."""
    roughness: list[float]
    """Standard deviation of the gradient's norm over its mean, after the first tenth of the steps, by seed."""


def train(
    init: Callable[[jax.Array], Params],
    loss: Callable[[Params, Example], jax.Array],
    task: Task,
    seeds: tuple[int, ...],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float = 0.0,
    declared: Mapping[str, Parameter] | None = None,
    lengths: tuple[int, ...] = (),
) -> Trained:
    """AdamW on sequences that never come twice (but where a data set ends), every seed with its own.

    `declared` says what the parameters are, by path; None: no weight decay. `lengths` is a curriculum: each is trained
    on for an equal part of the steps, instead of the task's own.

    Raises:
      FloatingPointError: the loss of a seed was not finite.
    """
    optimizer = AdamW(
        learning_rate=learning_rate,
        schedule=Cosine(warmup_steps=steps // 10, decay_steps=steps, final_fraction=0.02),
        weight_decay=weight_decay,
        beta2=0.98,
    ).build(declared)

    def create(seed):
        params = init(jax.random.key(seed))
        return params, optimizer.init(params)

    def step(state, batch):
        params, opt_state = state
        value, gradients = jax.value_and_grad(loss)(params, batch)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), (value, optax.tree.norm(gradients))

    state = jax.jit(jax.vmap(create))(np.array(seeds, np.uint32))
    train_step = jax.jit(jax.vmap(step), donate_argnums=0)
    seen = []
    for batch in batches(task, seeds, steps, batch_size, lengths):
        state, values = train_step(state, batch)
        seen.append(values)
    losses, norms = (np.array(each, np.float64) for each in zip(*jax.device_get(seen), strict=True))
    last = losses[-max(steps // 20, 1) :].mean(0)
    if not np.isfinite(last).all():
        raise FloatingPointError(f"the loss of seeds {seeds} is {last.tolist()} at the end")
    norms = norms[steps // 10 :]
    return Trained(state[0], last.tolist(), (norms.std(0) / norms.mean(0)).tolist())


def batches(
    task: Task, seeds: tuple[int, ...], steps: int, size: int, lengths: tuple[int, ...] = ()
) -> Iterator[Example]:
    """Yield the batches of all steps, with a leading axis of seeds; the next one is made while a step is computed."""
    parts = [task.at(length) for length in lengths] or [task]

    def batch(step):
        return _batch(parts[step * len(parts) // steps], size, seeds, step)

    with concurrent.futures.ThreadPoolExecutor(1) as background:
        coming = background.submit(batch, 0)
        for step in range(steps):
            now = coming.result()
            if step + 1 < steps:
                coming = background.submit(batch, step + 1)
            yield now


def _batch(task: Task, size: int, seeds: tuple[int, ...], step: int) -> Example:
    each = [task.batch(seed, step * size, size) for seed in seeds]
    # Distributions are for tests: training sees the one answer that was drawn.
    return Example(*(np.stack(parts) for parts in zip(*(one[:3] for one in each), strict=True)))
