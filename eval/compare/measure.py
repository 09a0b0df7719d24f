"""Trains one model, and measures how fast it is once nothing else runs."""

import dataclasses
import math
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
from jax import lax

from eval.compare import models
from eval.run import open_run
from recurrax.models import LanguageModel
from train import loop, sharding
from train.config import TrainConfig
from train.data import open_data, train_batches
from train.metrics import read_metrics
from train.state import abstract_state, init_state
from train.step import make_train_step

DECODED = 256
"""Tokens of a timed call."""
STEPS = 12
"""Timed steps of training, after two that are not timed."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """The results of training a model."""

    name: str
    parameters: int
    state_bytes: int
    """Bytes of the state of one sequence."""
    bits_per_byte: float
    """Bits per byte of held-out text after the last step."""
    seconds: float
    """Seconds of training with compilation, evaluation and checkpoints."""


@dataclasses.dataclass(frozen=True)
class Result(Trained):
    """One row of the table."""

    training_tokens_per_second: float
    """Tokens per second of training, the median over some steps."""
    decode_tokens_per_second: float
    """Tokens per second of generation of one sequence."""


def trained(name: str, config: TrainConfig, folder: pathlib.Path) -> Trained:
    """Train in `folder` up to config.steps, from where an interrupted run there stands.

    Raises:
      FloatingPointError: the loss or the gradient was not finite.
      KeyboardInterrupt: a signal stopped the training; the run is saved.
    """
    spent, start = folder / "seconds", time.monotonic()
    before = float(spent.read_text()) if spent.exists() else 0.0
    outcome = loop.train(config, str(folder))
    seconds = before + time.monotonic() - start
    spent.write_text(str(seconds))
    if outcome.interrupted:
        raise KeyboardInterrupt
    return Trained(
        name=name,
        parameters=models.count(config.model),
        state_bytes=models.state_bytes(config.model),
        bits_per_byte=read_metrics(folder / "metrics.jsonl")[-1]["validation_loss"] / math.log(2),
        seconds=seconds,
    )


def timed(row: Trained, config: TrainConfig, folder: pathlib.Path) -> Result:
    """Return the row with the speeds of the model in `folder`."""
    return Result(
        **dataclasses.asdict(row),
        training_tokens_per_second=training_speed(config),
        decode_tokens_per_second=decode_speed(LanguageModel(config.model), open_run(str(folder)).params),
    )


def training_speed(config: TrainConfig) -> float:
    """Return tokens per second of the training step on the run's own batches, the median over some steps."""
    mesh = sharding.make_mesh(config.mesh)
    split = sharding.batch_sharding(mesh)
    abstract = abstract_state(config, mesh)
    step, state = make_train_step(config, abstract, mesh), init_state(config, abstract)
    rows, _, _ = open_data(config.data, lambda _: None)
    batches = train_batches(rows, config.data, config.seed, 0, sharding.local_rows(split, config.data.batch_size))
    seconds = []
    for _ in range(2 + STEPS):
        batch = sharding.to_devices(next(batches), split)
        start = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, batch))
        seconds.append(time.perf_counter() - start)
    batches.close()
    return config.data.batch_size * config.data.sequence_length / statistics.median(seconds[2:])


def decode_speed(model: LanguageModel, params, repeats: int = 5) -> float:
    """Return tokens per second of greedy generation of one sequence, the median over some calls."""

    @jax.jit
    def decode(token, state):
        def step(carry, _):
            token, state = carry
            logits, state = model.apply({"params": params}, token, state)
            return (jnp.argmax(logits, axis=-1).astype(token.dtype), state), None

        carry, _ = lax.scan(step, (token, state), None, length=DECODED)
        return carry

    carry = jax.block_until_ready(decode(jnp.zeros((1, 1), jnp.int32), model.init_state(1)))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        carry = jax.block_until_ready(decode(*carry))
        seconds.append(time.perf_counter() - start)
    return DECODED / statistics.median(seconds)
