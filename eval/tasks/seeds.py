"""Trains several models at once that differ in the seed alone, with the step of `train`, vmapped over the seeds."""

import concurrent.futures
import dataclasses
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from recurrax.parameters import Parameter
from recurrax.tasks import Example, Task
from recurrax.types import Params
from train.optimizers import AdamW, Cosine
from train.state import first_state
from train.step import Sums, make_step

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
    loss: Callable[[Params, Example], tuple[jax.Array, jax.Array]],
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
    """Train with AdamW on sequences that never come twice, except of a data set; every seed has its own.

    `loss` returns sums over the answers that count: of the loss, and of their weights. `declared` says what the
    parameters are, by path; None: no weight decay. `lengths` is a curriculum: each is trained on for an equal part of
    the steps, instead of the task's own.

    Raises:
      FloatingPointError: the loss of a seed was not finite.
    """
    optimizer = AdamW(
        learning_rate=learning_rate,
        schedule=Cosine(warmup_steps=steps // 10, decay_steps=steps, final_fraction=0.02),
        weight_decay=weight_decay,
        beta2=0.98,
    )

    def create(seed):
        key = jax.random.key(seed)
        return first_state(init(key), optimizer, declared, key)

    def sums(params, frozen, batch, key):
        del frozen, key
        total, weight = loss(params, batch)
        return Sums(total, {"loss": total}, weight, {})

    state = jax.jit(jax.vmap(create))(np.array(seeds, np.uint32))
    train_step = jax.jit(jax.vmap(make_step(sums, optimizer, declared)), donate_argnums=0)
    seen = []
    for batch in batches(task, seeds, steps, batch_size, lengths):
        state, metrics = train_step(state, batch)
        seen.append((metrics["loss"], metrics["grad_norm"]))
    losses, norms = (np.array(each, np.float64) for each in zip(*jax.device_get(seen), strict=True))
    last = losses[-max(steps // 20, 1) :].mean(0)
    if not np.isfinite(last).all():
        raise FloatingPointError(f"the loss of seeds {seeds} is {last.tolist()} at the end")
    norms = norms[steps // 10 :]
    return Trained(state.params, last.tolist(), (norms.std(0) / norms.mean(0)).tolist())


def squared(errors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the sum of the squares and the number of errors, for `loss`."""
    return jnp.square(errors).sum(), jnp.float32(errors.size)


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
